"""Exact search from embedding files against faiss's flat index and the bare matrix product; its latency and memory.

    OMP_NUM_THREADS=2 python benchmarks/search.py [--passages 200000] [--queries 2000] [--dims 384 768] [--repeats 5]
        [--memory-passages 2000000]

Prints JSON lines. The contestants take turns within one run, and a ratio is the median over the turns. "ours" reads the
files, checks their checksums and ranks (scores, docids); the flat index has its passages in memory already. 1 and 64
queries are searched as `Searcher` does it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import faiss
import numpy as np

from dpr_lightning.embeddings.file import Identity, open_embeddings
from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.retrieval.exact import ExactSearch
from dpr_lightning.retrieval.retriever import Queries
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

MEMORY = 4 << 30
CHUNK = 16384


def write(path, rows, dim, *, side, dtype="float32"):
    """An embedding file of random unit vectors."""
    rng = np.random.default_rng(dim)
    identity = Identity(side, 0, 1, 0, rows, "32", 2048, "model", "data")
    ids = [f"{side}{row}" for row in range(rows)]
    with EmbeddingWriter(path, identity, ids, dim=dim, dtype=dtype, chunk_size=CHUNK) as writer:
        for first in range(0, rows, CHUNK):
            chunk = rng.standard_normal((min(CHUNK, rows - first), dim), np.float32)
            writer.append(chunk / np.linalg.norm(chunk, axis=1, keepdims=True))
        writer.finish()


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def product(queries, passages):
    """The bare product, in the tiles that faiss multiplies."""
    for first in range(0, len(passages), 1024):
        queries @ passages[first : first + 1024].T


def exhaust(ranked):
    for _ in ranked:
        pass


def compare(run, dim, depth, repeats):
    """Seconds of each contestant, turn by turn."""
    queries, corpus = open_embeddings(run.query_embeddings("test")), open_passages(run.passage_shards)
    vectors, passages = np.array(queries.array), np.array(corpus.shards[0].array)
    index = faiss.IndexFlatIP(dim)
    index.add(passages)
    contestants = {
        "sgemm": lambda: product(vectors, passages),
        "IndexFlatIP": lambda: index.search(vectors, depth),
        "ours": lambda: exhaust(
            ExactSearch(open_passages(run.passage_shards), memory=MEMORY).search(
                Queries(queries.ids, queries), depth=depth
            )
        ),
        "ours to a TREC file": lambda: search(run, split="test", depth=depth, overwrite=True),
    }
    for few in (1, 64):
        asked = vectors[:few]
        contestants[f"IndexFlatIP, {few} at once"] = partial(index.search, asked, depth)
        contestants[f"ours, {few} at once"] = lambda asked=asked: exhaust(
            ExactSearch(corpus).search(Queries([""] * len(asked), asked), depth=depth)
        )
    seconds = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            seconds[name].append(timed(contestant))
    return seconds


def report(about, seconds):
    for name, turns in seconds.items():
        print(
            json.dumps(about | {"what": name, "seconds": statistics.median(turns), "spread": [min(turns), max(turns)]})
        )
    for name, by in (
        ("ours", "IndexFlatIP"),
        ("ours", "sgemm"),
        ("IndexFlatIP", "sgemm"),
        ("ours to a TREC file", "IndexFlatIP"),
        ("ours, 1 at once", "IndexFlatIP, 1 at once"),
        ("ours, 64 at once", "IndexFlatIP, 64 at once"),
    ):
        ratios = [b / a for a, b in zip(seconds[name], seconds[by], strict=True)]
        print(
            json.dumps(
                about
                | {
                    "ratio": f"speed of {name} / {by}",
                    "median": statistics.median(ratios),
                    "spread": [min(ratios), max(ratios)],
                }
            ),
            flush=True,
        )


def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def print_growth(folder):
    """Runs in a process of its own: MB by which a search makes it grow."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = resident("VmRSS")
    search(RunDir(folder), split="test", depth=1000, memory="256MB", overwrite=True)
    print(resident("VmHWM") - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--depths", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-passages", type=int, default=0, help="also: peak memory over so many passages")
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
                report(about, compare(run, dim, depth, args.repeats))
    if args.memory_passages:
        with tempfile.TemporaryDirectory() as name:
            run = RunDir(Path(name))
            write(run.query_embeddings("test"), 200, 384, side="query")
            file = run.passage_shard(0, 1)
            write(file, args.memory_passages, 384, side="passage", dtype="float16")
            command = [sys.executable, __file__, "--growth-of", name]
            grown = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            file_mb = file.stat().st_size / (1 << 20)
            about = {"passages": args.memory_passages, "dim": 384, "dtype": "float16", "file_mb": file_mb}
            print(json.dumps(about | {"what": "peak memory above start", "mb": grown, "bound_mb": 256}))
    print(json.dumps({"threads": faiss.omp_get_max_threads(), "faiss": faiss.__version__, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
