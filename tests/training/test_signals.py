"""Signals to all processes of a training, the processes that SLURM starts, and the lock of a run folder."""

import signal

import pytest
from support.trainings import CACHED, TWO_PROCESSES, assert_same, logged_steps, overridden, signal_at, start

from dpr_lightning.locks import exclusive_lock
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training.checkpoints import find_checkpoint
from dpr_lightning.training.processes import overwrites, remember_overwriting

RARE = "checkpoint.every_n_steps=1000"


def stop_at(step, settings, run, *overrides, number):
    """Signal all processes of a training at a step, and check that they end with a checkpoint of their last step."""
    process = start(settings, run, RARE, *overrides)
    out, err = signal_at(step, process, run, number)  # returns when all processes have closed their output
    assert process.returncode == 128 + signal.SIGTERM, err
    steps = logged_steps(run)[-1][0] + 1
    assert find_checkpoint(run / "train" / "checkpoints").stem == f"step-{steps:08d}"
    assert f"stopped by {number.name}; the same command continues from step {steps}\n" in out
    assert not (run / "model").exists()


@pytest.mark.slow
def test_a_training_with_workers_ends_with_the_same_bits_after_signals(command, settings, tmp_path):
    run, undisturbed = tmp_path / "stopped", tmp_path / "undisturbed"
    for step, number in ((1, signal.SIGUSR2), (14, signal.SIGTERM)):
        stop_at(step, settings, run, "data.num_workers=2", number=number)
    assert "resumed from" in start(settings, run, RARE, "data.num_workers=2").finish()
    assert command("train", *overridden(settings, undisturbed))[0] == 0
    assert_same(run, undisturbed)


@pytest.mark.slow
def test_two_processes_with_gradient_cache_end_with_the_same_bits_after_a_kill_and_a_signal(settings, tmp_path):
    """Lightning starts the second process of the one that is signalled, and torchrun those of the others."""
    run, undisturbed = tmp_path / "stopped", tmp_path / "undisturbed"
    common = (*TWO_PROCESSES, *CACHED, "data.num_workers=1")
    signal_at(2, start(settings, run, *common, ranks=2), run)
    stop_at(17, settings, run, *common, number=signal.SIGUSR1)
    assert "resumed from" in start(settings, run, RARE, *common, ranks=2).finish()
    start(settings, undisturbed, *common, ranks=2).finish()
    assert_same(run, undisturbed)
    assert len(logged_steps(run)) == 40


SLURM = {
    "one process, two tasks": (
        ["trainer.devices=1"],
        {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
        "need 1 processes, but SLURM has 2 ",
    ),
    "two devices, one task": (TWO_PROCESSES, {"SLURM_NTASKS": "1"}, "need 2 processes, but SLURM has 1 "),
    "tasks per node unknown": (TWO_PROCESSES, {"SLURM_NTASKS": "2"}, "Use `--ntasks-per-node=2` instead"),
    "other nodes": (
        TWO_PROCESSES,
        {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "3"},
        "number of nodes configured in SLURM",
    ),
}


@pytest.mark.parametrize("kind", SLURM)
def test_devices_that_are_not_slurm_s_tasks_are_refused(command, settings, monkeypatch, kind):
    overrides, environment, message = SLURM[kind]
    for name, value in {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", **environment}.items():
        monkeypatch.setenv(name, value)
    code, out, err = command("train", *settings, *overrides)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith("trainer: ") and message in err


def test_mixed_precision_of_gpus_is_refused_on_a_cpu(command, settings):
    code, _, err = command("train", *settings, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1")
    assert code == 1
    assert err.startswith("trainer.precision: 16-mixed is not possible on a CPU") and err.count("\n") == 1


def test_two_trainings_do_not_share_a_run_folder(command, settings, tmp_path):
    run = RunDir(tmp_path / "run")
    with exclusive_lock(run.model):
        code, _, err = command("train", *settings, "overwrite=true")
    assert code == 1
    assert err.startswith(f"{run.model} is being written by another process. Wait for the training to end, or choose")
    assert not run.train.exists()
    assert command("train", *settings, "trainer.max_steps=1")[0] == 0


def test_a_job_that_slurm_queues_again_does_not_overwrite_its_checkpoints(tmp_path, monkeypatch):
    run = RunDir(tmp_path)
    assert overwrites(run, True) and not overwrites(run, False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert overwrites(run, True)
    remember_overwriting(run)
    assert overwrites(run, True)  # a script that trains twice
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not overwrites(run, True)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert overwrites(run, True)
