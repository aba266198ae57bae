"""Ids of rows as an embedding file holds them: UTF-8 bytes end to end, and where each begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa


class Ids(Sequence[str]):
    """The ids of rows in their order, decoded one by one when asked for."""

    def __init__(self, offsets: NDArray[np.int64], utf8: NDArray[np.uint8]) -> None:
        """Takes `id_offsets` [rows + 1], the first 0, and `id_bytes`."""
        self.offsets, self.utf8 = np.asarray(offsets), np.asarray(utf8)  # memory-mapped arrays are slow to index

    @classmethod
    def of(cls, ids: Iterable[str]) -> Ids:
        """From strings."""
        encoded = [value.encode() for value in ids]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> Ids:
        """From an Arrow column of strings, without making Python objects of them."""
        array = column.cast("large_string").combine_chunks()
        if len(array) == 0:
            return cls.of([])
        _, offsets, utf8 = array.buffers()
        places = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        return cls(places - places[0], np.frombuffer(utf8, np.uint8)[places[0] : places[-1]])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return self.at(np.arange(*row.indices(len(self))))
        row = range(len(self))[row]  # IndexError beyond the end, negative rows from the end
        return self.utf8[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    def at(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of rows [R], each at least 0."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        ends = np.cumsum(lengths)
        places = np.repeat(starts - ends + lengths, lengths) + np.arange(lengths.sum())
        utf8 = self.utf8[places].tobytes()
        text = utf8.decode()
        pieces = pairwise([0, *ends.tolist()])
        if len(text) == len(utf8):  # a byte is a character
            return [text[start:end] for start, end in pieces]
        return [utf8[start:end].decode() for start, end in pieces]

    def checksum(self) -> int:
        """The XXH3 hash of offsets and bytes."""
        digest = xxhash.xxh3_64(self.offsets.astype("<i8").data)
        digest.update(self.utf8.data)
        return digest.intdigest()
