"""UTF-8 text files in the variants that other programs write: byte order marks, CRLF, gzip, Zstandard."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dpr_lightning.errors import UserError

BYTE_ORDER_MARK = "\ufeff"
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5": "Zstandard"}
_PIECE = 1 << 17


class TextBlock(NamedTuple):
    """Lines of a text file: the number of the first, from 1, their bytes, and the share of the file read so far."""

    first: int
    content: bytes
    progress: float


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield the number, from 1, and the text of each line of a UTF-8 file.

    A line ends at `\n` or `\r\n`; other characters that Unicode counts as line breaks are part of the text. A byte
    order mark at the start of a line is dropped, since concatenated files have them in the middle. Data compressed with
    gzip or Zstandard is recognized by its first bytes, whatever the name of the file.

    Raises:
        UserError: The file is not UTF-8 text, or its compressed data is damaged; the message names file and line.
    """
    for block in read_blocks(path, size=1 << 16):
        yield from decode_lines(path, block.first, block.content)


def read_blocks(path: Path, *, size: int) -> Iterator[TextBlock]:
    """Yield the file, decompressed, in blocks of complete lines of at least `size` bytes; only the last is smaller.

    Raises:
        UserError: The compressed data is damaged; the lines before the damage are yielded first.
    """
    first, pieces, length, progress = 1, [b""], 0, 0.0
    try:
        for piece, progress in _pieces(path):
            pieces.append(piece)
            length += len(piece)
            if length >= size and b"\n" in piece:
                block = b"".join(pieces)
                end = block.rfind(b"\n") + 1
                yield TextBlock(first, block[:end], progress)
                first += block.count(b"\n", 0, end)
                pieces, length = [block[end:]], len(block) - end
    except _DamageError as damage:
        block = b"".join(pieces)
        if end := block.rfind(b"\n") + 1:
            yield TextBlock(first, block[:end], progress)
        line = first - 1 + block.count(b"\n")
        raise UserError(f"{path}, after line {line}: {damage}. Fetch the file again.") from damage.__cause__
    if block := b"".join(pieces):
        yield TextBlock(first, block, 1.0)


def read_text(path: Path) -> Iterator[tuple[str, float]]:
    """Yield the text of a file piece by piece, each with the share of the file read so far.

    Raises:
        UserError: The file is not UTF-8 text, or its compressed data is damaged.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        for piece, progress in _pieces(path):
            yield decoder.decode(piece), progress
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}). Convert the file to UTF-8.") from error
    except _DamageError as damage:
        raise UserError(f"{path}: {damage}. Fetch the file again.") from damage.__cause__


def decode_lines(path: Path, first: int, content: bytes) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line; see `read_lines`.

    Args:
        path: The file, for messages.
        first: Number of the first line.
        content: The bytes of complete lines.
    """
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), first):
        try:
            yield number, line.removesuffix(b"\r").decode().removeprefix(BYTE_ORDER_MARK)
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 text ({error.reason} at byte {error.start})"
            raise UserError(f"{path}, line {number}: {problem}. Convert the file to UTF-8.") from error


class _DamageError(Exception):
    """Compressed data cannot be read further."""


def _pieces(path: Path) -> Iterator[tuple[bytes, float]]:
    """Yield the decompressed content, each piece with the share of the file read so far."""
    bytes_on_disk = max(path.stat().st_size, 1)
    with path.open("rb") as raw:
        kind = _MAGIC.get(raw.peek(2)[:2])
        stream: Any = raw
        if kind == "gzip":
            stream = gzip.GzipFile(fileobj=raw)
        elif kind == "Zstandard":
            import pyarrow as pa

            stream = pa.CompressedInputStream(raw, "zstd")
        try:
            while piece := stream.read1(_PIECE):
                yield piece, min(raw.tell() / bytes_on_disk, 1.0)
        except (EOFError, OSError, zlib.error) as error:
            if kind is None:
                raise
            raise _DamageError(f"damaged {kind} data ({error})") from error


def excerpt(line: str) -> str:
    """Return the start of a line in quotes for a message, with characters escaped that a terminal would interpret."""
    return repr(line.strip()[:60])


def plain_number(text: str) -> str:
    """Return a number's text; raise ValueError if it has what only Python reads: other digits than 0 to 9, or `_`."""
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return text
