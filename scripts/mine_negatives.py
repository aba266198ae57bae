"""Mine hard negatives: read a ranking of the training questions, write a new training file.

    python scripts/mine_negatives.py RUN_FILE --train FILE... --corpus FILE... --out NEW.jsonl.gz
        [--depth 100] [--negatives 30] [--answers string|regex] [--match-title] [--keep-answers] [--overwrite]

Positives stay as they are. Negatives are the best-ranked passages that are not positives and do not contain an answer,
because a passage with the answer may well be relevant (--keep-answers admits such passages). Questions without any
negative are dropped. Scores of a teacher are not copied.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from dpr_lightning.data.sources import Source, open_corpus, open_training
from dpr_lightning.errors import UserError, check_positive, report_user_errors
from dpr_lightning.evaluation.answers import answer_finder
from dpr_lightning.evaluation.passages import passage_rows
from dpr_lightning.files import atomic_write, refuse_overwrite
from dpr_lightning.retrieval.rankings import read_rankings


def mined_rows(ranked: dict[str, list[str]], train: Source, corpus: Source, args: argparse.Namespace) -> Iterator[dict]:
    """Yield the training rows with mined negatives, possibly none, in the order of `train`."""
    unknown = sorted(set(ranked) - set(train.rows["query_id"]))
    if unknown:
        raise UserError(
            f"{args.run_file}: question {unknown[0]} (the first of {len(unknown):,}) is not in --train. Add it."
        )
    row_of = passage_rows((docid for docids in ranked.values() for docid in docids), corpus, run_file=args.run_file)
    for row in train.rows:
        if not row["answers"] and not args.keep_answers:
            raise UserError(f"--train: question {row['query_id']} has no answers. Add them, or give --keep-answers.")
        has_answer = answer_finder([] if args.keep_answers else row["answers"], rule=args.answers, qid=row["query_id"])
        positives = [{key: passage[key] for key in ("docid", "title", "text")} for passage in row["positives"]]
        docids = {passage["docid"] for passage in positives}
        texts = {passage["text"] for passage in positives}
        candidates = [row_of[docid] for docid in ranked.get(row["query_id"], []) if docid not in docids]
        negatives = []
        for passage in (corpus.rows[number] for number in candidates):
            searched = f"{passage['title']} {passage['text']}" if args.match_title else passage["text"]
            if passage["text"] not in texts and not has_answer(searched):
                negatives.append(passage)
            if len(negatives) == args.negatives:
                break
        question = {key: row[key] for key in ("query_id", "query", "answers")}
        yield question | {"positive_passages": positives, "negative_passages": negatives}


def mine(args: argparse.Namespace) -> str:
    """Write the new training file and return a line of counts."""
    check_positive(args.depth, "--depth")
    check_positive(args.negatives, "--negatives")
    if not args.out.name.endswith((".jsonl", ".jsonl.gz")):
        raise UserError(f"--out: {args.out} does not end in .jsonl or .jsonl.gz. Rename it.")
    refuse_overwrite(args.out, args.overwrite, remedy="Give --overwrite, or another name")
    kept = dropped = negatives = 0
    with atomic_write(args.out) as file:
        train = open_training(args.train, name="--train", corpus=args.corpus, queries=args.queries)
        corpus = open_corpus(args.corpus, name="--corpus")
        ranked = {ranking.qid: ranking.docids[: args.depth] for ranking in read_rankings(args.run_file, train)}
        for row in mined_rows(ranked, train, corpus, args):
            mined = len(row["negative_passages"])
            if mined:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            kept, dropped, negatives = kept + bool(mined), dropped + (not mined), negatives + mined
        if not kept:
            raise UserError(f"{args.run_file}: no question got a negative. Search deeper, or raise --depth.")
    each = f"{negatives:,} negatives ({negatives / kept:.1f} each)"
    longest = max(map(len, ranked.values()))
    short = f"; rankings end after {longest}, not {args.depth}" if longest < min(args.depth, len(corpus.rows)) else ""
    return f"{args.out}: {kept:,} questions with {each}, {dropped:,} dropped for lack of negatives{short}"


def main() -> None:
    """Read the command line, mine and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_file", type=Path, metavar="RUN_FILE")
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--corpus", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--queries", nargs="+", metavar="FILE", help="texts of queries that FILE only names by ids")
    parser.add_argument("--out", type=Path, required=True, metavar="NEW.jsonl.gz")
    parser.add_argument(
        "--depth", type=int, default=100, help="consider the first N passages of a ranking (default: 100)"
    )
    parser.add_argument(
        "--negatives", type=int, default=30, help="maximum number of negatives per question (default: 30)"
    )
    parser.add_argument("--answers", default="string", choices=["string", "regex"], help="rule by which answers match")
    parser.add_argument("--match-title", action="store_true", help="search titles for answers as well")
    parser.add_argument("--keep-answers", action="store_true", help="admit passages with an answer as negatives")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    with report_user_errors():
        print(mine(args))


if __name__ == "__main__":
    main()
