"""A search takes no more memory than its plan says, and its plan no more than it may."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support.embedding_files import write_corpus, write_embeddings
from support.world import ROOT

from dpr_lightning.retrieval.memory import plan_search

MB = 1 << 20

GROWTH = """
import sys
from pathlib import Path
from dpr_lightning.retrieval.stage import search

def resident(field):
    (line,) = (line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1])

folder = Path(sys.argv[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
before = resident("VmRSS")
search(folder / "q", folder / "passages", folder, split="test", depth=int(sys.argv[2]), memory=sys.argv[3])
print((resident("VmHWM") - before) / 1024)
"""


def corpus(rows, dim, dtype):
    return [SimpleNamespace(array=np.empty((0, dim), dtype), ids=range(rows))]


@pytest.mark.parametrize(
    ("queries", "depth", "rows", "dtype"), [(2000, 1000, 24_000, "float16"), (300, 20, 70_000, "float32")]
)
def test_the_process_grows_by_no_more_than_memory(tmp_path, queries, depth, rows, dtype):
    """Many long rankings, and a corpus of 100 MB."""
    rng = np.random.default_rng(9)
    vectors = rng.standard_normal((queries, 384), np.float32)
    write_embeddings(tmp_path / "q", vectors, [f"q{i}" for i in range(queries)], side="query")
    write_corpus(tmp_path / "passages", rng.standard_normal((rows, 384), np.float32).astype(dtype), 2)
    command = [sys.executable, "-c", GROWTH, str(tmp_path), str(depth), "64MB"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert 32 < float(done.stdout) < 64


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("memory", [64 * MB, 4096 * MB])
@pytest.mark.parametrize("depth", [1, 100, 1000])
def test_plans_keep_to_memory_and_use_most_of_it(dtype, memory, depth):
    plan = plan_search(memory, corpus(21_000_000, 768, dtype), queries=100_000, depth=depth)
    assert 0.95 * memory < plan.peak <= memory
    assert plan.queries >= 200
    assert plan.block_rows >= 3000


def test_plans_do_not_exceed_the_work():
    plan = plan_search(4096 * MB, corpus(500, 16, "float32"), queries=9, depth=1000)
    assert (plan.queries, plan.block_rows) == (9, 500)
    assert plan.peak < 32 * MB
    assert plan_search(1, corpus(5000, 16, "float32"), queries=9, depth=10)[:2] == (1, 1024)
