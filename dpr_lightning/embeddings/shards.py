"""Which rows make a shard, how its file is called, and whether a folder's shards fit together."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.embeddings.file import Embeddings, open_embeddings
from dpr_lightning.errors import UserError

_NAME = re.compile(r"(\d+)-of-(\d+)")


def shard_rows(shard: int, num_shards: int, rows: int) -> range:
    """The rows of a shard: contiguous, and over all shards every row once.

    Raises:
        UserError: a shard that does not exist.
    """
    if not 0 <= shard < num_shards:
        raise UserError(
            f"shard: {shard} does not exist, num_shards={num_shards} has 0 to {num_shards - 1}. Correct shard."
        )
    return range(shard * rows // num_shards, (shard + 1) * rows // num_shards)


def shard_name(shard: int, num_shards: int) -> str:
    """The file name of a shard without its ending, e.g. `05-of-20`."""
    width = max(2, len(str(num_shards)))
    return f"{shard:0{width}d}-of-{num_shards:0{width}d}"


def complete_shards(folder: Path, ending: str, *, made_by: str) -> list[Path]:
    """The files `00-of-20ENDING` to `19-of-20ENDING` of a folder, in order.

    Raises:
        UserError: none there, one missing, or shards of two different cuts; the message names the files.
    """
    found = {
        file: match
        for file in sorted(folder.glob(f"*{ending}"))
        if (match := _NAME.fullmatch(file.name[: -len(ending)]))
    }
    if not found:
        raise UserError(f"{folder} holds no shards (NN-of-NN{ending}). Make them with {made_by}, or correct run_dir.")
    counts = {int(match[2]): file for file, match in found.items()}
    if len(counts) > 1:
        names = " and ".join(file.name for file in counts.values())
        raise UserError(f"{folder} holds shards of different cuts: {names}. Delete those that do not belong there.")
    (num_shards,) = counts
    there = {int(match[1]) for match in found.values()}
    missing = [shard_name(shard, num_shards) + ending for shard in range(num_shards) if shard not in there]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} missing. Make the rest with {made_by}.")
    return list(found)


def open_shards(folder: Path) -> list[Embeddings]:
    """All passage shards of a folder, opened and checked to be parts of one encoding.

    Raises:
        UserError: as `complete_shards`; shards by different models, of different data, sizes or dimensions.
    """
    shards = [open_embeddings(file) for file in complete_shards(folder, ".safetensors", made_by="encode.py")]
    first = shards[0]
    row = 0
    for shard in shards:
        check_same_model(first, shard)
        if shard.identity.data_fingerprint != first.identity.data_fingerprint:
            raise UserError(f"{first.path} and {shard.path} are of different data sets. Encode one of them again.")
        if shard.identity.first_row != row:
            raise UserError(f"{shard.path} begins at row {shard.identity.first_row}, not {row}. Encode it again.")
        row += shard.identity.rows
    return shards


def shard_bounds(shards: list[Embeddings]) -> NDArray[np.int64]:
    """The corpus row [shards + 1] at which each shard begins, and last the number of rows."""
    bounds: NDArray[np.int64] = np.cumsum([0, *(len(shard.ids) for shard in shards)])
    return bounds


def check_same_model(a: Embeddings, b: Embeddings) -> None:
    """Raises UserError, naming the files, unless both are by one model and of one dimension."""
    if a.identity.model_fingerprint != b.identity.model_fingerprint or a.array.shape[1] != b.array.shape[1]:
        raise UserError(f"{a.path} and {b.path} are by different models. Encode one of them again.")
