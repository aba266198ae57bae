"""Import embeddings of another program into a run folder that search.py accepts.

    python scripts/import_embeddings.py RUN FILE... [--model NAME] [--data FILE...] [--num-shards 20]
    python scripts/import_embeddings.py RUN FILE... --side query [--split test] [--model NAME] [--data FILE...]

FILE is `X.npy` with the ids in `X.txt` (one per line), a Parquet file with the columns `id` and `embedding`, or a
pickle of Tevatron. --model identifies the model that made them: any name, or a path, whose files are hashed. It must be
the same for passages and queries; the default is RUN/model. --data is the corpus or the queries that were encoded: the
files must then have an embedding of every row, in any order. ask.py needs --data, search.py does not.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # do not report that the pooler is left out

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.interop.embedding_import import import_embeddings, name_fingerprint
from dpr_lightning.run_dir import RunDir


def fingerprint_of(run: RunDir, name: str | None) -> str:
    """Return the fingerprint of a model that is given by name, or else of the run's model."""
    if name is not None:
        return name_fingerprint(name)
    if not run.model.exists():
        raise UserError(f"--model: {run.model} does not exist. Give a name of the model that made the embeddings.")
    from dpr_lightning.model.bi_encoder import load_bi_encoder

    return load_bi_encoder(run.model).fingerprint()


def main() -> None:
    """Import what the command line names and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--model", metavar="NAME", help="the model that made the embeddings (RUN/model)")
    parser.add_argument("--data", nargs="+", metavar="FILE", help="the corpus or the queries that were encoded")
    parser.add_argument("--side", default="passage", choices=["passage", "query"])
    parser.add_argument("--split", default="test", help="name of the query embeddings (test)")
    parser.add_argument("--num-shards", type=int, default=20, help="number of files for the passage embeddings (20)")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    with report_user_errors():
        run = RunDir(args.run_dir)
        fingerprint = fingerprint_of(run, args.model)
        source = None
        if args.data:
            source = (open_queries if args.side == "query" else open_corpus)(args.data, name="--data")
        line = import_embeddings(
            run,
            args.files,
            side=args.side,
            split=args.split,
            num_shards=args.num_shards,
            model_fingerprint=fingerprint,
            source=source,
            overwrite=args.overwrite,
        )
        print(line)


if __name__ == "__main__":
    main()
