"""Ask a run questions and show the best passages.

    python scripts/ask.py RUN ["who wrote the origin of species"] [--corpus FILE...] [--depth 5] [--method NAME]
        [--index FACTORY]

RUN is a run folder with `model/` and `embeddings/passage/`; FILE is the corpus that was encoded. Without a question,
the model is loaded once and questions are read line by line, until Ctrl-D. On a terminal, the words of the question
are highlighted in the passages, and so are its answers if the run was evaluated on this question.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no warning about the unused pooler
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpr_lightning.errors import report_user_errors
from dpr_lightning.run_dir import METHODS, RunDir

if TYPE_CHECKING:
    from dpr_lightning.evaluation.known_answers import KnownAnswers
    from dpr_lightning.searcher import Found

COMMON = re.compile(  # words that are not highlighted
    "a|an|and|are|as|at|be|by|did|do|does|for|from|had|has|have|how|in|is|it|its|of|on|or|that|the|this|to|was|were|"
    "what|when|where|which|who|whom|whose|why|will|with",
    re.IGNORECASE,
)


def main() -> None:
    """Read the command line, search and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("question", nargs="?", help="without it, questions are read line by line")
    parser.add_argument("--corpus", nargs="+", metavar="FILE", help="default: the corpus of the run's training")
    parser.add_argument("--depth", type=int, default=5, help="number of passages to show (default: 5)")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="model folder (default: RUN/model)")
    parser.add_argument("--index", metavar="FACTORY", help="use this index of the run, e.g. HNSW32,Flat")
    parser.add_argument("--method", choices=METHODS, help="how to search (default: exact, or index with --index)")
    args = parser.parse_args()
    with report_user_errors():
        from dpr_lightning.data.sources import open_corpus
        from dpr_lightning.evaluation.known_answers import known_answers
        from dpr_lightning.searcher import Searcher
        from dpr_lightning.training_config import training_corpus

        run = RunDir(args.run_dir)
        corpus = args.corpus or open_corpus(**training_corpus(run))
        known = known_answers(run)
        options = {"model_dir": args.model, "index": args.index, "method": args.method}
        searcher = Searcher(args.run_dir, corpus=corpus, **options)
        for question in questions() if args.question is None else [args.question]:
            (found,) = searcher.search([question], depth=args.depth)
            Console().print(as_table(question, found, known.get(question)))


def questions() -> Iterator[str]:
    """Yield the lines that are typed or piped in, until the end of the input; empty ones are left out."""
    while True:
        try:
            question = input("question: " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if question:
            yield question


def as_table(question: str, found: "Found", known: "KnownAnswers | None") -> Table:
    """Return the passages of a question as a table."""
    from dpr_lightning.evaluation.answers import answer_spans

    table = Table(title=Text(question), title_justify="left", show_lines=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("docid", no_wrap=True)
    table.add_column("passage", ratio=1)
    words = "|".join(word for word in re.findall(r"\w+", question) if not COMMON.fullmatch(word))
    for score, docid, passage in zip(found.scores, found.docids, found.passages, strict=True):
        text = Text(passage["title"] + "\n" if passage["title"] else "", style="bold")
        text += Text(passage["text"], style="not bold")
        if words:
            text.highlight_regex(rf"(?i)\b(?:{words})\b", "yellow")
        for start, end in answer_spans(known.answers, text.plain, rule=known.rule) if known else []:
            text.stylize("bold black on green", start, end)
        table.add_row(f"{score:.3f}", Text(docid), text)
    return table


if __name__ == "__main__":
    main()
