"""The embedding file: one shard's embeddings and ids as safetensors, grown chunk by chunk, opened memory-mapped.

Tensors, in this order: `embeddings` [rows, dim] float32 or float16, `id_offsets` [rows + 1] int64, `id_bytes` uint8
(UTF-8 ids end to end; id i is `id_bytes[id_offsets[i]:id_offsets[i + 1]]`). The header's metadata, all strings: format,
side, shard, num_shards, first_row, rows, precision, model_fingerprint, data_fingerprint.

All sizes are known before the first row is encoded, so the header is written first, and an unfinished file
(`….partial`) is a prefix of the finished one.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from dpr_lightning.errors import UserError
from dpr_lightning.files import flush_to_disk

FORMAT = "dpr_lightning.embeddings/1"
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_ALIGNMENT = 64  # of the first embedding in the file


@dataclass(frozen=True)
class Identity:
    """What an embedding file holds: which rows of which data, by which model."""

    side: str
    shard: int
    num_shards: int
    first_row: int
    rows: int
    precision: str
    model_fingerprint: str
    data_fingerprint: str


class Ids(Sequence[str]):
    """The ids of an embedding file in row order, decoded one by one when asked for."""

    def __init__(self, offsets: NDArray[np.int64], utf8: NDArray[np.uint8]) -> None:
        """Takes `id_offsets` [rows + 1] and `id_bytes`."""
        self._offsets, self._utf8 = offsets, utf8

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        row = range(len(self))[row]  # IndexError beyond the end, negative rows from the end
        return self._utf8[self._offsets[row] : self._offsets[row + 1]].tobytes().decode()


@dataclass(frozen=True)
class Embeddings:
    """An opened embedding file: `array` [rows, dim] float32 or float16, memory-mapped, and the id of each row."""

    path: Path
    identity: Identity
    ids: Ids
    array: NDArray[Any]


def open_embeddings(path: str | Path) -> Embeddings:
    """The ids and the memory-mapped embeddings of a file.

    Raises:
        UserError: no such file, cut short, or not an embedding file of ours.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} is not there. Make it with encode.py, or correct the path.")
    try:
        start, header = _read_header(path)
        metadata = header.pop("__metadata__")
        if metadata.pop("format") != FORMAT:
            raise KeyError("format")
        numbers = {key: int(metadata[key]) for key in ("shard", "num_shards", "first_row", "rows")}
        identity = Identity(**{**metadata, **numbers})
        places = {name: (start + tensor["data_offsets"][0], tensor) for name, tensor in header.items()}
        end = start + max(tensor["data_offsets"][1] for tensor in header.values())
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise UserError(f"{path} is no embedding file of this program. Encode again, or correct the path.") from error
    if path.stat().st_size != end:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes where {end:,} belong: it was cut short. Encode it again."
        )

    def mapped(name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        offset, tensor = places[name]
        return (
            np.memmap(path, dtype, "r", offset, tuple(tensor["shape"]))
            if 0 not in tensor["shape"]
            else np.empty(0, dtype)
        )

    dtype: np.dtype[Any] = _DTYPES[header["embeddings"]["dtype"]]
    ids = Ids(mapped("id_offsets", np.dtype("<i8")), mapped("id_bytes", np.dtype("u1")))
    return Embeddings(path, identity, ids, mapped("embeddings", dtype))


class EmbeddingWriter:
    """Grows `path.partial` by whole chunks and gives it its name when complete; a context manager.

    A partial file that is there already is continued after its last whole chunk, if its header is the one this writer
    would write. While it is open, no other process can open a writer on the same file.
    """

    def __init__(
        self, path: Path, identity: Identity, ids: Sequence[str], *, dim: int, dtype: str, chunk_size: int
    ) -> None:
        """Opens or continues the partial file.

        Args:
            path: the final name.
            identity: goes into the header.
            ids: the id of each row.
            dim: size of an embedding.
            dtype: `float32` or `float16`.
            chunk_size: rows per chunk; the last may be smaller.

        Raises:
            UserError: another process holds the file, or its partial is of another model, data set or setting.
        """
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self.rows, self.chunk_size = identity.rows, chunk_size
        self.dtype = np.dtype(dtype).newbyteorder("<")
        utf8 = [value.encode() for value in ids]
        self._tail = np.cumsum([0, *map(len, utf8)], dtype="<i8").tobytes() + b"".join(utf8)
        header = _header(identity, dim, self.dtype, len(self._tail) - 8 * (len(utf8) + 1))
        self._row_bytes = dim * self.dtype.itemsize
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{path} is being written by another process. Wait for it, or choose another shard."
            ) from None
        try:
            self.done = self._continue(header)
        except BaseException:
            self._lock.release()
            raise

    def _continue(self, header: bytes) -> int:
        """Opens the partial file behind its last whole chunk and returns the rows that it holds."""
        self._file = self.partial.open("r+b" if self.partial.exists() else "w+b")
        found = self._file.read(len(header))
        if found != header[: len(found)] or (len(found) < len(header) and found):
            raise UserError(
                f"{self.partial} was begun with another model, data set or setting. "
                "Delete it, set overwrite=true, or choose another run_dir."
            )
        if not found:
            self._file.write(header)
        held = min((self.partial.stat().st_size - len(header)) // self._row_bytes, self.rows)
        done = held if held == self.rows else max(held, 0) // self.chunk_size * self.chunk_size
        self._file.truncate(len(header) + done * self._row_bytes)
        self._file.seek(0, os.SEEK_END)
        return done

    def append(self, chunk: NDArray[Any]) -> None:
        """Adds the next chunk [chunk rows, dim]; when this returns, it is on the disk."""
        self._file.write(np.ascontiguousarray(chunk, self.dtype).data)
        flush_to_disk(self._file)
        self.done += len(chunk)

    def finish(self) -> None:
        """Adds the ids and gives the file its name."""
        if self.done != self.rows:
            raise ValueError(f"{self.partial}: {self.done} rows of {self.rows} are written")
        self._file.write(self._tail)
        flush_to_disk(self._file)
        self.partial.replace(self.path)

    def __enter__(self) -> EmbeddingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def _header(identity: Identity, dim: int, dtype: np.dtype[Any], id_bytes: int) -> bytes:
    def tensors() -> Iterator[tuple[str, dict[str, Any]]]:
        start = 0
        name_of = {value: key for key, value in _DTYPES.items()}
        for name, kind, shape, size in (
            ("embeddings", name_of[dtype], [identity.rows, dim], identity.rows * dim * dtype.itemsize),
            ("id_offsets", "I64", [identity.rows + 1], 8 * (identity.rows + 1)),
            ("id_bytes", "U8", [id_bytes], id_bytes),
        ):
            yield name, {"dtype": kind, "shape": shape, "data_offsets": [start, start + size]}
            start += size

    metadata = {"format": FORMAT, **{key: str(value) for key, value in asdict(identity).items()}}
    text = json.dumps({"__metadata__": metadata, **dict(tensors())}).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ValueError("header longer than the file")
        return 8 + length, json.loads(file.read(length))
