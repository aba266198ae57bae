"""A score and a corpus row in one number, whose ascending order is that of a ranking: best score first, ties by row.

The upper 32 bits hold the score's, turned so that a larger score is a smaller number; the lower 32 bits hold the row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
_SIGN, _REST = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)


def pack_keys(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> Keys:
    """Keys of scores without NaN and of rows from 0 to 2**32 - 1, both of one shape."""
    bits = (scores + np.float32(0)).view(np.uint32)  # +0.0 makes -0.0 equal to it
    keys: Keys = (_orderable_bits(bits).astype(np.uint64) << np.uint64(32)) | rows.astype(np.uint64)
    return keys


def unpack_scores(keys: Keys) -> NDArray[np.float32]:
    """The scores of keys."""
    return _orderable_bits((keys >> np.uint64(32)).astype(np.uint32)).view(np.float32)


def unpack_rows(keys: Keys) -> NDArray[np.int64]:
    """The rows of keys."""
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _orderable_bits(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Reverses the order of the positive, and with that puts them before the negative; its own inverse."""
    return np.where(bits & _SIGN, bits, bits ^ _REST)


NOTHING = pack_keys(np.array(-np.inf, np.float32), np.array((1 << 32) - 1))
"""The key of no passage: it comes after every other."""
