"""Mine hard negatives: read a ranking of the training questions, write a new training file.

    python scripts/mine_negatives.py RUN_FILE --train FILE... --corpus FILE... --out NEW.jsonl.gz
        [--ranks 10:100] [--negatives 30] [--share 0.95] [--margin 0.1] [--teacher MODEL] [--qrels FILE...]
        [--answers string|regex] [--match-title] [--keep-answers] [--keep-questions] [--overwrite]

Positives stay as they are. Negatives are the best-ranked passages at the given ranks that are not positives, are not
judged relevant (--qrels) and do not contain an answer, because a passage with the answer may well be relevant
(--keep-answers admits such passages). --share and --margin drop further passages that may be relevant: those that score
more than this share of the positive's score, and those that score less than this margin below it. The positive's score
is the highest that one of the question's positives has in the ranking. If the ranking has none of them, every passage
in it scores higher and is dropped.

--teacher scores each question and passage with a cross-encoder. --share and --margin then compare its scores, and the
new file has them as `scores`, for loss=distillation. Scores in the old file are not copied. Questions without negatives
are dropped, or kept with --keep-questions. Questions that the ranking lacks are always dropped.
"""

import argparse
import json
import re
from pathlib import Path

from dpr_lightning.data.sources import open_corpus, open_training
from dpr_lightning.errors import UserError, check_positive, report_user_errors
from dpr_lightning.evaluation.mining import Counts, Filters, Margin, mined_rows
from dpr_lightning.evaluation.qrels import read_qrels
from dpr_lightning.files import atomic_write, refuse_overwrite
from dpr_lightning.retrieval.rankings import read_rankings


def main() -> None:
    """Read the command line, mine and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file", type=Path, metavar="RUN_FILE")
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--corpus", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--queries", nargs="+", metavar="FILE", help="texts of queries that FILE only names by ids")
    parser.add_argument("--out", type=Path, required=True, metavar="NEW.jsonl.gz")
    window = parser.add_mutually_exclusive_group()
    window.add_argument("--ranks", metavar="FIRST:LAST", help="ranks of passages to consider (default: 1:100)")
    window.add_argument("--depth", type=int, default=100, help="short for --ranks 1:DEPTH")
    parser.add_argument("--negatives", type=int, default=30, help="most negatives per question (default: 30)")
    parser.add_argument("--share", type=float, help="highest score of a negative, as a share of the positive's")
    parser.add_argument("--margin", type=float, help="least difference between the positive's score and a negative's")
    parser.add_argument("--teacher", metavar="MODEL", help="a cross-encoder: a folder or a hub name")
    parser.add_argument("--qrels", nargs="+", metavar="FILE", help="judgments; relevant passages are no negatives")
    parser.add_argument("--answers", default="string", choices=["string", "regex"], help="rule by which answers match")
    parser.add_argument("--match-title", action="store_true", help="search titles for answers as well")
    parser.add_argument("--keep-answers", action="store_true", help="admit passages with an answer as negatives")
    parser.add_argument("--keep-questions", action="store_true", help="keep questions without negatives")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    with report_user_errors(message=lambda error: str(error).replace("name_or_path:", "--teacher:")):
        print("\n".join(_mine(args)))


def _mine(args: argparse.Namespace) -> list[str]:
    if not args.out.name.endswith((".jsonl", ".jsonl.gz")):
        raise UserError(f"--out: {args.out} does not end in .jsonl or .jsonl.gz. Rename it.")
    refuse_overwrite(args.out, args.overwrite, remedy="Give --overwrite, or another name")
    filters, counts = _filters(args), Counts()
    with atomic_write(args.out) as file:
        train = open_training(args.train, name="--train", corpus=args.corpus, queries=args.queries)
        corpus = open_corpus(args.corpus, name="--corpus")
        rankings = read_rankings(args.run_file, train)
        for row in mined_rows(rankings, train, corpus, filters, counts, run_file=args.run_file):
            if row["negative_passages"] or args.keep_questions:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not counts.questions:
            raise UserError(f"{args.run_file}: no question got a negative. Search deeper, or drop fewer passages.")
    first, *others = counts.lines(filters, corpus_rows=len(corpus.rows))
    return [f"{args.out}: {first}", *others]


def _filters(args: argparse.Namespace) -> Filters:
    check_positive(args.depth, "--depth")
    check_positive(args.negatives, "--negatives")
    ranks = re.fullmatch(r"(\d+):(\d+)", args.ranks or f"1:{args.depth}")
    if not ranks or not 1 <= int(ranks[1]) <= int(ranks[2]):
        raise UserError(f"--ranks: {args.ranks} is not FIRST:LAST, two ranks from 1 on. Correct it, as in 10:100.")
    filters = Filters(
        ranks=(int(ranks[1]), int(ranks[2])),
        negatives=args.negatives,
        answers=None if args.keep_answers else args.answers,
        match_title=args.match_title,
        qrels=read_qrels(args.qrels) if args.qrels else None,
        margin=Margin(share=args.share, distance=args.margin),
    )
    if args.teacher:
        from dpr_lightning.model.cross_encoder import CrossEncoder

        return filters._replace(teacher=CrossEncoder(args.teacher).score)
    return filters


if __name__ == "__main__":
    main()
