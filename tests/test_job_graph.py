"""The jobs of a graph: options and dependencies, and which ends of a command queue a job again."""

import json
import os
import subprocess

import pytest

from dpr_lightning import job_graph
from dpr_lightning.errors import UserError
from dpr_lightning.job_graph import submit
from dpr_lightning.replication import SHARD, Command, Job

SETTINGS = {"partition": "gpu", "mem_gb": 8, "timeout_min": 60, "signal_delay_s": 90, "array_parallelism": 2}
JOBS = [
    Job("train", [Command("train", ["name=a b"])]),
    Job("encode", [Command("encode", [SHARD, "run_dir=it's"])], after={"afterok": ["train"]}, array=[0, 2]),
    Job("rest", [Command("encode", []), Command("search", [])], after={"afterok": ["train"], "afterany": ["encode"]}),
]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts programs on PATH: `programs(sbatch="echo 7")`."""

    def write(**scripts):
        for name, script in scripts.items():
            file = tmp_path / "bin" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"#!/bin/bash\n{script}\n")
            file.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return write


COUNT = 'n=$(cat count 2>/dev/null || echo 100); echo $((n + 1)) > count; echo "$@" > $n.options; cat > $n.script; '


def test_each_job_starts_after_the_numbers_of_others(programs, tmp_path):
    programs(sbatch=COUNT + "echo $n", squeue="cat queue 2>/dev/null")
    numbers = submit(JOBS, tmp_path / "run" / "logs" / "slurm", lambda job: SETTINGS)
    assert numbers == {"train": "100", "encode": "101", "rest": "102"}
    first, array, last = ((tmp_path / f"{n}.options").read_text().split() for n in (100, 101, 102))
    assert {"--requeue", "--partition=gpu", "--mem=8G", "--time=60", "--signal=USR1@90"} <= set(first)
    assert not [word for word in first if word.startswith(("--dependency", "--array"))]
    assert {"--array=0,2%2", "--dependency=afterok:100", "--kill-on-invalid-dep=yes"} <= set(array)
    assert "--dependency=afterok:100,afterany:101" in last
    assert f"dpr_lightning.commands.encode {SHARD} 'run_dir=it'\"'\"'s'\n" in (tmp_path / "101.script").read_text()
    (tmp_path / "queue").write_text("55\n102\n")
    with pytest.raises(
        UserError, match=r"jobs of an earlier submission have not ended: 102\. Wait for them, or cancel"
    ):
        submit(JOBS, tmp_path / "run" / "logs" / "slurm", lambda job: SETTINGS)


def test_jobs_before_a_refused_one_are_cancelled(programs, tmp_path):
    refuse = "[ $n -lt 102 ] && echo $n || { echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1; }"
    programs(sbatch=COUNT + refuse, scancel='echo "$@" > cancelled')
    with pytest.raises(UserError, match=r"^hydra\.launcher: SLURM refuses the jobs .* hydra\.launcher\.partition\."):
        submit(JOBS, tmp_path / "run" / "logs" / "slurm", lambda job: SETTINGS)
    assert (tmp_path / "cancelled").read_text() == "100 101\n"
    assert json.loads((tmp_path / "run" / "logs" / "slurm" / "jobs.json").read_text()) == {
        "train": "100",
        "encode": "101",
    }


@pytest.mark.parametrize(
    ("ends_with", "restarts", "code", "is_queued"),
    [
        ("exit 0", 0, 0, False),
        ("exit 1", 0, 1, False),  # a user's mistake
        ("exit 143", 0, 143, False),  # SIGTERM, of scancel or of a preemption
        ("kill -USR1 $$", 0, 138, True),  # before the command handles it
        ("kill -9 $$", 0, 137, True),
        ("kill -9 $$", 2, 137, True),
        ("kill -9 $$", 3, 137, False),
    ],
)
def test_a_killed_command_queues_its_job_again(programs, tmp_path, ends_with, restarts, code, is_queued):
    programs(srun='shift; "$@"', scontrol='echo "$@" > queued')
    commands = f"run bash -c '{ends_with}'\nrun touch second"
    values = {"setup": "export OWN=1", "mistake": f"{tmp_path}/mistake-$SLURM_JOB_ID", "restarts": 5}
    script = job_graph._SCRIPT.format(**values, commands=commands)
    environment = {**os.environ, "SLURM_RESTART_COUNT": f"{restarts}", "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash"], input=script, text=True, env=environment).returncode == code
    assert (tmp_path / "second").exists() == (code == 0)
    assert (tmp_path / "queued").exists() == is_queued
    assert not is_queued or (tmp_path / "queued").read_text() == "requeue 7\n"


def test_a_mistake_of_one_process_that_kills_the_others_is_not_repeated(programs, tmp_path):
    programs(srun="exit 137", scontrol='echo "$@" > queued')
    values = {"setup": "", "mistake": f"{tmp_path}/mistake-$SLURM_JOB_ID", "restarts": 5, "commands": "run true"}
    script = job_graph._SCRIPT.format(**values)
    (tmp_path / "mistake-7").touch()
    for restarts, code in (("0", 137), ("6", 1)):  # a job that is restarted too often ends at once
        environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts}
        assert subprocess.run(["bash"], input=script, text=True, env=environment).returncode == code
    assert not (tmp_path / "queued").exists()


def test_a_command_tells_its_job_of_a_mistake(command, settings, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "run" / "logs" / "slurm").mkdir(parents=True)
    code, _, err = command("search", *settings)
    assert code == 1
    assert (tmp_path / "run" / "logs" / "slurm" / "mistake-7").read_text() == err
