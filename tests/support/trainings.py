"""Trainings as processes that a test can signal or kill, and comparisons of their results."""

import os
import signal

from safetensors.torch import load_file
from support.metrics import logged_rows
from support.processes import Script

CACHED = ("grad_cache.query_chunk_size=3", "grad_cache.passage_chunk_size=5")
TWO_PROCESSES = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4")


def overridden(settings, run_dir, *overrides):
    """Return settings of 10 epochs of 4 steps with a checkpoint after every second step."""
    lengths = ["trainer.max_epochs=10", "checkpoint.every_n_steps=2", "optimizer.lr=1e-3"]
    return [*settings, f"run_dir={run_dir}", *lengths, *overrides]


def start(settings, run_dir, *overrides, ranks=1):
    """Start train.py as the leader of its own process group."""
    return Script("train", *overridden(settings, run_dir, *overrides), ranks=ranks)


def logged_steps(run_dir):
    """Return the step and the loss of each logged step."""
    return [(int(row["step"]), row["train/loss"]) for row in logged_rows(run_dir) if row["train/loss"]]


def signal_at(step, process, run_dir, number=signal.SIGKILL):
    """Send a signal to the whole process group as soon as `step` is logged; return stdout and stderr."""
    while len(logged_steps(run_dir)) <= step:
        process.stay(0.05)  # leaves the CPU to the training meanwhile
    os.killpg(process.pid, number)
    return process.communicate(timeout=120)


def assert_same(run, expected):
    """Assert that two trainings have the same weights, bit for bit, and the same logged losses."""
    found, wanted = (load_file(folder / "model" / "model.safetensors") for folder in (run, expected))
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(wanted[name]) for name in wanted)
    assert logged_steps(run) == logged_steps(expected)
