"""What a command was called with, where, and how it ended: files in the log folder of the call, beside its output.

`RUN/logs/COMMAND/TIME` is the log folder of a call, and `RUN/logs/COMMAND/TIME/NUMBER` that of a job of a sweep. No
other code knows this layout and the names of the files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from dpr_lightning.environment import environment
from dpr_lightning.errors import FinishedError, ReportedMistake
from dpr_lightning.files import atomic_write, write_json

_CALL, _SETTINGS, _END = "call.json", "resolved.yaml", "ended.json"


@dataclass(frozen=True)
class Call:
    """A call as its log folder describes it; what was not recorded is empty."""

    log: Path
    record: dict[str, Any]
    end: dict[str, Any]
    is_worker: bool  # of another call, which started it

    @property
    def words(self) -> list[str]:
        """The name of the command, and the words after it."""
        return list(self.record.get("command") or [""])

    @property
    def has_succeeded(self) -> bool:
        """Whether the call has ended without an error, and not because its output existed already."""
        return self.end.get("exit_code") == 0 and not self.end.get("is_finished")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The composed config of the call; empty if it cannot be read."""
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        with contextlib.suppress(OSError, ValueError, TypeError, yaml.YAMLError):
            return dict(yaml.load((self.log / _SETTINGS).read_bytes(), loader))
        return {}


def read_calls(logs: Path) -> list[Call]:
    """Return the calls of a folder `RUN/logs` in the order in which they began."""
    found = logs.glob(f"*/**/{_CALL}") if logs.is_dir() else ()
    calls = [read_call(file.parent, is_worker=_is_worker(file.parent, logs)) for file in found]
    return sorted(calls, key=lambda call: (call.record.get("started", ""), call.log))


def ended_jobs(sweep: Path) -> list[Call]:
    """Return the jobs of a sweep's log folder that have ended, in the order of their numbers."""
    logs = sorted((file.parent for file in sweep.glob(f"*/{_END}")), key=lambda log: (len(log.name), log.name))
    return [read_call(log) for log in logs]


def read_call(log: Path, *, is_worker: bool = False) -> Call:
    """Return the call of a log folder."""
    return Call(log, _read(log / _CALL), _read(log / _END), is_worker)


def command_text(words: Sequence[str]) -> str:
    """Return the words of a call as a command line."""
    return shlex.join(["python", f"{words[0]}.py", *words[1:]])


def _is_worker(log: Path, logs: Path) -> bool:
    """Return whether a folder between a log folder and `logs` is that of a call."""
    above = log.relative_to(logs).parents
    return any((logs / folder / _CALL).exists() for folder in above)


def _read(file: Path) -> dict[str, Any]:
    """Return the content of a file, or nothing if it does not exist or is being written."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(file.read_bytes()))
    return {}


def write_call_record(folder: Path, command: Sequence[str], settings: str) -> None:
    """Write `call.json` (command, host, commit, versions, machine) and `resolved.yaml` (every setting) into a folder.

    Args:
        folder: The log folder of this call, which no other call shares.
        command: The words of the command line.
        settings: The composed config as YAML.
    """
    write_json(
        folder / _CALL,
        {
            "command": list(command),
            "folder": str(Path.cwd()),
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            **environment(),
        },
    )
    with atomic_write(folder / _SETTINGS) as file:
        file.write(settings)


@contextlib.contextmanager
def recorded_end(folder: Path) -> Iterator[dict[str, Any]]:
    """Write `ended.json` (time, seconds, exit code, last line) into the log folder of a call when the block ends.

    The file is not written if the process is killed. The block sets the line of a success in the yielded dictionary,
    and `is_finished` if the output existed already.
    """
    start = time.perf_counter()
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
        now, seconds = datetime.now().astimezone().isoformat(timespec="seconds"), time.perf_counter() - start
        with contextlib.suppress(OSError):  # a full disk, or a log folder that could not be made
            if folder.is_dir():
                write_json(folder / _END, {"ended": now, "seconds": round(seconds, 3), **end})


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
