"""The embedding file: one shard's embeddings and ids as safetensors, grown chunk by chunk, opened memory-mapped.

Tensors, in this order: `chunk_xxh3` [chunks + 1] uint64, `embeddings` [rows, dim] float32 or float16, `id_offsets`
[rows + 1] int64, `id_bytes` uint8 (UTF-8 ids end to end; id i is `id_bytes[id_offsets[i]:id_offsets[i + 1]]`). The
header's metadata, all strings: format, chunk_size, side, shard, num_shards, first_row, rows, precision,
tokens_per_batch, model_fingerprint, data_fingerprint.

All sizes are known before the first row is encoded, so the header is written first, and an unfinished file
(`….partial`) is laid out as the finished one. `chunk_xxh3` holds the XXH3 hash of each chunk of `chunk_size` rows, 0
while it is not written, and last that of the ids: what counts as written is what has its checksum.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from dpr_lightning.embeddings.ids import Ids
from dpr_lightning.errors import UserError

FORMAT = "dpr_lightning.embeddings/1"
DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "U8": "u1"}


@dataclass(frozen=True)
class Identity:
    """What an embedding file holds: which rows of which data, by which model, in which precision and batches."""

    side: str
    shard: int
    num_shards: int
    first_row: int
    rows: int
    precision: str
    tokens_per_batch: int
    model_fingerprint: str
    data_fingerprint: str


@dataclass(frozen=True)
class Embeddings:
    """An opened embedding file: `array` [rows, dim] float32 or float16, memory-mapped, and the id of each row."""

    path: Path
    identity: Identity
    ids: Ids
    array: NDArray[Any]
    chunk_size: int
    checksums: NDArray[np.uint64]  # [chunks + 1], the last of the ids
    _intact: set[int] = field(default_factory=set)  # chunks that need no second check

    def blocks(self, rows: int, *, keep: bool = False) -> Iterator[NDArray[Any]]:
        """Blocks [rows, dim] of `array` in order, the last smaller; each chunk is checked once, at its last row.

        A block's pages leave this process's memory when the next is asked for, unless told to `keep` them, which makes
        reading them again faster.

        Raises:
            UserError: rows are not as they were written; blocks given before may be damaged as well.
        """
        digest, total = xxhash.xxh3_64(), len(self.array)
        mapping: Any = self.array.base
        for first in range(0, total, rows):
            row, end = first, min(first + rows, total)
            while row < end:
                chunk = row // self.chunk_size
                stop = min(end, (chunk + 1) * self.chunk_size)
                if chunk not in self._intact:
                    digest.update(self.array[row:stop].data)
                    if stop in (total, (chunk + 1) * self.chunk_size):
                        if digest.intdigest() != self.checksums[chunk]:
                            raise self._damaged(f"rows {chunk * self.chunk_size:,} to {stop - 1:,}")
                        self._intact.add(chunk)
                        digest.reset()
                row = stop
            yield self.array[first:end]
            if isinstance(mapping, mmap.mmap) and not keep:
                mapping.madvise(mmap.MADV_DONTNEED)  # the pages stay in the system's cache, not in this process

    def verify(self) -> None:
        """Raises UserError, naming what is damaged first, unless embeddings and ids are as they were written."""
        for _ in self.blocks(self.chunk_size):
            pass
        if self.ids.checksum() != self.checksums[-1]:
            raise self._damaged("the ids")

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what} are damaged (their checksum differs). Delete the file and encode again.")


def open_embeddings(path: str | Path) -> Embeddings:
    """The ids and the memory-mapped embeddings of a file; `verify` on the result checks every byte of them.

    Raises:
        UserError: no such file, cut short, or not an embedding file of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not there. Make it with encode.py, or correct the path.")
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("header longer than the file")
            start, header = 8 + length, json.loads(file.read(length))
        metadata = header.pop("__metadata__")
        if metadata.pop("format") != FORMAT:
            raise ValueError("another format")
        chunk_size = int(metadata.pop("chunk_size"))
        for key in ("shard", "num_shards", "first_row", "rows", "tokens_per_batch"):
            metadata[key] = int(metadata[key])
        identity = Identity(**metadata)
        (_, dim), (id_bytes,) = header["embeddings"]["shape"], header["id_bytes"]["shape"]
        if header != tensor_entries(identity.rows, dim, header["embeddings"]["dtype"], id_bytes, chunk_size):
            raise ValueError("other tensors")
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, struct.error) as error:
        raise UserError(f"{path} is no embedding file of this program. Encode again, or correct the path.") from error
    end = start + header["id_bytes"]["data_offsets"][1]
    if path.stat().st_size != end:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes where {end:,} belong. Delete it and encode again.")

    def mapped(name: str) -> NDArray[Any]:
        dtype, shape = DTYPES[header[name]["dtype"]], tuple(header[name]["shape"])
        if 0 in shape:
            return np.empty(shape, dtype)  # nothing cannot be mapped
        return np.memmap(path, dtype, "r", start + header[name]["data_offsets"][0], shape)

    ids = Ids(mapped("id_offsets"), mapped("id_bytes"))
    return Embeddings(path, identity, ids, mapped("embeddings"), chunk_size, mapped("chunk_xxh3"))


def table_size(rows: int, chunk_size: int) -> int:
    """Return the number of checksums: one per chunk and one for the ids."""
    return -(-rows // chunk_size) + 1


def tensor_entries(rows: int, dim: int, dtype: str, id_bytes: int, chunk_size: int) -> dict[str, Any]:
    """The header's entry of each tensor, in file order."""
    shapes = {
        "chunk_xxh3": ("U64", [table_size(rows, chunk_size)]),
        "embeddings": (dtype, [rows, dim]),
        "id_offsets": ("I64", [rows + 1]),
        "id_bytes": ("U8", [id_bytes]),
    }
    entries, start = {}, 0
    for name, (kind, shape) in shapes.items():
        end = start + math.prod(shape) * np.dtype(DTYPES[kind]).itemsize
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    return entries
