"""Writing output so that it appears whole under its final name, or not at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from dpr_lightning.errors import UserError


def refuse_overwrite(
    path: Path, overwrite: bool, *, remedy: str = "Set overwrite=true to make it anew, or choose another run_dir"
) -> None:
    """Raises UserError if `path` is there and `overwrite` is not set."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} is finished already. {remedy}.")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[io.TextIOWrapper]:
    """A text file to write to; it takes the name `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            flush_to_disk(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write_lines(path: Path) -> Iterator[io.TextIOWrapper]:
    """As `atomic_write`, and compressed where the name ends in .gz."""
    with atomic_write(path) as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", fileobj=file.buffer, mtime=0) as packed, io.TextIOWrapper(packed, "utf-8") as text:
            yield text


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            with file.open("rb+") as opened:
                flush_to_disk(opened)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def flush_to_disk(file: IO[Any]) -> None:
    """Returns when what was written to `file` is on the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Holds the right to write a file, which ends with this process.

    Raises:
        UserError: another process holds it.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{path} is being written by another process. Wait for it, or choose another shard.") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before the release: a lock on a removed file counts for nothing
        lock.release()
