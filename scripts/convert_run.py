"""Convert rankings between TREC runs, Tevatron text and MS MARCO's `qid<tab>docid<tab>rank`.

    python scripts/convert_run.py IN OUT --to trec|text|msmarco [--from-msmarco] [--tag NAME] [--overwrite]

The number of columns distinguishes TREC from text. MS MARCO's format looks like text, so it needs --from-msmarco. It
has no scores: each passage gets 1 / rank.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.files import atomic_write, refuse_overwrite
from dpr_lightning.retrieval.rankings import Ranking, read_rankings, write_rankings


def convert(source: Path, target: Path, *, to: str, from_msmarco: bool = False, tag: str = "") -> int:
    """Write `target` atomically and return the number of queries."""
    rankings = _from_ranks(source) if from_msmarco else read_rankings(source)
    if tag:
        rankings = (ranking._replace(tag=tag) for ranking in rankings)
    if to != "msmarco":
        return write_rankings(target, rankings, format=to)
    count = 0
    with atomic_write(target) as file:
        for ranking in rankings:
            file.writelines(f"{ranking.qid}\t{docid}\t{rank}\n" for rank, docid in enumerate(ranking.docids, 1))
            count += 1
    return count


def _from_ranks(source: Path) -> Iterator[Ranking]:
    for ranking in read_rankings(source):  # sorts by the third column, so the highest rank number comes first
        ranks = ranking.scores[::-1]
        if ranks[0] < 1:
            raise UserError(f"{source}: query {ranking.qid} has rank {ranks[0]:g}, but ranks start at 1. Correct it.")
        yield Ranking(ranking.qid, ranking.docids[::-1], (1 / ranks).astype(np.float32))


def main() -> None:
    """Read the command line, convert and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT")
    parser.add_argument("--to", required=True, choices=["trec", "text", "msmarco"])
    parser.add_argument("--from-msmarco", action="store_true", help="the third column of IN has ranks, not scores")
    parser.add_argument("--tag", default="", help="last column of the TREC run")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    with report_user_errors():
        if len(args.tag.split()) > 1:
            raise UserError(f"--tag: {args.tag!r} contains white space. Give one word.")
        refuse_overwrite(args.target, args.overwrite, remedy="Give --overwrite, or another name")
        count = convert(args.source, args.target, to=args.to, from_msmarco=args.from_msmarco, tag=args.tag)
        print(f"{args.target}: {count:,} queries as {args.to}")


if __name__ == "__main__":
    main()
