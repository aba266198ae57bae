"""Jobs that submitit runs for a sweep: how a mistake in a job reaches the command that has submitted it."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dpr_lightning.errors import ReportedMistake, UserError

_FAILURE = "failed.txt"
_REPEATED = ("Error executing job with overrides", "sbatch: error:")  # lines whose content is in the line that we print
_SETTINGS = {  # what sbatch says when it refuses a job, and the setting of hydra.launcher to correct
    "account": "account",
    "partition": "partition",
    "qos": "qos",
    "time limit": "timeout_min",
    "memory": "mem_gb",
    "gres": "gpus_per_node",
    "generic resource": "gpus_per_node",
    "cpu count": "cpus_per_task",
    "node count": "nodes",
    "node configuration": "mem_gb, cpus_per_task or gpus_per_node",
}


class JobError(UserError):
    """A job of a sweep has ended with a user's mistake; the message is its line."""

    def __init__(self, line: str, sweep: Path) -> None:
        """Take the line and the log folder of the sweep."""
        super().__init__(line)
        self.sweep = sweep

    def __reduce__(self) -> tuple[type[JobError], tuple[str, Path]]:
        """Return how to make a copy in another process."""
        return JobError, (str(self), self.sweep)


@contextlib.contextmanager
def passed_to_launching_command(folder: Path) -> Iterator[None]:
    """In a job of submitit or Ray, give the line of a mistake to the launching command, and SLURM the exit code 1.

    Both pass on exceptions alone. After SystemExit the launching command would wait for submitit's result, without
    accounting for ever, and Ray would report a crash. Hydra returns the exception as a result, after which submitit
    ends with exit code 0.

    Args:
        folder: The log folder of the job.
    """
    if not {"SUBMITIT_EXECUTOR", "RAY_RAYLET_PID"} & os.environ.keys():
        yield
        return
    try:
        yield
    except ReportedMistake as end:
        (folder / _FAILURE).write_text(f"{end.line}\n")
        _fail_at_exit()
        raise JobError(end.line, folder.parent) from None
    except Exception:
        _fail_at_exit()
        raise


def _fail_at_exit() -> None:
    if "SUBMITIT_EXECUTOR" in os.environ:
        atexit.register(_exit_with_failure)


def _exit_with_failure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


@contextlib.contextmanager
def failures_in_one_line() -> Iterator[None]:
    """Raise one UserError for all jobs of a sweep that have failed, or for jobs that SLURM has refused or lost."""
    if not any(word.startswith("hydra/launcher=") for word in sys.argv):
        yield
        return
    printed = io.StringIO()  # this process waits for the jobs and prints little
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except JobError as error:
        raise UserError(_of_failed_jobs(error)) from None
    except Exception as error:
        if type(error).__module__.startswith("submitit.") and (line := _of_submitit(str(error))):
            raise UserError(line) from None
        if type(error).__module__.startswith("ray.exceptions"):
            problem = str(error).partition("\n")[0]
            raise UserError(
                f"hydra/launcher: a job on Ray has died ({problem}). The same command runs only what is missing."
            ) from None
        raise
    finally:
        lines = printed.getvalue().splitlines(keepends=True)
        sys.stderr.writelines(line for line in lines if not line.startswith(_REPEATED))


def _of_failed_jobs(error: JobError) -> str:
    files = sorted(error.sweep.glob(f"*/{_FAILURE}"))
    if len(files) < 2:
        return f"{error} The log is in {files[0].parent}." if files else str(error)
    lines = "; ".join(f"{file.parent}: {file.read_text().strip()}" for file in files)
    return f"{len(files)} jobs failed; the same command runs only what is missing. {lines}"


def refused_by_slurm(message: str) -> str | None:
    """Return one line for what `sbatch` says when it refuses a job; None for other messages."""
    if not (refused := re.search(r"sbatch: error: (?:Batch job submission failed: )?(.*)", message)):
        return None
    setting = next((name for text, name in _SETTINGS.items() if text in message.lower()), "KEY")
    return f"hydra.launcher: SLURM refuses the jobs ({refused[1].strip()}). Correct hydra.launcher.{setting}."


def _of_submitit(message: str) -> str | None:
    """Return one line for a refused `sbatch` or for a job that ended without a result; None for other exceptions."""
    if refused := refused_by_slurm(message):
        return refused
    if ended := re.search(r"Job not requeued because: (.*)\.", message):
        return f"hydra.launcher.max_num_timeout: a job was not queued again ({ended[1]}). The same command continues."
    if lost := re.match(r"(Job \S+) .* with path (\S+)\n.*\(state: (.*)\)", message):
        log = lost[2].replace("_result.pkl", "_log.err")
        return f"{lost[1]} of SLURM ended as {lost[3]}; its log is {log}. The same command runs only what is missing."
    return None
