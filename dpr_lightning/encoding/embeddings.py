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

import contextlib
import json
import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from dpr_lightning.encoding.ids import Ids
from dpr_lightning.errors import UserError
from dpr_lightning.files import flush_to_disk, held, refuse_overwrite

FORMAT = "dpr_lightning.embeddings/1"
_DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "U64": "<u8", "U8": "u1"}
_ALIGNMENT = 64  # of the first embedding in the file


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
        if header != _tensors(identity.rows, dim, header["embeddings"]["dtype"], id_bytes, chunk_size):
            raise ValueError("other tensors")
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, struct.error) as error:
        raise UserError(f"{path} is no embedding file of this program. Encode again, or correct the path.") from error
    end = start + header["id_bytes"]["data_offsets"][1]
    if path.stat().st_size != end:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes where {end:,} belong. Delete it and encode again.")

    def mapped(name: str) -> NDArray[Any]:
        dtype, shape = _DTYPES[header[name]["dtype"]], tuple(header[name]["shape"])
        if 0 in shape:
            return np.empty(shape, dtype)  # nothing cannot be mapped
        return np.memmap(path, dtype, "r", start + header[name]["data_offsets"][0], shape)

    ids = Ids(mapped("id_offsets"), mapped("id_bytes"))
    return Embeddings(path, identity, ids, mapped("embeddings"), chunk_size, mapped("chunk_xxh3"))


class EmbeddingWriter:
    """Grows `path.partial` by whole chunks and gives it its name when complete; a context manager.

    A partial file that is there already is continued after its last intact chunk, if its header is the one this writer
    would write. While it is open, no other process can open a writer on the same file.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        ids: Sequence[str],
        *,
        dim: int,
        dtype: str,
        chunk_size: int,
        overwrite: bool = False,
    ) -> None:
        """Opens or continues the partial file.

        Args:
            path: the final name.
            identity: goes into the header.
            ids: the id of each row.
            dim: size of an embedding.
            dtype: `float32` or `float16`.
            chunk_size: rows per chunk; the last may be smaller.
            overwrite: begin anew where the partial file is of something else, and replace a finished file at the end.

        Raises:
            UserError: another process holds the file, it is finished already, its partial is of another model, data
                set or setting, or it cannot be written (from other methods too).
        """
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self.rows, self.chunk_size = identity.rows, chunk_size
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._ids = ids if isinstance(ids, Ids) else Ids.of(ids)
        self._header = _header(identity, dim, self.dtype, len(self._ids.utf8), chunk_size)
        self._row_bytes = dim * self.dtype.itemsize
        self._first_embedding = len(self._header) + 8 * _table_size(self.rows, chunk_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._disk_problems_named(), contextlib.ExitStack() as opened:
            opened.enter_context(held(path))
            refuse_overwrite(path, overwrite)
            self._file = opened.enter_context(self.partial.open("r+b" if self.partial.exists() else "w+b"))
            self.done = self._continue(overwrite)
            self._opened = opened.pop_all()

    def _continue(self, overwrite: bool) -> int:
        """Cuts the file behind its last intact chunk and returns the rows that it holds."""
        found = self._file.read(len(self._header))
        if not self._header.startswith(found) and not overwrite:
            raise UserError(
                f"{self.partial} was begun with another model, data set or setting. "
                "Delete it, set overwrite=true, or choose another run_dir."
            )
        if found != self._header:
            self._file.truncate(0)
            self._write(0, self._header)
        table_bytes = self._first_embedding - len(self._header)
        checksums = np.frombuffer(self._file.read(table_bytes).ljust(table_bytes, b"\0"), "<u8")
        done = 0
        while done < self.rows:
            rows = min(self.chunk_size, self.rows - done)
            chunk = self._file.read(rows * self._row_bytes)
            if xxhash.xxh3_64_intdigest(chunk) != checksums[done // self.chunk_size]:
                break
            done += rows
        self._file.truncate(self._first_embedding + done * self._row_bytes)
        return done

    def append(self, chunk: NDArray[Any]) -> None:
        """Adds the next chunk [chunk rows, dim]; when this returns, it is on the disk."""
        if len(chunk) != min(self.chunk_size, self.rows - self.done):
            raise ValueError(f"{self.partial}: {len(chunk)} rows are no chunk, at row {self.done} of {self.rows}")
        content = np.ascontiguousarray(chunk, self.dtype)
        with self._disk_problems_named():
            self._write(self._end_of_chunks(), content.data)
            self._write_checksum(self.done // self.chunk_size, xxhash.xxh3_64_intdigest(content.data))
            flush_to_disk(self._file)
        self.done += len(chunk)

    def finish(self) -> None:
        """Adds the ids and gives the file its name."""
        if self.done != self.rows:
            raise ValueError(f"{self.partial}: {self.done} rows of {self.rows} are written")
        with self._disk_problems_named():
            self._write(self._end_of_chunks(), self._ids.offsets.astype("<i8").data)
            self._file.write(self._ids.utf8.data)
            self._write_checksum(-(-self.rows // self.chunk_size), self._ids.checksum())
            flush_to_disk(self._file)
            self.partial.replace(self.path)

    def _end_of_chunks(self) -> int:
        place = self._first_embedding + self.done * self._row_bytes
        if self.partial.stat().st_size != place:
            raise UserError(f"{self.partial} was changed by someone else meanwhile. Give the same command again.")
        return place

    @contextlib.contextmanager
    def _disk_problems_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "Make room, or correct run_dir or its rights; the same command then goes on"
            raise UserError(f"{self.partial} cannot be written: {error.strerror}. {remedy}.") from error

    def _write(self, place: int, content: bytes | memoryview) -> None:
        self._file.seek(place)
        self._file.write(content)

    def _write_checksum(self, number: int, checksum: int) -> None:
        self._write(len(self._header) + 8 * number, struct.pack("<Q", checksum))

    def __enter__(self) -> EmbeddingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # told already: what could not be written cannot be written now either
            self._opened.close()


def _table_size(rows: int, chunk_size: int) -> int:
    return -(-rows // chunk_size) + 1


def _tensors(rows: int, dim: int, dtype: str, id_bytes: int, chunk_size: int) -> dict[str, Any]:
    """The header's entry of each tensor, in file order."""
    shapes = {
        "chunk_xxh3": ("U64", [_table_size(rows, chunk_size)]),
        "embeddings": (dtype, [rows, dim]),
        "id_offsets": ("I64", [rows + 1]),
        "id_bytes": ("U8", [id_bytes]),
    }
    entries, start = {}, 0
    for name, (kind, shape) in shapes.items():
        end = start + math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    return entries


def _header(identity: Identity, dim: int, dtype: np.dtype[Any], id_bytes: int, chunk_size: int) -> bytes:
    """Length and JSON text, the latter padded so that the embeddings are aligned."""
    kind = next(name for name, code in _DTYPES.items() if dtype == code)
    metadata = {"format": FORMAT, "chunk_size": chunk_size, **asdict(identity)}
    tensors = _tensors(identity.rows, dim, kind, id_bytes, chunk_size)
    text = json.dumps({"__metadata__": {key: str(value) for key, value in metadata.items()}, **tensors}).encode()
    text += b" " * (-(8 + len(text) + 8 * _table_size(identity.rows, chunk_size)) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
