"""Explain why a question was missed, or at which rank it was hit.

    python scripts/explain.py RUN QID [--split test] [--method bm25] [--run-file FILE] [--depth 5] [--gold DOCID...]

Prints the gold passages with their ranks over the whole corpus, also below the depth of the ranking; the first passages
of the ranking and of BM25; tokens that are cut off; and the nearest training questions. Data and answer rule are those
that the run was evaluated or trained with; options replace them. Gold passages are those of --gold, or those judged
relevant, or those with an answer.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpr_lightning.errors import report_user_errors
from dpr_lightning.run_dir import METHODS, RANKING_ENDINGS, RunDir
from dpr_lightning.training_config import run_settings

if TYPE_CHECKING:
    from dpr_lightning.data.sources import Source


def main() -> None:
    """Read the command line, explain and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN")
    parser.add_argument("qid", metavar="QID")
    parser.add_argument("--split", default="test", help="name of the questions (default: test)")
    parser.add_argument("--method", choices=METHODS, help="explain the ranking of this search method")
    parser.add_argument("--format", default="trec", choices=RANKING_ENDINGS, help="format of the run's ranking")
    parser.add_argument("--run-file", type=Path, metavar="FILE", help="explain this ranking")
    parser.add_argument("--depth", type=int, default=5, help="ranked passages to show (default: 5)")
    parser.add_argument("--gold", nargs="+", default=[], metavar="DOCID", help="passages that should be found")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="model folder, to count tokens")
    for name in ("queries", "corpus", "qrels", "train"):
        parser.add_argument(f"--{name}", nargs="+", metavar="FILE", help=f"default: the {name} of the run")
    parser.add_argument("--answers", choices=["string", "regex"], help="rule by which answers match")
    args = parser.parse_args()
    with report_user_errors():
        print(explained(args))


def explained(args: argparse.Namespace) -> str:
    """Return the explanation as text."""
    from dpr_lightning.data.sources import open_corpus, open_queries, open_training
    from dpr_lightning.evaluation.qrels import read_qrels
    from dpr_lightning.explanation.explain import explain
    from dpr_lightning.explanation.text import explanation_text

    run = RunDir(args.run_dir)
    known = run_settings(run, args.split, args.method)
    given = {"queries": args.queries, "corpus": args.corpus, "qrels": args.qrels, "train": args.train}
    options = {"skip_invalid": known.data.get("skip_invalid", False)}

    def opened(open_source: "Callable[..., Source]", name: str, **more: Any) -> "Source":
        """Open the files that the user gives, or else those of the run in their format."""
        files, format = (given[name], None) if given[name] else (known.files(name), known.data.get("format"))
        return open_source(files, name=f"--{name}", format=format, **options, **more)

    corpus_files = given["corpus"] or known.files("corpus")
    train_files, qrels = given["train"] or known.files("train"), given["qrels"] or known.files("qrels")
    explanation = explain(
        run,
        args.qid,
        queries=opened(open_queries, "queries"),
        corpus=opened(open_corpus, "corpus"),
        train=opened(open_training, "train", corpus=corpus_files) if train_files else None,
        split=args.split,
        method=args.method,
        format=args.format,
        run_file=args.run_file,
        model=args.model or known.model_dir,
        qrels=read_qrels(qrels) if qrels else None,
        gold=args.gold,
        answers=args.answers or known.data.get("answers", "string"),
        match_title=known.data.get("match_title", False),
        depth=args.depth,
    )
    return explanation_text(explanation)


if __name__ == "__main__":
    main()
