"""How much disk space an encoding takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dpr_lightning.embeddings.writer import partial_file

_ID_BYTES = 16  # of a row's id and its offset, about


def file_bytes(rows: int, dim: int, dtype: str) -> int:
    """Return the size of an embedding file, up to the length of its ids."""
    return rows * (dim * np.dtype(dtype).itemsize + _ID_BYTES)


def bytes_to_write(sizes: Mapping[Path, int], *, at_once: int = 1) -> int:
    """Return the free space that writing files takes, given the size that each will have.

    What a partial file has is on the disk already. A finished file that is replaced stays until its successor is
    complete, so that `at_once` of them take twice their size.
    """
    growth = replaced = 0
    for path, size in sizes.items():
        partial = partial_file(path)
        written = partial.stat().st_size if partial.exists() else 0
        old = path.stat().st_size if path.exists() else 0
        growth += max(0, size - written - old)
        replaced = max(replaced, old)
    return growth + at_once * replaced
