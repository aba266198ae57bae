"""Finds data files on the disk or on the Hugging Face hub, and reads their records one by one."""

from __future__ import annotations

import glob
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from dpr_lightning.errors import UserError

HUB = "hf://datasets/"
_JSON_LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")


def find_files(spec: str | Sequence[str] | None, *, key: str) -> list[Path]:
    """The local files that a path, a glob, an `hf://datasets/OWNER/NAME/FILE` address or a list of these stand for.

    Files of one glob come in alphabetical order. Hub files are downloaded into the hub's cache first.

    Raises:
        UserError: nothing given, nothing found, or a kind of file that is not read; the message names `key`.
    """
    if not spec:
        raise UserError(f"{key} is not set. Give a .jsonl, .jsonl.gz or .parquet file: {key}=PATH.")
    files: list[Path] = []
    for pattern in [spec] if isinstance(spec, str) or not isinstance(spec, Sequence) else spec:
        if not isinstance(pattern, str):
            raise UserError(f"{key}: {pattern!r} is no path. Give a path, a glob or a list of them: {key}=PATH.")
        files += _fetch_from_hub(pattern, key) if pattern.startswith(HUB) else _find_on_disk(pattern, key)
    for file in files:
        if not file.name.endswith((*_JSON_LINES, ".parquet")):
            raise UserError(f"{key}: {file} is no .jsonl, .jsonl.gz or .parquet file. Convert it, or correct the path.")
    return files


def read_records(file: Path) -> Iterator[tuple[int, Any]]:
    """Pairs (row, record) of a JSON Lines or Parquet file; rows count from 1, in JSON Lines they are line numbers.

    Raises:
        UserError: a line that is not JSON, text that is not UTF-8, a file cut short; the message names file and row.
    """
    read = _read_parquet if file.name.endswith(".parquet") else _read_json_lines
    row = 0
    try:
        for row, record in read(file):
            yield row, record
    except UserError:
        raise
    except (EOFError, OSError, ValueError, zlib.error, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{file}, after row {row}: cannot be read further ({reason}). Fetch or write it anew."
        ) from error


def _read_json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
        for row, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield row, json.loads(line.rstrip(b"\r\n"))  # or the column would be that of the next line
                except json.JSONDecodeError as error:
                    problem = f"not a JSON object ({error.msg}, column {error.colno})"
                    raise UserError(f"{file}, row {row}: {problem}. Correct the line.") from error
                except UnicodeDecodeError as error:
                    problem = f"not UTF-8 text ({error.reason} at byte {error.start})"
                    raise UserError(f"{file}, row {row}: {problem}. Convert the file to UTF-8.") from error


def _read_parquet(file: Path) -> Iterator[tuple[int, Any]]:
    with parquet.ParquetFile(file) as table:
        batches = table.iter_batches(batch_size=1000)
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), 1)


def _find_on_disk(pattern: str, key: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise UserError(f"{key}: {pattern} is a folder. Give its files, for example {key}='{path}/*.jsonl.gz'.")
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    found = [path] if path.exists() else [Path(name) for name in sorted(matches)]
    if not found:
        what = "no file matches the glob" if glob.has_magic(pattern) else "there is no file"
        raise UserError(f"{key}: {what} {pattern} (seen from {Path.cwd()}). Correct the path.")
    return found


def _fetch_from_hub(address: str, key: str) -> list[Path]:
    from huggingface_hub import HfApi, snapshot_download

    parts = re.fullmatch(r"([^/]+/[^/]+)/([^/].*)", address.removeprefix(HUB))
    if not parts:
        raise UserError(f"{key}: {address} does not have the form {HUB}OWNER/NAME/FILE. Correct {key}.")
    repository, wanted = parts.groups()
    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=wanted))
        found = sorted(folder.glob(wanted))
        held = [] if found else sorted(HfApi().list_repo_files(repository, repo_type="dataset"))
    except Exception as error:  # the hub's own errors, those of its HTTP library (two so far), of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{key}: {address} cannot be fetched from the hub ({reason}). Check the network, or set {key} to a file."
        ) from error
    if not found:
        raise UserError(f"{key}: {repository} on the hub holds no {wanted}, but {', '.join(held)}. Correct {key}.")
    return found
