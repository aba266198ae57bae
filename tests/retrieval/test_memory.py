"""A search takes no more memory than its plan, and the plan no more than `memory`."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from support.embedding_files import write_run
from support.world import ROOT

from dpr_lightning.retrieval.memory import plan_search

MB = 1 << 20

GROWTH = """
import sys
from pathlib import Path
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

def resident(field):
    (line,) = (line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1])

run = RunDir(Path(sys.argv[1]))
open("/proc/self/clear_refs", "w").write("5")  # restarts the peak
before = resident("VmRSS")
search(run, split="test", depth=int(sys.argv[2]), memory=sys.argv[3])
print((resident("VmHWM") - before) / 1024)
"""


def corpus(rows, dim, dtype):
    return SimpleNamespace(rows=rows, dim=dim, dtype=np.dtype(dtype))


@pytest.mark.parametrize(
    ("queries", "depth", "rows", "dtype"), [(2000, 1000, 24_000, "float16"), (300, 20, 70_000, "float32")]
)
def test_the_process_grows_by_less_than_memory(tmp_path, queries, depth, rows, dtype):
    """Many long rankings, and a corpus of 100 MB."""
    rng = np.random.default_rng(9)
    vectors = rng.standard_normal((queries, 384), np.float32)
    write_run(tmp_path, vectors, rng.standard_normal((rows, 384), np.float32).astype(dtype), 2)
    command = [sys.executable, "-c", GROWTH, str(tmp_path), str(depth), "64MB"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert 32 < float(done.stdout) < 64


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("memory", [64 * MB, 4096 * MB])
@pytest.mark.parametrize("depth", [1, 100, 1000])
def test_plans_use_most_of_memory_and_no_more(dtype, memory, depth):
    plan = plan_search(memory, corpus(21_000_000, 768, dtype), queries=100_000, depth=depth)
    assert 0.95 * memory < plan.peak <= memory
    assert plan.queries >= 200
    assert plan.block_rows >= 3000


def test_plans_are_no_larger_than_the_search():
    plan = plan_search(4096 * MB, corpus(500, 16, "float32"), queries=9, depth=1000)
    assert (plan.queries, plan.block_rows) == (9, 500)
    assert plan.peak < 32 * MB
    assert plan_search(1, corpus(5000, 16, "float32"), queries=9, depth=10)[:2] == (1, 1024)
