"""Write an embedding file chunk by chunk, so that an interrupted run continues after its last intact chunk."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from dpr_lightning.embeddings.file import DTYPES, FORMAT, Identity, table_size, tensor_entries
from dpr_lightning.embeddings.ids import Ids
from dpr_lightning.errors import FinishedError, UserError
from dpr_lightning.files import create_parent, flush_to_disk
from dpr_lightning.locks import describe_holder, exclusive_lock

_ALIGNMENT = 64  # bytes: the first embedding's offset in the file is a multiple


class EmbeddingWriter:
    """Append chunks to `path.partial` and rename it to `path` when it is complete; a context manager.

    An existing partial file is continued after its last intact chunk, if its header is the one that this writer would
    write. While a writer is open, no other process can open one for the same file.
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
        """Open the partial file and find out which rows it has.

        Args:
            path: The name of the finished file.
            identity: The content of the file, stored in its header.
            ids: The id of each row.
            dim: The size of an embedding.
            dtype: `float32` or `float16`.
            chunk_size: The rows of a chunk; the last chunk may be smaller.
            overwrite: Discard a partial file with another header, and replace a finished file at the end.

        Raises:
            LockedError: Another process has the file open.
            FinishedError: It is finished already.
            UserError: Its partial file has another model, data set or setting, or it cannot be written (also raised by
                other methods).
        """
        self.path, self.partial = path, partial_file(path)
        self.rows, self.chunk_size = identity.rows, chunk_size
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._ids = ids if isinstance(ids, Ids) else Ids.of(ids)
        self._header = _header(identity, dim, self.dtype, len(self._ids.utf8), chunk_size)
        self._row_bytes = dim * self.dtype.itemsize
        self._first_embedding = len(self._header) + 8 * table_size(self.rows, chunk_size)
        create_parent(path)
        with self._disk_errors(), contextlib.ExitStack() as opened:
            opened.enter_context(exclusive_lock(path, remedy="Wait for it to end, or choose another shard"))
            if path.exists() and not overwrite:
                raise FinishedError(path)
            self._file = opened.enter_context(self.partial.open("r+b" if self.partial.exists() else "w+b"))
            self.done = self._continue(overwrite)
            describe_holder(path, rows_at_start=self.done)
            self._opened = opened.pop_all()

    def _continue(self, overwrite: bool) -> int:
        """Truncate the file after its last intact chunk and return the number of rows before that."""
        header = self._file.read(len(self._header))
        if not self._header.startswith(header) and not overwrite:
            raise UserError(
                f"{self.partial} was begun with another model, data set or setting. "
                "Delete it, set overwrite=true, or choose another run_dir."
            )
        if header != self._header:
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
        """Append the next chunk [chunk rows, dim] and return when it is on the disk."""
        if len(chunk) != min(self.chunk_size, self.rows - self.done):
            raise ValueError(f"{self.partial}: {len(chunk)} rows are not a chunk, at row {self.done} of {self.rows}")
        content = np.ascontiguousarray(chunk, self.dtype)
        with self._disk_errors():
            self._write(self._end_of_chunks(), content.data)
            self._write_checksum(self.done // self.chunk_size, xxhash.xxh3_64_intdigest(content.data))
            flush_to_disk(self._file)
        self.done += len(chunk)

    def finish(self) -> None:
        """Append the ids and rename the file to its final name."""
        if self.done != self.rows:
            raise ValueError(f"{self.partial}: {self.done} rows of {self.rows} are written")
        with self._disk_errors():
            self._write(self._end_of_chunks(), self._ids.offsets.astype("<i8").data)
            self._file.write(self._ids.utf8.data)
            self._write_checksum(-(-self.rows // self.chunk_size), self._ids.checksum())
            flush_to_disk(self._file)
            self.partial.replace(self.path)

    def _end_of_chunks(self) -> int:
        end = self._first_embedding + self.done * self._row_bytes
        if self.partial.stat().st_size != end:
            raise UserError(f"{self.partial} was changed by another program meanwhile. Run the same command again.")
        return end

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = "Free some space, or correct run_dir or its permissions; the same command then continues"
            raise UserError(f"{self.partial} cannot be written: {error.strerror}. {remedy}.") from error

    def _write(self, offset: int, content: bytes | memoryview) -> None:
        self._file.seek(offset)
        self._file.write(content)

    def _write_checksum(self, number: int, checksum: int) -> None:
        self._write(len(self._header) + 8 * number, struct.pack("<Q", checksum))

    def __enter__(self) -> EmbeddingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # reported already: what could not be written before cannot be flushed now
            self._opened.close()


def partial_file(path: Path) -> Path:
    """Return the unfinished form of an embedding file."""
    return path.with_name(path.name + ".partial")


def rows_written(partial: Path) -> tuple[int, int]:
    """Return how many rows a partial file has, without verifying them, and how many it will have."""
    with partial.open("rb") as file:
        start = file.read(8)
        text = file.read(int.from_bytes(start, "little")) if len(start) == 8 else b""
        if not text.endswith((b"}", b" ")):
            return 0, 0  # the header is not complete yet
        header = json.loads(text)["__metadata__"]
        rows, chunk_size = int(header["rows"]), int(header["chunk_size"])
        chunks = np.frombuffer(file.read(8 * (table_size(rows, chunk_size) - 1)), "<u8")
    return min(rows, int(np.count_nonzero(chunks)) * chunk_size), rows


def _header(identity: Identity, dim: int, dtype: np.dtype[Any], id_bytes: int, chunk_size: int) -> bytes:
    """Return the header's length and its JSON text, padded so that the embeddings are aligned."""
    kind = next(name for name, code in DTYPES.items() if dtype == code)
    metadata = {"format": FORMAT, "chunk_size": chunk_size, **asdict(identity)}
    tensors = tensor_entries(identity.rows, dim, kind, id_bytes, chunk_size)
    text = json.dumps({"__metadata__": {key: str(value) for key, value in metadata.items()}, **tensors}).encode()
    text += b" " * (-(8 + len(text) + 8 * table_size(identity.rows, chunk_size)) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
