"""Import what Tevatron v1 wrote into a run folder: the model, and embeddings with --embeddings.

    python scripts/import_tevatron.py MODEL RUN [--query-max-length 32] [--passage-max-length 156] [--separator " "]
    python scripts/import_tevatron.py MODEL RUN --embeddings PICKLE... --data FILE... [--side query --split test]

Together, the pickles must have an embedding of every row of --data (the corpus or the queries). Tevatron's folder does
not contain lengths and separator: give those of its training.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no warning about the unused pooler
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.embeddings.file import Identity
from dpr_lightning.embeddings.shards import shard_rows
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.interop.tevatron_embeddings import gather_rows
from dpr_lightning.interop.tevatron_model import load_tevatron
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.model.settings import Settings
from dpr_lightning.run_dir import RunDir

_CHUNK = 16_384


def import_embeddings(args: argparse.Namespace, fingerprint: str) -> str:
    """Write the embeddings in the order of the data and return a line about them."""
    if not args.data:
        raise UserError("--data: give the corpus that was encoded, or with --side query the queries.")
    run, is_query = RunDir(args.run_dir), args.side == "query"
    source = (open_queries if is_query else open_corpus)(args.data, name="--data")
    ids, count = list(source.rows["query_id" if is_query else "docid"]), 1 if is_query else args.num_shards
    with tempfile.TemporaryDirectory(dir=args.run_dir) as scratch:
        array = gather_rows(args.embeddings, ids, Path(scratch) / "rows")
        form = {"dim": array.shape[1], "dtype": array.dtype.name, "overwrite": args.overwrite}
        for shard in range(count):
            rows = shard_rows(shard, count, len(ids))
            identity = Identity(
                side=args.side,
                shard=shard,
                num_shards=count,
                first_row=rows.start,
                rows=len(rows),
                precision="tevatron",
                tokens_per_batch=0,
                model_fingerprint=fingerprint,
                data_fingerprint=source.fingerprint,
            )
            path = run.query_embeddings(args.split) if is_query else run.passage_shard(shard, count)
            with EmbeddingWriter(path, identity, ids[rows.start : rows.stop], chunk_size=_CHUNK, **form) as writer:
                for first in range(rows.start + writer.done, rows.stop, _CHUNK):
                    writer.append(array[first : min(first + _CHUNK, rows.stop)])
                writer.finish()
    return f"{path.parent}: {len(ids):,} embeddings in {count} files"


def main() -> None:
    """Import what the command line names and print a line for each thing written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="Tevatron's output folder")
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("--query-max-length", type=int, default=Settings.query_max_length)
    parser.add_argument("--passage-max-length", type=int, default=Settings.passage_max_length)
    parser.add_argument("--separator", default=Settings.separator, help="text between title and text")
    parser.add_argument("--embeddings", type=Path, nargs="+", metavar="PICKLE")
    parser.add_argument("--data", nargs="+", metavar="FILE")
    parser.add_argument("--side", default="passage", choices=["passage", "query"])
    parser.add_argument("--split", default="test", help="name of the query embeddings")
    parser.add_argument("--num-shards", type=int, default=20, help="number of files for the passage embeddings (20)")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    with report_user_errors():
        if args.model.is_file():
            raise UserError(
                f"{args.model} is a file. Give the model's folder; embedding pickles, which might run code when read, "
                "are read only after --embeddings, by a reader that accepts nothing but arrays and lists of ids."
            )
        keys = ("query_max_length", "passage_max_length", "separator")
        settings = Settings(**{key: getattr(args, key) for key in keys})
        bi_encoder = load_tevatron(args.model, settings=settings)
        model, fingerprint = args.run_dir / "model", bi_encoder.fingerprint()
        if not (args.embeddings and model.exists() and load_bi_encoder(model).fingerprint() == fingerprint):
            refuse_overwrite(model, args.overwrite, remedy="Give --overwrite, or another RUN")
            save_bi_encoder(bi_encoder, model)
            print(f"{model}: {bi_encoder.passage.dim} dimensions, tied: {bi_encoder.settings.tied}")
        if args.embeddings:
            print(import_embeddings(args, fingerprint))


if __name__ == "__main__":
    main()
