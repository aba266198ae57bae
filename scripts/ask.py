"""Ask a run a question and show the best passages.

    python scripts/ask.py RUN "who wrote the origin of species" --corpus FILE... [--depth 5] [--method NAME]
        [--index FACTORY]

RUN is a run folder with `model/` and `embeddings/passage/`; FILE is the corpus that was encoded.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no warning about the unused pooler
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpr_lightning.errors import report_user_errors
from dpr_lightning.run_dir import METHODS


def main() -> None:
    """Read the command line, search and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("question")
    parser.add_argument("--corpus", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--depth", type=int, default=5, help="number of passages to show (default: 5)")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="model folder (default: RUN/model)")
    parser.add_argument("--index", metavar="FACTORY", help="use this index of the run, e.g. HNSW32,Flat")
    parser.add_argument("--method", choices=METHODS, help="how to search (default: exact, or index with --index)")
    args = parser.parse_args()
    with report_user_errors():
        from dpr_lightning.searcher import Searcher

        options = {"model_dir": args.model, "index": args.index, "method": args.method}
        searcher = Searcher(args.run_dir, corpus=args.corpus, **options)
        (ranking,) = searcher.search([args.question], depth=args.depth)
        table = Table(title=Text(args.question), title_justify="left", show_lines=True)
        table.add_column("score", justify="right", no_wrap=True)
        table.add_column("docid", no_wrap=True)
        table.add_column("passage", ratio=1)
        for score, docid, passage in zip(ranking.scores, ranking.docids, ranking.passages, strict=True):
            title = Text(passage["title"] + "\n" if passage["title"] else "", style="bold")
            table.add_row(f"{score:.3f}", Text(docid), title + Text(passage["text"], style="not bold"))
        Console().print(table)


if __name__ == "__main__":
    main()
