"""Ids of rows as an embedding file stores them: UTF-8 bytes end to end, and the offset at which each id begins."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

DECODED_AT_ONCE = 1 << 15  # ids
_CHECKED_AT_ONCE = 1 << 21  # offsets or bytes


class Ids(Sequence[str]):
    """The ids of rows in row order, decoded on request.

    The ids `d1`, an empty one and `é9` are stored as the bytes `d 1 C3 A9 9` with the offsets 0, 2, 2, 5.
    """

    def __init__(self, offsets: NDArray[np.int64], utf8: NDArray[np.uint8]) -> None:
        """Take `id_offsets` [rows + 1] and `id_bytes`."""
        self.offsets, self.utf8 = np.asarray(offsets), np.asarray(utf8)  # memory-mapped arrays are slow to index

    @classmethod
    def of(cls, ids: Iterable[str]) -> Ids:
        """Return the stored form of some strings."""
        encoded = [value.encode() for value in ids]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> Ids:
        """Return the stored form of an Arrow column of strings, without creating Python objects."""
        array = column.cast("large_string").combine_chunks()
        if len(array) == 0:
            return cls.of([])
        _, offsets, utf8 = array.buffers()
        offsets = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        return cls(offsets - offsets[0], np.frombuffer(utf8, np.uint8)[offsets[0] : offsets[-1]])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), DECODED_AT_ONCE):
            yield from self[first : first + DECODED_AT_ONCE]

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return self.at(np.arange(*row.indices(len(self))))
        row = range(len(self))[row]  # IndexError beyond the end; negative rows count from the end
        return self.utf8[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    def at(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of rows [R], each at least 0.

        The comments follow rows [2, 0] of the example above.
        """
        # 1. Where each id lies in `utf8`, and where it ends in the result: starts [2, 0], lengths [3, 2], ends [3, 5].
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        ends = np.cumsum(lengths)
        # 2. The position in `utf8` of every byte of the result: [2, 2, 2, -3, -3] + [0, 1, 2, 3, 4] = [2, 3, 4, 0, 1].
        positions = np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
        # 3. Decode once and cut the text, if every byte is a character; otherwise cut the bytes and decode each id.
        utf8 = self.utf8[positions].tobytes()
        text = utf8.decode()
        spans = pairwise([0, *ends.tolist()])
        if len(text) == len(utf8):
            return [text[start:end] for start, end in spans]
        return [utf8[start:end].decode() for start, end in spans]

    def has_valid_offsets(self) -> bool:
        """Return whether the offsets begin at 0, never decrease and end at the number of bytes."""
        pieces = (self.offsets[i : i + _CHECKED_AT_ONCE + 1] for i in range(0, len(self), _CHECKED_AT_ONCE))
        in_range = self.offsets[0] == 0 and self.offsets[-1] == len(self.utf8)
        return bool(in_range) and all((piece[1:] >= piece[:-1]).all() for piece in pieces)

    def checksum(self) -> int:
        """Return the XXH3 hash of offsets and bytes, reading a mapped file piece by piece."""
        digest = xxhash.xxh3_64()
        for array, dtype in ((self.offsets, "<i8"), (self.utf8, "u1")):
            for first in range(0, len(array), _CHECKED_AT_ONCE):
                digest.update(np.ascontiguousarray(array[first : first + _CHECKED_AT_ONCE], dtype).data)
                release_pages(array)
        return digest.intdigest()


def release_pages(array: NDArray[Any]) -> None:
    """Give the pages of a memory-mapped array back to the system, which keeps them in its cache."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
