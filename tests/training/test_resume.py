"""Training killed and started again ends in the weights of training that was not; real processes, real kills."""

import contextlib
import csv
import os
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from support.world import ROOT

from dpr_lightning.training.checkpoints import find_checkpoint

CACHED = ("grad_cache.query_chunk_size=3", "grad_cache.passage_chunk_size=5")
TWO_PROCESSES = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4")


def overridden(settings, run_dir, *overrides):
    """Settings of 10 epochs of 4 steps and a resume point after every second step."""
    lengths = ["trainer.max_epochs=10", "checkpoint.every_n_steps=2", "optimizer.lr=1e-3"]
    return [*settings, f"run_dir={run_dir}", *lengths, *overrides]


def start(settings, run_dir, *overrides):
    """train.py in a process of its own."""
    command = [sys.executable, str(ROOT / "train.py"), *overridden(settings, run_dir, *overrides)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def logged_steps(run_dir):
    file = run_dir / "train" / "metrics.csv"
    if not file.exists():
        return []
    with file.open(newline="") as rows:
        return [(int(row["step"]), row["train/loss"]) for row in csv.DictReader(rows) if row["train/loss"]]


def kill_at(step, process, run_dir, number=signal.SIGKILL):
    """Sends the signal to the process and its children as soon as `step` is logged."""
    while len(logged_steps(run_dir)) <= step:
        with contextlib.suppress(subprocess.TimeoutExpired):  # leaves the processor to the training meanwhile
            pytest.fail(f"ended early with {process.wait(0.05)}: {process.stderr.read()}")
    os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
    process.communicate()


def check_same(run, expected):
    found, wanted = (load_file(folder / "model" / "model.safetensors") for folder in (run, expected))
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(wanted[name]) for name in wanted)
    assert logged_steps(run) == logged_steps(expected)


@pytest.fixture
def whole(command, settings, tmp_path):
    """Trains without a disturbance, into the folder that it returns."""

    def train(*overrides):
        code, _, err = command("train", *overridden(settings, tmp_path / "whole", *overrides))
        assert code == 0, err
        return tmp_path / "whole"

    return train


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("data.num_workers=2",), CACHED], ids=["plain", "workers", "cached"])
def test_killed_training_ends_in_the_same_bits(settings, whole, tmp_path, overrides):
    run = tmp_path / "killed"
    kill_at(2, start(settings, run, *overrides), run)
    kill_at(17, start(settings, run, *overrides), run)
    assert "resumed from" in finish(start(settings, run, *overrides))
    check_same(run, whole(*[override for override in overrides if "workers" not in override]))
    assert len(logged_steps(run)) == 40


@pytest.mark.slow
def test_killed_training_of_two_processes_ends_in_the_same_bits(settings, tmp_path):
    finish(start(settings, tmp_path / "whole", *TWO_PROCESSES))
    run = tmp_path / "killed"
    kill_at(2, start(settings, run, *TWO_PROCESSES), run)
    kill_at(17, start(settings, run, *TWO_PROCESSES), run)
    assert "resumed from" in finish(start(settings, run, *TWO_PROCESSES))
    check_same(run, tmp_path / "whole")
    assert len(logged_steps(run)) == 40


@pytest.mark.slow
def test_terminated_training_leaves_a_resume_point_of_its_last_step(settings, tmp_path):
    run = tmp_path / "terminated"
    for number in (signal.SIGTERM, signal.SIGUSR1):
        process = start(settings, run, "checkpoint.every_n_steps=1000", "trainer.max_epochs=1000")
        kill_at(len(logged_steps(run)), process, run, number)
        assert process.returncode == 128 + signal.SIGTERM
        assert find_checkpoint(run / "train" / "checkpoints").stem == f"step-{len(logged_steps(run)):08d}"
    assert not (run / "model").exists()


@pytest.mark.slow
def test_damaged_resume_point_is_passed_over(settings, whole, tmp_path):
    run = tmp_path / "damaged"
    kill_at(5, start(settings, run), run)
    newest, before = sorted((run / "train" / "checkpoints").glob("step-*.ckpt"), reverse=True)[:2]
    os.truncate(newest, newest.stat().st_size // 2)
    out = finish(start(settings, run))
    assert f"{newest} is damaged" in out
    assert f"resumed from {before}" in out
    check_same(run, whole())


def test_disk_use_is_bounded(command, settings, tmp_path):
    code, _, err = command("train", *settings, "checkpoint.every_n_steps=1", "checkpoint.keep_last=2")
    assert code == 0, err
    folder = tmp_path / "run" / "train" / "checkpoints"
    names = {file.name for file in folder.iterdir()}
    assert names == {f"step-0000000{n}.{end}" for n in (3, 4) for end in ("ckpt", "xxh3")} | {"last.ckpt"}
    assert (folder / "last.ckpt").samefile(folder / "step-00000004.ckpt")


@pytest.mark.slow
def test_unfinished_training_is_not_continued_with_other_settings(command, settings, tmp_path):
    run = tmp_path / "run"
    kill_at(5, start(settings, run), run)
    code, _, err = command("train", *settings, "checkpoint.every_n_steps=2", "optimizer.lr=3e-3")
    assert code == 1
    assert err.startswith(f"optimizer: is not as in {run}/train/config.yaml")
    assert not (run / "model").exists()
