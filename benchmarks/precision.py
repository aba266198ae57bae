"""How the precision of encoding moves rankings: accuracy, overlap with float32, speed, for the table in docs/encode.md.

    python benchmarks/precision.py --corpus FILE --queries FILE --qrels FILE [--model FOLDER] [--pooling cls]

Prints a row of the table for each precision and file type. Overlap@100 is the mean share of a question's first 100
passages that are among the first 100 of float32.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.encoding.stage import ShardEncoder, encode_passages
from dpr_lightning.evaluation.qrels import read_qrels
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.settings import Settings
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

DEPTH = 100
SETTINGS = (("32", "float32"), ("32", "float16"), ("bf16", "float32"), ("bf16", "float16"), ("16", "float32"))


def rank(args, precision, dtype, folder):
    """The docids of each question's ranking, and passages/s of encoding."""
    settings = {"precision": precision, "dtype": dtype}
    bi_encoder = load_bi_encoder(args.model, settings=Settings(pooling=args.pooling))
    queries, corpus = open_queries(args.queries, name="queries.test"), open_corpus(args.corpus)
    run = RunDir(folder)
    ShardEncoder(bi_encoder, queries, side="query", **settings).encode(run.query_embeddings("test"))
    passages = ShardEncoder(bi_encoder, corpus, side="passage", **settings)
    start = time.perf_counter()
    encode_passages(run, passages, shard=None, num_shards=1)
    speed = len(corpus.rows) / (time.perf_counter() - start)
    search(run, split="test", depth=DEPTH)
    return {ranking.qid: ranking.docids for ranking in read_rankings(run.ranking("test"))}, speed


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
    for precision, dtype in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            rankings, speed = rank(args, precision, dtype, Path(folder))
        exact = exact or rankings
        relevant = {qid: {docid for docid, grade in qrels[qid].items() if grade > 0} for qid in rankings}
        cells = [
            sum(not relevant[qid].isdisjoint(docids[:k]) for qid, docids in rankings.items()) / len(rankings)
            for k in (1, 5, 20, 100)
        ]
        cells.append(
            sum(len(set(docids) & set(exact[qid])) / len(docids) for qid, docids in rankings.items()) / len(rankings)
        )
        print(
            f"| {precision} | {dtype} | " + " | ".join(f"{cell:.4f}" for cell in cells) + f" | {speed:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
