"""A score and a corpus row in one integer, so that sorting integers ranks passages: best score first, ties by row.

The upper 32 bits are the score's, transformed so that a larger score is a smaller integer; the lower 32 are the row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
_SIGN, _REST = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)


def pack_keys(scores: NDArray[np.float32], rows: NDArray[np.int64]) -> Keys:
    """Return the keys of scores without NaN and of rows from 0 to 2**32 - 1, all of one shape."""
    bits = (scores + np.float32(0)).view(np.uint32)  # adding +0.0 turns -0.0 into +0.0
    keys: Keys = (_orderable_bits(bits).astype(np.uint64) << np.uint64(32)) | rows.astype(np.uint64)
    return keys


def unpack_scores(keys: Keys) -> NDArray[np.float32]:
    """Return the scores of keys."""
    return _orderable_bits((keys >> np.uint64(32)).astype(np.uint32)).view(np.float32)


def unpack_rows(keys: Keys) -> NDArray[np.int64]:
    """Return the rows of keys."""
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _orderable_bits(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return bits whose order as integers is the reverse of their order as floats; the function is its own inverse.

    As integers, positive floats come before negative ones and ascend, which is right for the negative ones alone: a
    more negative float is a larger integer. Flipping all bits of a positive float but the sign reverses the others.
    """
    return np.where(bits & _SIGN, bits, bits ^ _REST)


NOTHING = pack_keys(np.array(-np.inf, np.float32), np.array((1 << 32) - 1))
"""The key that fills a ranking of fewer passages: it comes after every other."""
