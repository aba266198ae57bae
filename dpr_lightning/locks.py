"""Locks: one process at a time writes an output, and others can see which.

The lock is an `flock` of a hidden file beside the output, which the system releases when its holder dies. On NFS it
holds for all machines that mount the folder without `nolock` or `local_lock` (Linux passes it on to the server).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpr_lightning.errors import LockedError
from dpr_lightning.files import create_parent, write_json

_PATIENCE_S = 0.2  # seconds to wait, because `read_holder` may briefly have a shared lock


@contextlib.contextmanager
def exclusive_lock(path: Path, *, remedy: str = "Wait for it to end") -> Iterator[None]:
    """Hold the right to write `path`, until the block ends or this process dies.

    Raises:
        LockedError: Another process holds it.
    """
    create_parent(path)
    lock = FileLock(_lock_file(path))
    try:
        lock.acquire(timeout=_PATIENCE_S, poll_interval=_PATIENCE_S / 4)
    except Timeout:
        raise LockedError(f"{path} is being written by another process. {remedy}.") from None
    try:
        job = os.environ.get("SLURM_JOB_ID")
        _write_holder(path, {"host": socket.gethostname(), "process": os.getpid(), "slurm_job": job})
        yield
    finally:
        _holder_file(path).unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)  # before the release, after which another process may lock it
        lock.release()


def describe_holder(path: Path, **facts: Any) -> None:
    """Tell `read_holder` facts about the work that begins now, if this process has locked `path`."""
    with contextlib.suppress(OSError, ValueError):
        _write_holder(path, json.loads(_holder_file(path).read_bytes()) | facts)


def _write_holder(path: Path, holder: dict[str, Any]) -> None:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        write_json(_holder_file(path), holder | {"since": since})
    except OSError:  # a full disk, which is reported by what is written next; an earlier holder's file must go
        with contextlib.suppress(OSError):
            _holder_file(path).unlink(missing_ok=True)


def read_holder(path: Path) -> dict[str, Any] | None:
    """Return the process that has locked `path`: host, process, slurm_job, since when, and facts; None if none has."""
    with contextlib.suppress(OSError, ImportError), _lock_file(path).open() as file:
        import fcntl  # not on Windows

        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(OSError, ValueError):
                return dict(json.loads(_holder_file(path).read_bytes()))
            return {}
    return None


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _holder_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.holder")
