"""Finds data files on disk or on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path

from dpr_lightning.data.containers import SUFFIXES
from dpr_lightning.errors import UserError

HUB = "hf://datasets/"


def find_files(spec: str | Sequence[str] | None, *, name: str, hub: str = "fetch") -> list[Path]:
    """Return the local files of a path, a glob, an `hf://datasets/OWNER/NAME/FILE` address, or a list of these.

    The files of one glob are in alphabetical order. Hub files are first downloaded into the hub's cache.

    Args:
        spec: The files to find.
        name: The argument that `spec` comes from, for messages.
        hub: `fetch` downloads files of the hub, `cached` returns those that have been downloaded already, and `skip`
            only checks the form of their addresses.

    Raises:
        UserError: Nothing is given, no file matches, or a file is of a kind that is not read.
    """
    if not spec:
        raise UserError(f"{name}: is not set. Give a .jsonl, .jsonl.gz or .parquet file: `{name}`=PATH.")
    files: list[Path] = []
    for pattern in [spec] if isinstance(spec, str) or not isinstance(spec, Sequence) else spec:
        if not isinstance(pattern, str):
            raise UserError(f"{name}: {pattern!r} is not a path. Give a path, a glob or a list of them: `{name}`=PATH.")
        if not pattern.startswith(HUB):
            files += _find_on_disk(pattern, name)
            continue
        repository, wanted = _parse_address(pattern, name)
        if hub == "fetch":
            files += _fetch_from_hub(repository, wanted, name)
        elif hub == "cached":
            files += _fetched_from_hub(repository, wanted)
    for file in files:
        if not file.name.endswith(SUFFIXES):
            raise UserError(
                f"{name}: {file} is not a .jsonl, .json, .csv, .tsv (each also .gz or .zst), .parquet or .arrow file. "
                "Convert it, or correct the path."
            )
    return files


def _find_on_disk(pattern: str, name: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        if saved := _saved_data_set(path, name):
            return saved
        raise UserError(f"{name}: {pattern} is a folder. Give its files, for example `{name}`='{path}/*.jsonl.gz'.")
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not matches:
        what = "no file matches the glob" if glob.has_magic(pattern) else "there is no file"
        raise UserError(f"{name}: {what} {pattern} (seen from {Path.cwd()}). Correct the path.")
    return [Path(match) for match in matches]


def _saved_data_set(folder: Path, name: str) -> list[Path]:
    """Return the files of a folder that `save_to_disk` of `datasets` has written, or an empty list."""
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
        raise UserError(f"{name}: {folder} has the splits {', '.join(splits)}. Choose one: `{name}`={folder}/SPLIT.")
    if not (folder / "state.json").is_file():
        return []
    state = json.loads((folder / "state.json").read_bytes())
    return [folder / file["filename"] for file in state.get("_data_files") or []]


def _parse_address(address: str, name: str) -> tuple[str, str]:
    """Return the repository of an address on the hub, and the path or glob in it."""
    parts = re.fullmatch(r"([^/]+/[^/]+)/([^/].*)", address.removeprefix(HUB))
    if not parts:
        raise UserError(f"{name}: {address} does not have the form {HUB}OWNER/NAME/FILE. Correct `{name}`.")
    return parts[1], parts[2]


def _fetch_from_hub(repository: str, wanted: str, name: str) -> list[Path]:
    from huggingface_hub import HfApi, snapshot_download

    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", allow_patterns=wanted))
        files = sorted(folder.glob(wanted))
        others = [] if files else sorted(HfApi().list_repo_files(repository, repo_type="dataset"))
    except Exception as error:  # the hub's own errors, those of its HTTP library (two so far), of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        address = f"{HUB}{repository}/{wanted}"
        raise UserError(
            f"{name}: {address} cannot be fetched from the hub ({reason}). Check the network, or give a file."
        ) from error
    if not files:
        raise UserError(
            f"{name}: {repository} on the hub has no {wanted}. It has {', '.join(others)}. Correct `{name}`."
        )
    return files


def _fetched_from_hub(repository: str, wanted: str) -> list[Path]:
    """Return the files that an earlier call has downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        folder = snapshot_download(repository, repo_type="dataset", allow_patterns=wanted, local_files_only=True)
        return sorted(Path(folder).glob(wanted))
    return []
