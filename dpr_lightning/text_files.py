"""UTF-8 text files in the variants that other programs write: byte order marks, CRLF, gzip."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from dpr_lightning.errors import UserError

BYTE_ORDER_MARK = "\ufeff"
_GZIP = b"\x1f\x8b"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield the number, from 1, and the text of each line of a UTF-8 file.

    A line ends at `\n` or `\r\n`; other characters that Unicode counts as line breaks are part of the text. A byte
    order mark at the start of a line is dropped, since concatenated files have them in the middle. Data compressed with
    gzip is recognized by its first bytes, whatever the name of the file.

    Raises:
        UserError: The file is not UTF-8 text, or its compressed data is damaged; the message names file and line.
    """
    number = 0
    with path.open("rb") as raw:
        try:
            for number, line in enumerate(_unpacked(raw), 1):
                yield number, line.removesuffix(b"\n").removesuffix(b"\r").decode().removeprefix(BYTE_ORDER_MARK)
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 text ({error.reason} at byte {error.start})"
            raise UserError(f"{path}, line {number}: {problem}. Convert the file to UTF-8.") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"{path}, after line {number}: damaged gzip data ({error}). Fetch the file again."
            ) from error


@contextlib.contextmanager
def open_text(path: Path, *, errors: str = "strict") -> Iterator[io.TextIOWrapper]:
    """Open a UTF-8 file, without its byte order mark and compressed with gzip or not, for reading in pieces.

    Args:
        path: The file.
        errors: What to do with bytes that are not UTF-8, as for `open`.

    Raises:
        UserError: The file is not UTF-8 text, or its compressed data is damaged.
    """
    with path.open("rb") as raw, io.TextIOWrapper(_unpacked(raw), "utf-8-sig", errors, "\n") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error.reason}). Convert the file to UTF-8.") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged gzip data ({error}). Fetch the file again.") from error


def excerpt(line: str) -> str:
    """Return the start of a line in quotes for a message, with characters escaped that a terminal would interpret."""
    return repr(line.strip()[:60])


def _unpacked(raw: io.BufferedReader) -> gzip.GzipFile | io.BufferedReader:
    return gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP else raw
