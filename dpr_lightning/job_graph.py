"""Submits the jobs of a replication to SLURM, each to start after others, so that nothing waits on a login node."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpr_lightning.call_record import mistake_file
from dpr_lightning.errors import UserError
from dpr_lightning.files import write_json
from dpr_lightning.locks import exclusive_lock
from dpr_lightning.replication import SHARD, Command, Job
from dpr_lightning.submitted import refused_by_slurm

_OPTIONS = {  # of sbatch, by the setting of hydra.launcher
    **{name: name for name in ("partition", "account", "qos", "constraint", "exclude", "comment", "gres", "nodes")},
    "cpus_per_task": "cpus-per-task",
    "cpus_per_gpu": "cpus-per-gpu",
    "gpus_per_node": "gpus-per-node",
    "gpus_per_task": "gpus-per-task",
    "tasks_per_node": "ntasks-per-node",
    "mem_per_gpu": "mem-per-gpu",
    "mem_per_cpu": "mem-per-cpu",
    "timeout_min": "time",
}
_SCRIPT = """\
#!/bin/bash
{setup}
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
run() {{
    srun --kill-on-bad-exit=1 "$@"
    code=$?
    [ $code -eq 0 ] && return
    # Requeue after SIGBUS, SIGKILL, SIGSEGV or an early SIGUSR1, at most three times. Of several processes, a mistake
    # of one kills the others, so its file tells.
    if [ ! -e "{mistake}" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt 3 ]; then
        case $code in 135|137|138|139) scontrol requeue "$SLURM_JOB_ID" ;; esac
    fi
    exit $code
}}
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt {restarts} ]; then
    echo "queued again more than {restarts} times; raise hydra.launcher.timeout_min" >&2
    exit 1
fi
{commands}
"""


def submit(jobs: Sequence[Job], logs: Path, settings: Callable[[Job], Mapping[str, Any]]) -> dict[str, str]:
    """Submit all jobs and return the number of each by its name.

    SLURM requeues a preempted job. Before the time limit it sends SIGUSR1, and the command requeues its job. Training
    and encoding continue where they stopped. The numbers are kept in `jobs.json`.

    Args:
        jobs: The jobs; each depends only on those before it.
        logs: The folder of their logs.
        settings: Returns the settings of the launcher of a job.

    Raises:
        UserError: Jobs of an earlier submission have not ended, or SLURM refuses a job; those before are cancelled.
    """
    with exclusive_lock(logs / "jobs.json", remedy="Another submission is in progress"):
        if active := _active(logs):
            raise UserError(
                f"{logs}: jobs of an earlier submission have not ended: {' '.join(active)}. Wait for them, or cancel "
                f"them (scancel {' '.join(active)})."
            )
        return _submit(jobs, logs, settings)


def _submit(jobs: Sequence[Job], logs: Path, settings: Callable[[Job], Mapping[str, Any]]) -> dict[str, str]:
    numbers: dict[str, str] = {}
    try:
        for job in jobs:
            launcher = settings(job)
            if "signal_delay_s" not in launcher:
                raise UserError(f"{job.name}: its launcher is not one of SLURM. Choose another launcher.")
            script = _script(job, logs, launcher)
            options = _options(job, logs, launcher, numbers)
            numbers[job.name] = _slurm(["sbatch", "--parsable", *options], script).strip().partition(";")[0]
            write_json(logs / "jobs.json", numbers)
    except BaseException:
        if numbers:
            subprocess.run(["scancel", *numbers.values()], check=False)
        raise
    return numbers


def _active(logs: Path) -> list[str]:
    """Return the numbers of those jobs of an earlier submission that have not ended."""
    file = logs / "jobs.json"
    if not file.exists():
        return []
    queued = _slurm(["squeue", "--me", "--noheader", "--format=%F"]).split()
    return [number for number in json.loads(file.read_text()).values() if number in queued]


def _options(job: Job, logs: Path, settings: Mapping[str, Any], numbers: Mapping[str, str]) -> list[str]:
    """Return the options of sbatch for a job."""
    options = {option: settings.get(name) for name, option in _OPTIONS.items()}
    options["mem"] = f"{settings['mem_gb']}G" if settings.get("mem_gb") else None
    options |= {"job-name": f"{job.name}-{logs.parents[1].name}", "signal": f"USR1@{settings['signal_delay_s']}"}
    options |= {"open-mode": "append", "output": f"{logs}/{job.name}-%{'A_%a' if job.array else 'j'}.log"}
    options |= {name.replace("_", "-"): value for name, value in (settings.get("additional_parameters") or {}).items()}
    if job.array:
        options["array"] = f"{','.join(map(str, job.array))}%{settings['array_parallelism']}"
    after = [f"{kind}:{':'.join(numbers[name] for name in names)}" for kind, names in job.after.items()]
    if after:
        options |= {"dependency": ",".join(after), "kill-on-invalid-dep": "yes"}
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return ["--requeue", *(f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items())]


def _script(job: Job, logs: Path, settings: Mapping[str, Any]) -> str:
    """Return the script of a job; one whose commands cannot continue where they stopped is not restarted for ever."""
    return _SCRIPT.format(
        setup="\n".join(settings.get("setup") or []),
        mistake=mistake_file(logs.absolute(), "$SLURM_JOB_ID"),
        restarts=1_000_000 if job.is_gpu_job else settings.get("max_num_timeout") or 0,
        commands="\n".join(f"run {_in_shell(command)}" for command in job.commands),
    )


def _in_shell(command: Command) -> str:
    words = [sys.executable, "-m", f"dpr_lightning.commands.{command.name}"]
    quoted = [word if word == SHARD else shlex.quote(word) for word in command.overrides]
    return " ".join([shlex.join(words), *quoted])


def _slurm(words: Sequence[str], script: str | None = None) -> str:
    """Return what a program of SLURM prints.

    Raises:
        UserError: The program does not exist, or refuses.
    """
    try:
        done = subprocess.run(words, input=script, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(f"--slurm: this machine has no {words[0]}. Leave it out, or use a SLURM machine.") from None
    if done.returncode:
        problem = done.stderr.strip()
        raise UserError(refused_by_slurm(problem) or f"--slurm: {words[0]} failed ({problem}).")
    return done.stdout
