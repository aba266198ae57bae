"""Measure exact search from embedding files: FAISS's flat index and the bare matrix product for comparison; memory.

    OMP_NUM_THREADS=2 python benchmarks/search.py [--passages 200000] [--queries 2000] [--dims 384 768] [--repeats 5]
        [--memory-passages 2000000]

Prints JSON lines. The contestants take turns within one run; a ratio is the median over the turns. "ours" reads the
files, verifies their checksums and ranks (scores, docids). The flat index has its passages in memory already. 1 and 64
queries are searched as `Searcher` does it.
"""

import argparse
import collections
import os
import tempfile
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from common import in_new_process, memory_mb, over_turns, report, report_ratio, take_turns, timed

from dpr_lightning.embeddings.file import Identity, open_embeddings
from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.retrieval.exact import ExactSearch
from dpr_lightning.retrieval.retriever import Queries
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

MEMORY = 4 << 30
CHUNK = 16384
RATIOS = (
    ("ours", "IndexFlatIP"),
    ("ours", "sgemm"),
    ("IndexFlatIP", "sgemm"),
    ("ours to a TREC file", "IndexFlatIP"),
    ("ours, 1 at once", "IndexFlatIP, 1 at once"),
    ("ours, 64 at once", "IndexFlatIP, 64 at once"),
)


def write(path, rows, dim, *, side, dtype="float32"):
    """Write an embedding file of random unit vectors."""
    rng = np.random.default_rng(dim)
    identity = Identity(side, 0, 1, 0, rows, "32", 2048, "model", "data")
    ids = [f"{side}{row}" for row in range(rows)]
    with EmbeddingWriter(path, identity, ids, dim=dim, dtype=dtype, chunk_size=CHUNK) as writer:
        for first in range(0, rows, CHUNK):
            chunk = rng.standard_normal((min(CHUNK, rows - first), dim), np.float32)
            writer.append(chunk / np.linalg.norm(chunk, axis=1, keepdims=True))
        writer.finish()


def product(queries, passages):
    """Compute the bare product, in the tiles that FAISS multiplies."""
    for first in range(0, len(passages), 1024):
        queries @ passages[first : first + 1024].T


def rank(corpus, queries, depth, **options):
    """Rank all queries and drop the rankings."""
    collections.deque(ExactSearch(corpus, **options).search(queries, depth=depth), maxlen=0)


def compare(run, dim, depth, repeats):
    """Return the seconds of each contestant, turn by turn."""
    queries, corpus = open_embeddings(run.query_embeddings("test")), open_passages(run.passage_shards)
    vectors, passages = np.array(queries.array), np.array(corpus.shards[0].array)
    index = faiss.IndexFlatIP(dim)
    index.add(passages)
    everything = Queries(queries.ids, queries)
    contestants = {
        "sgemm": lambda: product(vectors, passages),
        "IndexFlatIP": lambda: index.search(vectors, depth),
        "ours": lambda: rank(open_passages(run.passage_shards), everything, depth, memory=MEMORY),
        "ours to a TREC file": lambda: search(run, split="test", depth=depth, overwrite=True),
    }
    for few in (1, 64):
        contestants[f"IndexFlatIP, {few} at once"] = partial(index.search, vectors[:few], depth)
        contestants[f"ours, {few} at once"] = partial(rank, corpus, Queries([""] * few, vectors[:few]), depth)
    return take_turns({name: lambda task=task: timed(task)[0] for name, task in contestants.items()}, repeats)


def report_turns(about, seconds):
    for name, turns in seconds.items():
        report(**about, what=name, **over_turns("seconds", turns))
    for name, by in RATIOS:
        report_ratio(f"speed of {name} / {by}", seconds[by], seconds[name], **about)


def print_growth(folder):
    """Print the MB by which a search makes this process grow."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory_mb("VmRSS")
    search(RunDir(folder), split="test", depth=1000, memory="256MB", overwrite=True)
    print(memory_mb("VmHWM") - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--depths", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-passages", type=int, default=0, help="also measure the memory of searching so many")
    parser.add_argument("--growth-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.growth_of:
        print_growth(args.growth_of)
        return
    for dim in args.dims:
        with tempfile.TemporaryDirectory() as name:
            run = RunDir(Path(name))
            write(run.query_embeddings("test"), args.queries, dim, side="query")
            write(run.passage_shard(0, 1), args.passages, dim, side="passage")
            for depth in args.depths:
                about = {"queries": args.queries, "passages": args.passages, "dim": dim, "depth": depth}
                report_turns(about, compare(run, dim, depth, args.repeats))
    if args.memory_passages:
        with tempfile.TemporaryDirectory() as name:
            run = RunDir(Path(name))
            write(run.query_embeddings("test"), 200, 384, side="query")
            write(run.passage_shard(0, 1), args.memory_passages, 384, side="passage", dtype="float16")
            grown = in_new_process(__file__, "--growth-of", name)
            file_mb = run.passage_shard(0, 1).stat().st_size / (1 << 20)
            about = {"passages": args.memory_passages, "dim": 384, "dtype": "float16", "file_mb": file_mb}
            report(**about, what="peak memory above start", mb=grown, bound_mb=256)
    report(threads=faiss.omp_get_max_threads(), faiss=faiss.__version__, cpus=os.cpu_count())


if __name__ == "__main__":
    main()
