"""Convert rankings between TREC runs, Tevatron text and MS MARCO's `qid<tab>docid<tab>rank`.

    python scripts/convert_run.py IN OUT --to trec|text|msmarco [--from FORMAT] [--queries FILE...] [--tag NAME]
        [--overwrite]

IN may also be the JSON of DPR or Pyserini. Its content tells its format; --from says it where three columns could be
scores or ranks. Ranks have no scores: each passage gets 1 / rank. In DPR's JSON without ids, a question's id is its
position from 0, or that of the question with the same text in --queries.
"""

import argparse
from pathlib import Path

from dpr_lightning.data.sources import open_queries
from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.retrieval.ranking_formats import FORMATS
from dpr_lightning.retrieval.rankings import WRITTEN_FORMATS, read_rankings, write_rankings


def main() -> None:
    """Read the command line, convert and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT")
    parser.add_argument("--to", required=True, choices=WRITTEN_FORMATS)
    parser.add_argument(
        "--from", dest="format", choices=list(FORMATS), help="the format of IN, if its content misleads"
    )
    parser.add_argument("--from-msmarco", dest="format", action="store_const", const="msmarco", help="--from msmarco")
    parser.add_argument("--queries", nargs="+", metavar="FILE", help="queries whose ids replace positions in JSON")
    parser.add_argument("--tag", default="", help="last column of the TREC run")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    with report_user_errors():
        if len(args.tag.split()) > 1:
            raise UserError(f"--tag: {args.tag!r} contains white space. Give one word.")
        refuse_overwrite(args.target, args.overwrite, remedy="Give --overwrite, or another name")
        queries = open_queries(args.queries, name="--queries") if args.queries else None
        rankings = read_rankings(args.source, queries, format=args.format)
        if args.tag:
            rankings = (ranking._replace(tag=args.tag) for ranking in rankings)
        count = write_rankings(args.target, rankings, format=args.to)
        print(f"{args.target}: {count:,} queries as {args.to}")


if __name__ == "__main__":
    main()
