"""Atomic writes and removal: a file or folder under its final name is always complete."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import xxhash

from dpr_lightning.errors import DISK_ERRORS, UserError

_READ_AT_ONCE = 1 << 24  # bytes


def refuse_overwrite(
    path: Path, overwrite: bool, *, remedy: str = "Set overwrite=true to replace it, or choose another run_dir"
) -> None:
    """Raise UserError if `path` exists and `overwrite` is not set."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} is finished already. {remedy}.")


@contextlib.contextmanager
def atomic_path(path: Path, *, is_file: bool = False) -> Iterator[Path]:
    """Yield a temporary path that takes the name `path`, flushed to disk, when the block ends without an error.

    The block creates a file or a folder at the temporary path. An existing file is replaced in one step. An existing
    folder is moved aside, replaced and then deleted, so that no mixture of old and new exists at any moment. Where
    `path` is a symbolic link, its target is replaced and the link stays.

    Args:
        path: The final path; missing folders above it, and missing targets of links among them, are created.
        is_file: The block creates a file; a folder that it cannot replace is then refused before the block.

    Raises:
        UserError: A file is to replace a folder that is not empty.
        OSError: The disk is full or read-only; the error names `path`.
    """
    path = path.resolve() if path.is_symlink() else path
    create_parent(path)
    if is_file:
        _refuse_folder(path)
    temporary, aside = path.with_name(f".{path.name}.{os.getpid()}.tmp"), path.with_name(f".{path.name}.old")
    if aside.exists() and not path.exists():
        aside.rename(path)  # an earlier process was killed between the two renames below
    _remove(temporary)
    try:
        yield temporary
        for file in [temporary] if temporary.is_file() else filter(Path.is_file, temporary.rglob("*")):
            with file.open("rb+") as opened:
                flush_to_disk(opened)
        if temporary.is_file():
            _refuse_folder(path)
        if path.is_dir():
            _remove(aside)
            path.rename(aside)
        temporary.replace(path)
        _remove(aside)
    except OSError as error:
        if error.errno in DISK_ERRORS:  # names no file, or the temporary one
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    finally:
        _remove(temporary)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[io.TextIOWrapper]:
    """Yield a UTF-8 text file that takes the name `path` when the block ends; compressed where the name ends in .gz."""
    with atomic_path(path, is_file=True) as temporary, open_text(temporary, packed=path.suffix == ".gz") as file:
        yield file


@contextlib.contextmanager
def open_text(path: Path, *, packed: bool = False) -> Iterator[io.TextIOWrapper]:
    """Yield a new UTF-8 text file, compressed with gzip if `packed`."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        if not packed:
            yield file
            return
        with gzip.GzipFile("", "wb", fileobj=file.buffer, mtime=0) as stream, io.TextIOWrapper(stream, "utf-8") as text:
            yield text


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path` when the block ends without an error."""
    with atomic_path(path) as temporary:
        temporary.mkdir()
        yield temporary


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def values_hash(values: Mapping[str, Any]) -> str:
    """Return the XXH3 hash of JSON values, in any order of the keys; it is kept beside them to detect damage."""
    return xxhash.xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())


def file_hash(path: Path) -> str:
    """Return the XXH3 hash of a file's content, 128 bits as hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while content := file.read(_READ_AT_ONCE):
            digest.update(content)
    return digest.hexdigest()


def flush_to_disk(file: IO[Any]) -> None:
    """Return when everything written to `file` is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def size_text(size: int) -> str:
    """Return a number of bytes in the unit that fits it, such as `4.00 GB`, `150 MB` or `12 KB` (1 GB = 2**30)."""
    if size >= 1 << 30:
        return f"{size / (1 << 30):,.2f} GB"
    if size >= 1 << 20:
        return f"{size / (1 << 20):,.0f} MB"
    return f"{size / (1 << 10):,.0f} KB" if size >= 1 << 10 else f"{size} bytes"


def create_parent(path: Path) -> None:
    """Create the folder of a path if it is missing, also where a symbolic link leads to a missing folder."""
    Path(os.path.realpath(path.parent)).mkdir(parents=True, exist_ok=True)  # resolve() raises no OSError for a loop


def empty_folder(path: Path) -> None:
    """Delete everything in a folder, if it exists; where `path` is a symbolic link, everything in its target.

    Raises:
        OSError: something cannot be deleted.
    """
    for entry in path.iterdir() if path.is_dir() else ():
        _remove(entry)


def _refuse_folder(path: Path) -> None:
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} is a folder with files, and a file cannot replace it. Move or delete the folder.")


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return what a folder contains that matches a pattern, sorted; nothing if it does not exist.

    Raises:
        OSError: The folder cannot be read; `Path.glob` would find nothing.
    """
    return sorted(path for path in folder.iterdir() if path.match(pattern)) if folder.is_dir() else []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path)
        except OSError as error:  # names a file without its folder
            raise OSError(error.errno, error.strerror, str(path)) from error
    else:
        path.unlink(missing_ok=True)
