"""Fuse rankings of the same queries into one, or find the best weight of two on a development split.

    python scripts/fuse.py RANKING RANKING... --out FILE [--weights W...] [--fusion sum|rrf] [--depth 100]
    python scripts/fuse.py RANKING RANKING --tune --queries FILE --corpus FILE [--fusion sum|rrf] [--depth 100]
    python scripts/fuse.py RANKING RANKING --tune --queries FILE --qrels FILE  [--fusion sum|rrf] [--depth 100]

RANKING has any format that evaluate.py reads. `sum` adds the scores of each ranking, scaled to [0, 1] per query; `rrf`
adds 1 / (60 + rank). --tune tries weights of the first ranking from 0 to 1 (the second has the rest), prints the
accuracy and the mean reciprocal rank of the first passage with an answer (with --qrels: the first relevant passage),
and names the weight with the best mean reciprocal rank.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.errors import UserError, check_positive, report_user_errors
from dpr_lightning.evaluation.accuracy import accuracy_at
from dpr_lightning.evaluation.qrels import read_qrels
from dpr_lightning.evaluation.tuning import Hits, answer_hits, fused_rankings, judged_hits, tune
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.retrieval.fusion import FUSIONS
from dpr_lightning.retrieval.rankings import read_rankings, write_rankings

CUTOFFS = (1, 5, 20, 100)


def main() -> None:
    """Read the command line, then fuse and write, or tune and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rankings", type=Path, nargs="+", metavar="RANKING")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the fused rankings as a TREC run")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="of each ranking (default: equal)")
    parser.add_argument("--fusion", default="sum", choices=FUSIONS)
    parser.add_argument("--depth", type=int, default=100, help="passages per query (default: 100)")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--tune", action="store_true", help="find the best weight of two rankings")
    parser.add_argument("--queries", nargs="+", metavar="FILE", help="with --tune: the questions and their answers")
    parser.add_argument("--corpus", nargs="+", metavar="FILE", help="with --tune: the passages that were searched")
    parser.add_argument("--qrels", nargs="+", metavar="FILE", help="with --tune: judged passages instead of answers")
    parser.add_argument("--answers", default="string", choices=["string", "regex"], help="rule of the answers")
    args = parser.parse_args()
    with report_user_errors():
        check_positive(args.depth, "--depth")
        weights = args.weights or [1 / len(args.rankings)] * len(args.rankings)
        if len(args.rankings) < 2 or len(weights) != len(args.rankings) or not all(0 <= w < 1e6 for w in weights):
            raise UserError("--weights: give at least two rankings, and a weight of at least 0 for each.")
        rankings = [{ranking.qid: ranking for ranking in read_rankings(path)} for path in args.rankings]
        if args.tune:
            _tune(args, rankings)
        elif not args.out:
            raise UserError("--out: is missing. Give the file to write, or --tune.")
        else:
            refuse_overwrite(args.out, args.overwrite, remedy="Give --overwrite, or another name")
            fused = fused_rankings(rankings, weights, fusion=args.fusion, depth=args.depth)
            count = write_rankings(args.out, fused, format="trec")
            print(f"{args.out}: {count:,} queries fused from {len(rankings)} rankings")


def _tune(args: argparse.Namespace, rankings: list) -> None:
    if len(rankings) != 2 or not args.queries or bool(args.corpus) == bool(args.qrels):
        raise UserError("--tune: give two rankings, --queries, and --corpus or --qrels.")
    trials = tune(rankings, _hits(args, rankings), fusion=args.fusion, depth=args.depth)
    best = max(trials, key=lambda trial: trial.mrr)
    table = Table("weight", *(f"top-{k}" for k in CUTOFFS if k <= args.depth), "MRR")
    for trial in trials:
        values = [accuracy_at(trial.first_hits, k).value for k in CUTOFFS if k <= args.depth]
        style = "bold" if trial is best else ""
        table.add_row(f"{trial.weight:.2f}", *(f"{value:.3f}" for value in [*values, trial.mrr]), style=style)
    Console().print(table)
    print(f"best: --weights {best.weight:g} {round(1 - best.weight, 2):g}, or hybrid.weight={best.weight:g}")


def _hits(args: argparse.Namespace, rankings: list) -> Hits:
    queries = open_queries(args.queries, name="--queries")
    if args.qrels:
        return judged_hits(read_qrels(args.qrels), queries)
    return answer_hits(args.rankings, rankings, queries, open_corpus(args.corpus, name="--corpus"), rule=args.answers)


if __name__ == "__main__":
    main()
