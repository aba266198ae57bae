"""The replication on a real SLURM: one submission ends with figures, whatever happens to its jobs in between."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm.test_training import job_info, needs_slurm, wait_for
from support.trainings import TWO_PROCESSES
from support.world import ROOT

pytestmark = needs_slurm
LONG = ("trainer.max_epochs=40", "checkpoint.every_n_steps=100000", "data.num_workers=1", "num_shards=4")


def queue(*options):
    """Return a line per job of `squeue`, an array's jobs one by one."""
    words = ["squeue", "--noheader", "--array", *options]
    return subprocess.run(words, capture_output=True, text=True).stdout.splitlines()


def replicate(settings, run, *words):
    script = [sys.executable, str(ROOT / "scripts" / "replicate.py"), *settings, *TWO_PROCESSES, *LONG]
    done = subprocess.run([*script, f"run_dir={run}", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def processes_of(text):
    """Return the numbers of the Python processes whose command line has a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if Path(words[0].decode()).name.startswith("python") and text.encode() in words:
            found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_a_graph_survives_a_preemption_a_kill_and_a_cancelled_job(settings, tmp_path):
    """The training is signalled once, a process that encodes is killed, a job that searches is cancelled."""
    run = tmp_path / "run"
    resources = ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2", "hydra.launcher.timeout_min=60"]
    printed = replicate(settings, run, "--slurm", "--gpu-launcher", "slurm_cpu", *resources)
    numbers = json.loads((run / "logs" / "slurm" / "jobs.json").read_text())
    assert list(numbers) == ["prepare", "train", "encode", "queries", "rest", "search", "finish"]
    assert all(number in printed for number in numbers.values())

    wait_for(lambda: (run / "train" / "metrics.csv").exists())
    subprocess.run(["scancel", "--signal=USR1", numbers["train"]], check=True)
    killed = wait_for(lambda: processes_of("shard=2"))
    os.kill(killed[0], signal.SIGKILL)
    subprocess.run(["scancel", f"{numbers['search']}_1"], check=True)

    metrics = run / "evaluation" / "test" / "metrics.json"
    wait_for(lambda: metrics.exists() or not queue(f"--jobs={','.join(numbers.values())}"))
    logs = "\n".join(f"{log}:\n{log.read_text()}" for log in sorted((run / "logs" / "slurm").glob("*.log")))
    assert metrics.exists(), logs
    assert job_info(numbers["train"], "Restarts") == "1", logs
    assert job_info(f"{numbers['encode']}_2", "Restarts") == "1", logs

    replicate(settings, tmp_path / "local")
    for name in ("rankings/test.trec", "model/model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
