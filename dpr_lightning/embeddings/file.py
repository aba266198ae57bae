"""The embedding file: one shard's embeddings and ids as safetensors, written chunk by chunk, read memory-mapped.

Tensors, in this order: `chunk_xxh3` [chunks + 1] uint64, `embeddings` [rows, dim] float32 or float16, `id_offsets`
[rows + 1] int64, `id_bytes` uint8 (see `ids.py`). The header's metadata, all strings: format, chunk_size, side, shard,
num_shards, first_row, rows, precision, tokens_per_batch, model_fingerprint, data_fingerprint.

All sizes are known before the first row is encoded, so the header is written first, and an unfinished file
(`….partial`) has the layout of the finished one. `chunk_xxh3` stores the XXH3 hash of each chunk of `chunk_size` rows,
then that of the ids; 0 means not yet written. A chunk counts as written only if its checksum matches.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from dpr_lightning.embeddings.ids import Ids, release_pages
from dpr_lightning.errors import UserError

FORMAT = "dpr_lightning.embeddings/1"
DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "U8": "u1"}


@dataclass(frozen=True)
class Identity:
    """The content of an embedding file: its rows, and the data, model, precision and batches that gave them."""

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
    array: NDArray[Any]
    chunk_size: int
    _ids: Ids
    _checksums: NDArray[np.uint64]  # [chunks + 1], last that of the ids
    _intact: set[int] = field(default_factory=set)  # chunks already compared with their checksums

    @cached_property
    def ids(self) -> Ids:
        """The id of each row, compared with its checksum at the first use.

        Raises:
            UserError: The ids are not as they were written.
        """
        if self._ids.checksum() != self._checksums[-1]:
            raise self._damaged("the ids")
        if not self._ids.has_valid_offsets():
            raise self._damaged("the ids", "their offsets are impossible")
        return self._ids

    @property
    def content_hash(self) -> str:
        """The XXH3 hash of the checksums of all chunks and of the ids."""
        return xxhash.xxh3_64_hexdigest(self._checksums.tobytes())

    def blocks(self, rows: int, *, keep: bool = False) -> Iterator[NDArray[Any]]:
        """Yield `array` in order as blocks [rows, dim], the last smaller.

        Each chunk is compared with its checksum once, when its last row is reached. Release a block's pages when the
        next block is requested, unless `keep`, which makes reading them again faster.

        Raises:
            UserError: Rows are not as they were written; blocks yielded before may be damaged as well.
        """
        digest, total = xxhash.xxh3_64(), len(self.array)
        for first in range(0, total, rows):
            row, end = first, min(first + rows, total)
            while row < end:
                chunk = row // self.chunk_size
                chunk_end = min(total, (chunk + 1) * self.chunk_size)
                stop = min(end, chunk_end)
                if chunk not in self._intact:
                    digest.update(self.array[row:stop].data)
                    if stop == chunk_end:
                        if digest.intdigest() != self._checksums[chunk]:
                            raise self._damaged(f"rows {chunk * self.chunk_size:,} to {stop - 1:,}")
                        self._intact.add(chunk)
                        digest.reset()
                row = stop
            yield self.array[first:end]
            if not keep:
                release_pages(self.array)

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the embeddings [R, dim] of rows [R]; each chunk that has one is compared with its checksum once.

        Raises:
            UserError: A chunk is not as it was written.
        """
        for chunk in sorted(set((rows // self.chunk_size).tolist()) - self._intact):
            part = self.array[chunk * self.chunk_size : (chunk + 1) * self.chunk_size]
            if xxhash.xxh3_64_intdigest(part.data) != self._checksums[chunk]:
                first = chunk * self.chunk_size
                raise self._damaged(f"rows {first:,} to {first + len(part) - 1:,}")
            self._intact.add(chunk)
            release_pages(self.array)
        return self.array[rows]

    def verify(self) -> None:
        """Raise UserError, naming what is damaged first, unless embeddings and ids are as they were written."""
        for _ in self.blocks(self.chunk_size):
            pass
        _ = self.ids

    def _damaged(self, what: str, why: str = "their checksum differs") -> UserError:
        return UserError(f"{self.path}: {what} are damaged ({why}). Delete the file and encode again.")


def open_embeddings(path: str | Path, *, made_by: str = "`encode.py`") -> Embeddings:
    """Open an embedding file; `verify` on the result checks every embedding and id.

    Args:
        path: The file.
        made_by: The command that writes it, in backticks, for the message if the file does not exist.

    Raises:
        UserError: The file does not exist, is cut short, or is not an embedding file of this program.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Run {made_by}, or correct the path.")
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
        raise UserError(
            f"{path} is not an embedding file of this program. Encode again, or correct the path."
        ) from error
    size, expected = path.stat().st_size, start + header["id_bytes"]["data_offsets"][1]
    if size != expected:
        raise UserError(f"{path} has {size:,} bytes, not {expected:,}. Delete it and encode again.")

    def mapped(name: str) -> NDArray[Any]:
        dtype, shape = DTYPES[header[name]["dtype"]], tuple(header[name]["shape"])
        if 0 in shape:
            return np.empty(shape, dtype)  # an empty range cannot be mapped
        return np.memmap(path, dtype, "r", start + header[name]["data_offsets"][0], shape)

    ids = Ids(mapped("id_offsets"), mapped("id_bytes"))
    return Embeddings(path, identity, mapped("embeddings"), chunk_size, ids, mapped("chunk_xxh3"))


def table_size(rows: int, chunk_size: int) -> int:
    """Return the number of checksums: one per chunk and one for the ids."""
    return -(-rows // chunk_size) + 1


def tensor_entries(rows: int, dim: int, dtype: str, id_bytes: int, chunk_size: int) -> dict[str, Any]:
    """Return the header's entry of each tensor, in file order."""
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
