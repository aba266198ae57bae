"""Read the embedding pickles of Tevatron v1, and refuse everything else in a pickle, which may run code."""

from __future__ import annotations

import pickle
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


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)
