"""Turn a model of Tevatron v1 or of the original DPR into a run folder.

    python scripts/import_model.py TEVATRON_FOLDER RUN [--passage-max-length 156] [--separator " "]
    python scripts/import_model.py DPR_CHECKPOINT.cp RUN [--base bert-base-uncased]
    python scripts/import_model.py QUESTION_ENCODER CONTEXT_ENCODER RUN

Writes RUN/model. Tevatron's folder does not tell lengths and separator: give those of its training if they differ from
32, 156 and " ". A model of the original DPR has 256 tokens on both sides and encodes title and text as a pair. Its
checkpoint needs the base model for config and tokenizer: --base, or else the one that the checkpoint names. Its
encoders are folders or hub names such as facebook/dpr-question_encoder-single-nq-base and
facebook/dpr-ctx_encoder-single-nq-base. Folders of sentence-transformers and plain Hugging Face models need no import.
For embeddings, see import_embeddings.py.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # do not report that the pooler is left out
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from dpr_lightning.errors import report_user_errors
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.run_dir import RunDir

_SETTINGS = ("query_max_length", "passage_max_length", "separator")


def main() -> None:
    """Import what the command line names and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a folder, a checkpoint, or two encoders")
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("--base", metavar="MODEL", help="base model of a DPR checkpoint: a folder or a hub name")
    parser.add_argument("--query-max-length", type=int)
    parser.add_argument("--passage-max-length", type=int)
    parser.add_argument("--separator", help='text between title and text, or "pair"')
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    with report_user_errors():
        model = RunDir(args.run_dir).model
        refuse_overwrite(model, args.overwrite, remedy="Give --overwrite, or another RUN")
        from dpr_lightning.interop.models import load_foreign
        from dpr_lightning.model.card import Origin
        from dpr_lightning.model.export import save_bi_encoder

        given = {name: value for name in _SETTINGS if (value := getattr(args, name)) is not None}
        bi_encoder = load_foreign(args.sources, base=args.base, **given)
        save_bi_encoder(bi_encoder, model, origin=Origin(f"Imported from {' and '.join(args.sources)}."))
        settings = bi_encoder.settings
        lengths = f"{settings.query_max_length} and {settings.passage_max_length} tokens"
        print(f"{model}: {bi_encoder.passage.dim} dimensions, tied: {settings.tied}, {lengths}")


if __name__ == "__main__":
    main()
