"""What a command was called with, where, and how it ended: files in the log folder of the call, beside its output."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from dpr_lightning.errors import FinishedError, ReportedMistake
from dpr_lightning.files import atomic_write, write_json

_PACKAGES = ("dpr_lightning", "torch", "pytorch-lightning", "transformers", "datasets", "faiss-cpu", "faiss-gpu")


def write_call_record(folder: Path, command: Sequence[str], settings: str) -> None:
    """Write `call.json` (command, host, device, commit, versions) and `resolved.yaml` (every setting) into a folder.

    Args:
        folder: The log folder of this call, which no other call shares.
        command: The words of the command line.
        settings: The composed config as YAML.
    """
    write_json(
        folder / "call.json",
        {
            "command": list(command),
            "folder": str(Path.cwd()),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "device": _device(),
            "commit": _first_line(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]),
            "python": sys.version.split()[0],
            "versions": {name: number for name in _PACKAGES if (number := _version(name))},
        },
    )
    with atomic_write(folder / "resolved.yaml") as file:
        file.write(settings)


@contextlib.contextmanager
def recorded_end(folder: Path) -> Iterator[dict[str, Any]]:
    """Write `ended.json` (time, exit code, last line) into the log folder of a call when the block ends.

    The file is not written if the process is killed. The block sets the line of a success in the yielded dictionary.
    """
    end: dict[str, Any] = {"exit_code": 0, "line": ""}
    try:
        yield end
    except ReportedMistake as mistake:
        is_finished = isinstance(mistake.__cause__, FinishedError)
        end |= {"exit_code": 1, "line": mistake.line, "is_finished": is_finished}
        _tell_job(folder, mistake.line)
        raise
    except SystemExit as stop:
        end |= {"exit_code": stop.code}
        raise
    except BaseException as error:
        end |= {"exit_code": 1, "line": repr(error)}
        raise
    finally:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with contextlib.suppress(OSError):  # a full disk, or a log folder that could not be made
            if folder.is_dir():
                write_json(folder / "ended.json", {"ended": now, **end})


def mistake_file(jobs: Path, number: str) -> Path:
    """Return the file that tells a job of `job_graph.py` that its command has ended with a user's mistake."""
    return jobs / f"mistake-{number}"


def _tell_job(folder: Path, line: str) -> None:
    logs, number = _logs_of(folder), os.environ.get("SLURM_JOB_ID")
    if logs and number and (logs / "slurm").is_dir():
        with contextlib.suppress(OSError):
            mistake_file(logs / "slurm", number).write_text(f"{line}\n")


def _logs_of(folder: Path) -> Path | None:
    """Return `RUN/logs` for the log folder `RUN/logs/COMMAND/TIME`; None for a folder that the user has chosen."""
    above = folder.parents[:3]
    return above[1] if len(above) == 3 and above[1].name == "logs" else None


@contextlib.contextmanager
def forgotten_if_refused(folder: Path) -> Iterator[None]:
    """After a user's mistake, delete the run folder if it contains nothing but the log of this call.

    Args:
        folder: The log folder of the call, `RUN/logs/COMMAND/TIME`.
    """
    try:
        yield
    except ReportedMistake:
        here = (Path.cwd(), *Path.cwd().parents)
        with contextlib.suppress(OSError):  # a network file system keeps the open log file
            logs = _logs_of(folder)
            if logs and logs.parent not in here and not logs.parent.is_symlink() and _is_alone(folder):
                shutil.rmtree(logs)
                logs.parent.rmdir()
        raise


def _is_alone(folder: Path) -> bool:
    """Return whether the run folder has nothing but this log folder, and this no logs of other processes."""
    path = [folder, *folder.parents[:3]]
    is_alone = all(list(parent.iterdir()) == [child] for child, parent in pairwise(path))
    return is_alone and all(entry.is_file() or entry.name == ".hydra" for entry in folder.iterdir())


def _device() -> str:
    """Return the first GPU that this process sees, or else the CPU and its number of cores."""
    gpu = _first_line(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return gpu or f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs"


def _first_line(command: Sequence[str]) -> str | None:
    """Return the first line that a program prints; None if it does not exist or fails."""
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.partition("\n")[0] or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
