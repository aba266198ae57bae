"""Blocks of records: a part of a file that is parsed at once, record by record or, if possible, as whole columns.

`records` takes every file and names the row of each mistake. `columns` is several times faster, and returns None for a
block that has anything unusual, so that the result never depends on which of the two was used.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from dpr_lightning.errors import UserError
from dpr_lightning.text_files import decode_lines

Numbered = tuple[int, Any]  # row and record
_LONGEST = 1 << 30  # Arrow's parsers count bytes in 32-bit integers
_MARK = b"\xef\xbb\xbf"
_STRINGS = (pa.string(), pa.large_string(), pa.null())
csv.field_size_limit(min(sys.maxsize, (1 << 31) - 1))  # the default of 131,072 refuses long passages


class Block(Protocol):
    """Records of a file, in order."""

    @property
    def first(self) -> int:
        """The row of the first record."""

    @property
    def progress(self) -> float:
        """The share of the file that ends with these records."""

    def records(self) -> Iterator[Numbered]:
        """Yield pairs (row, record)."""

    def columns(self, fields: Sequence[str]) -> pa.Table | None:
        """Return the fields as strings, one row per record and null for a missing field, or None if that is unsafe."""


class JsonLines(NamedTuple):
    """Complete lines of JSON."""

    file: Path
    first: int
    content: bytes
    progress: float

    def records(self) -> Iterator[Numbered]:
        """Yield (line number, record) for each line that is not blank."""
        for row, line in decode_lines(self.file, self.first, self.content):
            if not line.strip():
                continue
            try:
                yield row, json.loads(line)
            except json.JSONDecodeError as error:
                problem = f"not a JSON object ({error.msg}, column {error.colno})"
                raise UserError(f"{self.file}, row {row}: {problem}. Correct the line.") from error
            except RecursionError as error:
                raise UserError(f"{self.file}, row {row}: too deeply nested. Correct the line.") from error

    def columns(self, fields: Sequence[str]) -> pa.Table | None:
        """Parse all lines at once, if each is one object on its own."""
        content = self.content.replace(b"\r\n", b"\n")
        lines = content.count(b"\n") + (not content.endswith(b"\n"))
        joints = content.count(b"}\n{") + content.startswith(b"{")
        if len(content) > _LONGEST or lines != joints:
            return None
        schema = pa.schema([(field, pa.string()) for field in fields])
        with contextlib.suppress(pa.ArrowException, UnicodeDecodeError):
            content.decode()
            table = pyarrow.json.read_json(
                pa.py_buffer(content),
                read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(content) + 1),
                parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
            return table if table.num_rows == lines else None
        return None


class TableLines(NamedTuple):
    """Complete lines of tab-separated fields; `quoted` fields may be in double quotes, as CSV writers do it."""

    file: Path
    first: int
    content: bytes
    progress: float
    names: tuple[str, ...]
    quoted: bool

    def records(self) -> Iterator[Numbered]:
        """Yield (line number, record) for each line that is not blank."""
        for row, line in decode_lines(self.file, self.first, self.content):
            if line.strip():
                fields = split_fields(line, "\t", quoted=self.quoted)
                if fields is None:
                    raise UserError(f"{self.file}, row {row}: a quoted field does not end. Correct the line.")
                yield row, record_of(self.file, row, self.names, fields)

    def columns(self, fields: Sequence[str]) -> pa.Table | None:
        """Parse all lines at once, if each is one row on its own."""
        if len(self.content) > _LONGEST or _MARK in self.content:
            return None
        strings = {name: pa.string() for name in self.names}
        with contextlib.suppress(pa.ArrowException, UnicodeDecodeError):
            table = pyarrow.csv.read_csv(
                pa.py_buffer(self.content),
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=len(self.content) + 1, column_names=self.names
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter="\t", quote_char='"' if self.quoted else False, ignore_empty_lines=False
                ),
                convert_options=pyarrow.csv.ConvertOptions(column_types=strings, strings_can_be_null=False),
            )
            lines = self.content.count(b"\n") + (not self.content.endswith(b"\n"))
            return _select(table, fields) if table.num_rows == lines else None
        return None


class Records(NamedTuple):
    """Records that are already parsed."""

    pairs: list[Numbered]
    progress: float

    @property
    def first(self) -> int:
        """The row of the first record."""
        return self.pairs[0][0]

    def records(self) -> Iterator[Numbered]:
        """Yield the pairs."""
        return iter(self.pairs)

    def columns(self, fields: Sequence[str]) -> pa.Table | None:
        """Return None, because pairs have no columns."""
        return None


class ArrowRows(NamedTuple):
    """Rows of a Parquet or Arrow file."""

    file: Path
    first: int
    batch: pa.RecordBatch
    progress: float

    @property
    def last_row(self) -> int:
        """The number of the last row."""
        return self.first + int(self.batch.num_rows) - 1

    def records(self) -> Iterator[Numbered]:
        """Yield (row, record)."""
        try:
            return enumerate(self.batch.to_pylist(), self.first)
        except (ValueError, pa.ArrowException) as error:
            raise cannot_read_further(self.file, self.first - 1, error) from error

    def columns(self, fields: Sequence[str]) -> pa.Table | None:
        """Return the columns if they are valid strings."""
        table = _select(pa.Table.from_batches([self.batch]), fields)
        with contextlib.suppress(pa.ArrowException, UnicodeDecodeError):
            if all(kind in _STRINGS for kind in table.schema.types):
                table.validate(full=True)
                return table.cast(pa.schema([(field, pa.string()) for field in fields]))
        return None


def cannot_read_further(file: Path, row: int, error: Exception) -> UserError:
    """Return the error of a file that is damaged after a row."""
    reason = " ".join(str(error).split())
    return UserError(f"{file}, after row {row}: cannot be read further ({reason}). Fetch or write the file again.")


def split_fields(line: str, delimiter: str, *, quoted: bool) -> list[str] | None:
    """Return the fields of a line, or None if a quoted field does not end."""
    if not quoted:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
    return next(csv.reader([line], delimiter=delimiter))


def record_of(file: Path, row: int, names: Sequence[str], fields: list[str]) -> dict[str, Any]:
    """Return the fields by name."""
    if len(fields) != len(names):
        problem = f"{len(fields)} fields instead of {len(names)} ({', '.join(names)})"
        raise UserError(f"{file}, row {row}: {problem}. Correct the line.")
    return dict(zip(names, fields, strict=True))


def _select(table: pa.Table, fields: Sequence[str]) -> pa.Table:
    """Return the fields of a table; one that it lacks is null."""
    missing = pa.nulls(table.num_rows, pa.string())
    columns = [table.column(field) if field in table.column_names else missing for field in fields]
    return pa.table(columns, names=list(fields))


def json_lines_of(table: pa.Table) -> pa.StringArray:
    """Return each row of string columns as the line that Python's `json` writes for it, with its line end."""
    parts: list[Any] = []
    for position, name in enumerate(table.column_names):
        parts += [f'{{"{name}": "' if position == 0 else f'", "{name}": "', _escaped(table.column(name))]
    return pc.binary_join_element_wise(*parts, '"}\n', "")


def _escaped(column: pa.ChunkedArray) -> pa.Array:
    r"""Return the strings with `\`, `"` and control characters escaped as in JSON."""
    strings = pa.concat_arrays(column.chunks)
    data = np.frombuffer(content_of(strings), np.uint8)
    if not len(data):
        return strings
    special = ["\\", '"', *(map(chr, range(32)) if data.min() < 32 else [])]
    for character in special:
        if (data == ord(character)).any():
            strings = pc.replace_substring(strings, character, json.dumps(character)[1:-1])
    return strings


def content_of(strings: pa.StringArray) -> pa.Buffer:
    """Return the bytes of all strings, one after another."""
    _, offsets, data = strings.buffers()
    if data is None:
        return pa.py_buffer(b"")
    width = np.int64 if pa.types.is_large_string(strings.type) or pa.types.is_large_binary(strings.type) else np.int32
    ends = np.frombuffer(offsets, width)[strings.offset : strings.offset + len(strings) + 1]
    return data.slice(int(ends[0]), int(ends[-1] - ends[0]))
