"""Hashes of the files in a model folder, because a damaged file can still load and give wrong embeddings."""

from __future__ import annotations

import json
from pathlib import Path

from dpr_lightning.errors import UserError
from dpr_lightning.files import file_hash, write_json

CHECKSUMS = "checksums.json"


def save_checksums(folder: Path) -> None:
    """Write the hashes of all files that are now in a folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    write_json(folder / CHECKSUMS, {file.relative_to(folder).as_posix(): file_hash(file) for file in files})


def check_checksums(folder: Path) -> None:
    """Raise UserError unless the files of a model folder are as they were saved; earlier versions saved no hashes."""
    if not (hashes := folder / CHECKSUMS).exists():
        return
    unchecked = f"or remove {CHECKSUMS} to load the folder as it is"
    try:
        saved = dict(json.loads(hashes.read_bytes()).items())
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{hashes} is damaged ({error!r}). Restore the file, {unchecked}.") from error
    for name, saved_hash in saved.items():
        if not (file := folder / name).is_file() or file_hash(file) != saved_hash:
            raise UserError(f"{file} is missing or was changed after it was saved. Restore the file, {unchecked}.")
