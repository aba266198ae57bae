"""A killed and resumed training ends with the weights of an undisturbed one; real processes, real kills."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from support.metrics import logged_rows
from support.world import ROOT

from dpr_lightning.training.checkpoints import find_checkpoint

CACHED = ("grad_cache.query_chunk_size=3", "grad_cache.passage_chunk_size=5")
TWO_PROCESSES = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4")


def overridden(settings, run_dir, *overrides):
    """Return settings of 10 epochs of 4 steps with a checkpoint after every second step."""
    lengths = ["trainer.max_epochs=10", "checkpoint.every_n_steps=2", "optimizer.lr=1e-3"]
    return [*settings, f"run_dir={run_dir}", *lengths, *overrides]


def start(settings, run_dir, *overrides):
    """Start train.py in its own process."""
    command = [sys.executable, str(ROOT / "train.py"), *overridden(settings, run_dir, *overrides)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def logged_steps(run_dir):
    return [(int(row["step"]), row["train/loss"]) for row in logged_rows(run_dir) if row["train/loss"]]


def kill_at(step, process, run_dir, number=signal.SIGKILL):
    """Send the signal as soon as `step` is logged: SIGKILL to the process and its children, others to it alone."""
    while len(logged_steps(run_dir)) <= step:
        with contextlib.suppress(subprocess.TimeoutExpired):  # leaves the CPU to the training meanwhile
            pytest.fail(f"ended early with {process.wait(0.05)}: {process.stderr.read()}")
    os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
    process.communicate()


def assert_same(run, expected):
    found, wanted = (load_file(folder / "model" / "model.safetensors") for folder in (run, expected))
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(wanted[name]) for name in wanted)
    assert logged_steps(run) == logged_steps(expected)


@pytest.fixture
def undisturbed(command, settings, tmp_path):
    """Train without a disturbance, and return the run folder."""

    def train(*overrides):
        code, _, err = command("train", *overridden(settings, tmp_path / "undisturbed", *overrides))
        assert code == 0, err
        return tmp_path / "undisturbed"

    return train


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), ("data.num_workers=2",), CACHED], ids=["plain", "workers", "cached"])
def test_a_killed_training_ends_with_the_same_bits(settings, undisturbed, tmp_path, overrides):
    run = tmp_path / "killed"
    kill_at(2, start(settings, run, *overrides), run)
    kill_at(17, start(settings, run, *overrides), run)
    assert "resumed from" in finish(start(settings, run, *overrides))
    assert_same(run, undisturbed(*[override for override in overrides if "workers" not in override]))
    assert len(logged_steps(run)) == 40


@pytest.mark.slow
def test_a_killed_training_of_two_processes_ends_with_the_same_bits(settings, tmp_path):
    finish(start(settings, tmp_path / "undisturbed", *TWO_PROCESSES))
    run = tmp_path / "killed"
    kill_at(2, start(settings, run, *TWO_PROCESSES), run)
    kill_at(17, start(settings, run, *TWO_PROCESSES), run)
    assert "resumed from" in finish(start(settings, run, *TWO_PROCESSES))
    assert_same(run, tmp_path / "undisturbed")
    assert len(logged_steps(run)) == 40


@pytest.mark.slow
def test_a_terminated_training_leaves_a_checkpoint_of_its_last_step(settings, tmp_path):
    run = tmp_path / "terminated"
    for number in (signal.SIGTERM, signal.SIGUSR1):
        process = start(settings, run, "checkpoint.every_n_steps=1000", "trainer.max_epochs=1000")
        kill_at(len(logged_steps(run)), process, run, number)
        assert process.returncode == 128 + signal.SIGTERM
        assert find_checkpoint(run / "train" / "checkpoints").stem == f"step-{len(logged_steps(run)):08d}"
    assert not (run / "model").exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_skipped(settings, undisturbed, tmp_path):
    run = tmp_path / "damaged"
    kill_at(5, start(settings, run), run)
    newest, before = sorted((run / "train" / "checkpoints").glob("step-*.ckpt"), reverse=True)[:2]
    os.truncate(newest, newest.stat().st_size // 2)
    out = finish(start(settings, run))
    assert f"{newest} is damaged" in out
    assert f"resumed from {before}" in out
    assert_same(run, undisturbed())


@pytest.mark.slow
def test_an_unfinished_training_does_not_resume_with_other_settings(command, settings, tmp_path):
    run = tmp_path / "run"
    kill_at(5, start(settings, run), run)
    same = overridden(settings, run)
    for override in ("optimizer.lr=3e-3", "trainer.max_epochs=11", "trainer.devices=2", "trainer.precision=bf16-mixed"):
        code, _, err = command("train", *same, override)
        assert code == 1
        assert err.startswith(f"{override.partition('=')[0]}: is ") and err.count("\n") == 1
        assert f"as in {run}/train/config.yaml" in err
        assert not (run / "model").exists()
    code, out, err = command("train", *same, "trainer.log_every_n_steps=2", "checkpoint.every_n_steps=9")
    assert (code, err) == (0, "")
    assert "resumed from" in out
