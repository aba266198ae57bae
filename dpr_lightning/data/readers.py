"""Finds data files on disk or on the Hugging Face hub, and reads their records one by one."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from dpr_lightning.errors import UserError
from dpr_lightning.text_files import read_lines

HUB = "hf://datasets/"
_JSON_LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


def find_files(spec: str | Sequence[str] | None, *, name: str) -> list[Path]:
    """Return the local files of a path, a glob, an `hf://datasets/OWNER/NAME/FILE` address, or a list of these.

    The files of one glob are in alphabetical order. Hub files are first downloaded into the hub's cache.

    Args:
        spec: The files to find.
        name: The argument that `spec` comes from, for messages.

    Raises:
        UserError: Nothing is given, no file matches, or a file is of a kind that is not read.
    """
    if not spec:
        raise UserError(f"{name}: is not set. Give a .jsonl, .jsonl.gz or .parquet file: `{name}`=PATH.")
    files: list[Path] = []
    for pattern in [spec] if isinstance(spec, str) or not isinstance(spec, Sequence) else spec:
        if not isinstance(pattern, str):
            raise UserError(f"{name}: {pattern!r} is not a path. Give a path, a glob or a list of them: `{name}`=PATH.")
        files += _fetch_from_hub(pattern, name) if pattern.startswith(HUB) else _find_on_disk(pattern, name)
    for file in files:
        if not file.name.endswith((*_JSON_LINES, ".parquet")):
            raise UserError(
                f"{name}: {file} is not a .jsonl, .jsonl.gz or .parquet file. Convert it, or correct the path."
            )
    return files


def read_records(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield pairs (row, record) of a JSON Lines or Parquet file; rows count from 1 and are line numbers in JSON Lines.

    JSON Lines may be compressed with gzip, whatever the file's name, begin with a byte order mark, and have lines that
    end in CRLF.

    Raises:
        UserError: A line is not JSON, text is not UTF-8, or the file is cut short; the message names file and row.
    """
    read = _read_parquet if file.name.endswith(".parquet") else _read_json_lines
    row = 0
    try:
        for row, record in read(file):
            yield row, record
    except UserError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file}, after row {row}: cannot be read further ({reason}). Fetch or write the file again."
        ) from error


def _read_json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    for row, line in read_lines(file):
        if not line.strip():
            continue
        try:
            yield row, json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"not a JSON object ({error.msg}, column {error.colno})"
            raise UserError(f"{file}, row {row}: {problem}. Correct the line.") from error
        except RecursionError as error:
            raise UserError(f"{file}, row {row}: too deeply nested. Correct the line.") from error


def _read_parquet(file: Path) -> Iterator[tuple[int, Any]]:
    with parquet.ParquetFile(file) as table:
        batches = table.iter_batches(batch_size=1000)
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), 1)


def _find_on_disk(pattern: str, name: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise UserError(f"{name}: {pattern} is a folder. Give its files, for example `{name}`='{path}/*.jsonl.gz'.")
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not matches:
        what = "no file matches the glob" if glob.has_magic(pattern) else "there is no file"
        raise UserError(f"{name}: {what} {pattern} (seen from {Path.cwd()}). Correct the path.")
    return [Path(match) for match in matches]


def _fetch_from_hub(address: str, name: str) -> list[Path]:
    from huggingface_hub import HfApi, snapshot_download

    parts = re.fullmatch(r"([^/]+/[^/]+)/([^/].*)", address.removeprefix(HUB))
    if not parts:
        raise UserError(f"{name}: {address} does not have the form {HUB}OWNER/NAME/FILE. Correct `{name}`.")
    repository, wanted = parts.groups()
    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=wanted))
        files = sorted(folder.glob(wanted))
        others = [] if files else sorted(HfApi().list_repo_files(repository, repo_type="dataset"))
    except Exception as error:  # the hub's own errors, those of its HTTP library (two so far), of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name}: {address} cannot be fetched from the hub ({reason}). Check the network, or give a file."
        ) from error
    if not files:
        raise UserError(
            f"{name}: {repository} on the hub has no {wanted}. It has {', '.join(others)}. Correct `{name}`."
        )
    return files
