"""Read the embedding pickles of Tevatron v1, and refuse everything else in a pickle, which may run code."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.errors import UserError

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


def read_tevatron_pickle(path: Path) -> tuple[NDArray[Any], list[str]]:
    """Return embeddings [rows, dim] float32 or float16 and ids [rows] from a pickled pair of array and list.

    Raises:
        UserError: The file does not exist or is anything but one such pair.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Correct the path.")
    try:
        with path.open("rb") as file:
            pair = _ArraysOnly(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{path} is not a pickle of an array and a list of ids ({error}). Give Tevatron's.") from error
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], np.ndarray)):
        raise UserError(f"{path} is not a pair of array and ids. Give the output of Tevatron's encode.")
    array, ids = pair[0], list(pair[1])
    if array.ndim != 2 or array.dtype not in (np.float32, np.float16) or len(ids) != len(array):
        raise UserError(
            f"{path}: {array.dtype} {array.shape} with {len(ids)} ids are not embeddings. Give its encode's output."
        )
    return array, [str(value) for value in ids]


def gather_rows(pickles: Sequence[Path], ids: Sequence[str], scratch: Path) -> NDArray[Any]:
    """Return the embeddings of all pickles in the order of `ids` [rows, dim], memory-mapped in the new file `scratch`.

    Which rows Tevatron puts into which shard depends on the version of `datasets`.

    Raises:
        UserError: As `read_tevatron_pickle`; an id that is unknown, missing or repeated; dimensions that differ.
    """
    row_of = {value: row for row, value in enumerate(ids)}
    file_of: dict[str, Path] = {}
    array: NDArray[Any] | None = None
    for path in pickles:
        part, part_ids = read_tevatron_pickle(path)
        if array is None:
            array = np.memmap(scratch, part.dtype, "w+", shape=(len(ids), part.shape[1]))
        if part.shape[1] != array.shape[1] or part.dtype != array.dtype or not np.isfinite(part).all():
            raise UserError(f"{path} has other dimensions than {pickles[0]}, or is not finite. Encode it again.")
        for value in part_ids:
            if value not in row_of or value in file_of:
                problem = f"is in {file_of[value]} too" if value in file_of else "is not in the data"
                raise UserError(f"{path}: {value} {problem}. Give the pickles of one encoding, and its data.")
            file_of[value] = path
        array[[row_of[value] for value in part_ids]] = part
    missing = [value for value in ids if value not in file_of]
    if array is None or missing:
        raise UserError(
            f"{missing[0]} ({len(missing):,} ids in total) is in none of the pickles. Give those of all shards."
        )
    return array


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)
