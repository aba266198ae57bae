"""Measure how the precision of encoding changes rankings: accuracy, overlap with float32, speed (see docs/encode.md).

    python benchmarks/precision.py --corpus FILE --queries FILE --qrels FILE [--model FOLDER] [--pooling cls]

Prints a table with a row for each precision and file type. Overlap@100 is the mean share of a question's first 100
passages that are among the first 100 of float32.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from common import ALL_SETTINGS, timed

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.encoding.stage import ShardEncoder
from dpr_lightning.evaluation.qrels import read_qrels
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.settings import Settings
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

DEPTH = 100
PRECISIONS = (
    ("32", "float32"),
    ("32", "float16"),
    ("bf16", "float32"),
    ("bf16", "float16"),
    ("16", "float32"),
    ("int8", "float32"),
)


def rank(args, precision, dtype, run):
    """Return the docids of each question's ranking, and passages/s of encoding."""
    bi_encoder = load_bi_encoder(args.model, settings=Settings(pooling=args.pooling), explicit=ALL_SETTINGS)
    sources = {"query": open_queries(args.queries), "passage": open_corpus(args.corpus)}
    encoders = {
        side: ShardEncoder(bi_encoder, source, side=side, precision=precision, dtype=dtype)
        for side, source in sources.items()
    }
    encoders["query"].encode(run.query_embeddings("test"))
    seconds, _ = timed(lambda: encoders["passage"].encode(run.passage_shard(0, 1)))
    search(run, split="test", depth=DEPTH)
    rankings = {ranking.qid: ranking.docids for ranking in read_rankings(run.ranking("test"))}
    return rankings, len(sources["passage"].rows) / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("corpus", "queries", "qrels"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--model", default="data/quickstart/encoder")
    parser.add_argument("--pooling", default="cls")
    args = parser.parse_args()
    qrels = read_qrels(Path(args.qrels))
    print("| computed in | kept as | top-1 | top-5 | top-20 | top-100 | overlap@100 | passages/s |")
    print("|---|---|---|---|---|---|---|---|")
    exact = None
    for precision, dtype in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            rankings, speed = rank(args, precision, dtype, RunDir(Path(folder)))
        exact = exact or rankings
        relevant = {qid: {docid for docid, grade in qrels[qid].items() if grade > 0} for qid in rankings}
        cells = [
            statistics.mean(not relevant[qid].isdisjoint(docids[:k]) for qid, docids in rankings.items())
            for k in (1, 5, 20, 100)
        ]
        cells.append(statistics.mean(len({*docids} & {*exact[qid]}) / len(docids) for qid, docids in rankings.items()))
        print(f"| {precision} | {dtype} | {' | '.join(f'{cell:.4f}' for cell in cells)} | {speed:.0f} |", flush=True)


if __name__ == "__main__":
    main()
