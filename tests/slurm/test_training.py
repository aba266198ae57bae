"""Trainings on a real SLURM: signalled jobs are queued again and end with the bits of an undisturbed run."""

import os
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from support.metrics import logged_rows
from support.trainings import TWO_PROCESSES, assert_same, overridden, start
from support.world import ROOT

needs_slurm = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        "SLURM_CONF" not in os.environ or not shutil.which("sbatch"),
        reason="needs a SLURM cluster: `make test-slurm` starts one",
    ),
]
pytestmark = needs_slurm
LONG = ("trainer.max_epochs=40", "checkpoint.every_n_steps=100000", "data.num_workers=1")


def wait_for(condition, seconds=600):
    """Wait until a condition is true, and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "SLURM took too long"
        time.sleep(0.2)
    return value


def job_info(job, field):
    """Return a field of `scontrol show job`."""
    shown = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True).stdout
    return dict(word.partition("=")[::2] for word in shown.split()).get(field)


def ended_state(job):
    """Return the state of a job that has ended; else None."""
    state = job_info(job, "JobState")
    return None if state in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING") else state


def submit(folder, command, *options):
    """Submit a job of one command, whose output is `folder/job.log`, and return its number."""
    words = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={folder}/job.log", *options]
    done = subprocess.run([*words, f"--wrap={command}"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def train_command(settings, run, *overrides):
    words = [sys.executable, str(ROOT / "train.py"), *overridden(settings, run, *LONG, *overrides)]
    return shlex.join(words)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_slurm_signals_is_queued_again_and_ends_with_the_same_bits(settings, tmp_path, processes):
    """One process by `sbatch` alone, two by `srun`; the command says overwrite=true, which empties the folder once."""
    run, pair = tmp_path / "stopped", TWO_PROCESSES if processes == 2 else ()
    command = train_command(settings, run, *pair, "overwrite=true")
    if processes == 1:
        job = submit(tmp_path, f"exec {command}", "--ntasks=1")
    else:
        job = submit(tmp_path, f"srun {command}", "--ntasks-per-node=2", "--nodes=1")
    wait_for(lambda: len(logged_rows(run)) > 3)
    signal = ["scancel", "--signal=USR1", *(["--full"] if processes == 1 else []), job]
    subprocess.run(signal, check=True)
    state = wait_for(lambda: ended_state(job))
    log = (tmp_path / "job.log").read_text()
    assert (state, job_info(job, "Restarts")) == ("COMPLETED", "1"), log
    assert "stopped by SIGUSR1; the same command continues from step" in log and "resumed from" in log
    start(settings, tmp_path / "undisturbed", *LONG, *pair).finish()
    assert_same(run, tmp_path / "undisturbed")


def sweep(settings, run, *overrides):
    """Start a sweep of one training on SLURM."""
    launcher = ["-m", "hydra/launcher=slurm_cpu", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"]
    launcher += ["trainer.devices=auto"]
    return start(settings, run, *LONG, *launcher, *overrides)


def test_a_sweep_s_job_that_is_preempted_continues(settings, tmp_path):
    run = tmp_path / "stopped"
    process = sweep(settings, run, *TWO_PROCESSES)
    wait_for(lambda: len(logged_rows(run)) > 3)
    jobs = subprocess.run(["squeue", "-h", "-o", "%A", "--name=train"], capture_output=True, text=True).stdout.split()
    subprocess.run(["scancel", "--signal=USR2", jobs[-1]], check=True)
    process.finish()
    assert job_info(jobs[-1], "Restarts") == "1"
    start(settings, tmp_path / "undisturbed", *LONG, *TWO_PROCESSES).finish()
    assert_same(run, tmp_path / "undisturbed")


def test_a_mistake_in_a_sweep_s_job_is_one_line_of_the_launching_command(settings, tmp_path):
    process = sweep(settings, tmp_path / "run", "optimizer.lr=-1")
    _, err = process.communicate(timeout=400)
    assert (process.returncode, err.count("\n")) == (1, 1), err
    assert err.startswith("optimizer: Invalid learning rate: -1")
    job = subprocess.run(["scontrol", "-o", "show", "jobs"], capture_output=True, text=True).stdout
    assert "JobState=FAILED" in [line for line in job.splitlines() if str(tmp_path) in line][-1]


def test_a_job_that_slurm_refuses_is_one_line_that_names_the_setting(settings, tmp_path):
    process = sweep(settings, tmp_path / "run", "hydra.launcher.mem_gb=100000")
    _, err = process.communicate(timeout=400)
    assert (process.returncode, err.count("\n")) == (1, 1), err
    assert err.startswith("hydra.launcher: SLURM refuses the jobs") and "hydra.launcher.mem_gb" in err
