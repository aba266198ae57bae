"""Write a run's embeddings and ids for other programs.

    python scripts/export_embeddings.py RUN --to parquet|npy|faiss [--out FILE]
    python scripts/export_embeddings.py RUN --to parquet|npy|faiss --side query [--split test] [--out FILE]

Writes RUN/export/passage.parquet, .npy or .faiss (an exact inner product index); beside .npy and .faiss, the id of each
row is a line of passage.txt. Memory use does not grow with the corpus. docs/embeddings.md shows how to read the files.
"""

import argparse
from pathlib import Path

from dpr_lightning.errors import report_user_errors
from dpr_lightning.interop.embedding_export import ENDINGS, export_embeddings
from dpr_lightning.run_dir import RunDir


def main() -> None:
    """Read the command line, export and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("--to", required=True, choices=list(ENDINGS))
    parser.add_argument("--side", default="passage", choices=["passage", "query"])
    parser.add_argument("--split", default="test", help="split of the queries (test)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file to write")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    with report_user_errors():
        form = {"to": args.to, "side": args.side, "split": args.split, "out": args.out, "overwrite": args.overwrite}
        print(export_embeddings(RunDir(args.run_dir), **form))


if __name__ == "__main__":
    main()
