"""From a file to blocks of records: JSON lines, arrays and tables, Parquet and Arrow, chosen by looking at the file."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from pyarrow import parquet

from dpr_lightning.data.blocks import (
    ArrowRows,
    Block,
    JsonLines,
    Numbered,
    Records,
    TableLines,
    cannot_read_further,
    record_of,
    split_fields,
)
from dpr_lightning.data.json_array import array_records, opening_of
from dpr_lightning.errors import UserError
from dpr_lightning.text_files import decode_lines, read_blocks, read_lines

T = TypeVar("T")
_TEXT = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*(f"{name}{end}" for name in _TEXT for end in ("", ".gz", ".zst")), ".parquet", ".arrow")
_BLOCK_BYTES = 1 << 22
_BLOCK_ROWS = 1000
_SAMPLE_ROWS = 20


class Sample(NamedTuple):
    """The start of a file: of a table the cells of the first line, of other files some records.

    Attributes:
        records: The first records, each with values or only with the names of its fields.
        cells: The fields of the first line of a table, where quotes enclose fields.
        raw_cells: The same if quotes are ordinary characters.
        delimiter: Between fields of a table; empty for other files.
    """

    records: list[Any]
    cells: list[str]
    raw_cells: list[str]
    delimiter: str


class Table(NamedTuple):
    """How to read a table: the names of its columns, whether they are its first line, whether quotes enclose fields."""

    names: tuple[str, ...]
    delimiter: str
    header: bool
    quoted: bool


def read_sample(file: Path) -> Sample:
    """Return the start of a file; mistakes in it are left to reading.

    Raises:
        UserError: The file cannot be read.
    """
    if any(end in file.name for end in (".csv", ".tsv")):
        line = next((line for _, line in _readable(file, read_lines(file)) if line.strip()), "")
        delimiter = "\t" if "\t" in line else ","
        cells = split_fields(line, delimiter, quoted=True) or []
        return Sample([], cells, line.split(delimiter), delimiter)
    if file.name.endswith((".parquet", ".arrow")):
        names = next(_readable(file, (schema.names for schema in _arrow_schema(file))))
        return Sample([dict.fromkeys(names)], [], [], "")
    records: list[Any] = []
    with contextlib.suppress(UserError):
        records += (record for _, record in islice(read_records(file), _SAMPLE_ROWS))
    return Sample(records, [], [], "")


def read_records(file: Path, table: Table | None = None) -> Iterator[Numbered]:
    """Yield pairs (row, record); rows count from 1 and are line numbers in JSON Lines and tables.

    Text may be compressed with gzip or Zstandard, whatever the file's name, begin with a byte order mark, and have
    lines that end in CRLF.

    Args:
        file: The file.
        table: How to read a table.

    Raises:
        UserError: A row cannot be parsed, text is not UTF-8, or the file is cut short; the message names file and row.
    """
    for block in read_file(file, table):
        yield from block.records()


def read_file(file: Path, table: Table | None = None) -> Iterator[Block]:
    """Yield the blocks of a file; see `read_records`."""
    if file.name.endswith((".parquet", ".arrow")):
        blocks = _arrow_blocks(file)
    elif table is None:
        opening = opening_of(file)
        blocks = _json_array_blocks(file, opening) if opening else _json_lines_blocks(file)
    else:
        blocks = _tab_blocks(file, table) if table.delimiter == "\t" else _csv_blocks(file, table)
    yield from _readable(file, blocks)


def _readable(file: Path, items: Iterator[T]) -> Iterator[T]:
    """Turn errors of the disk and of decoders into a UserError that names the last row read."""
    row = 0
    try:
        for item in items:
            row = item.last_row if isinstance(item, ArrowRows) else row
            yield item
    except UserError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise cannot_read_further(file, row, error) from error


def _json_lines_blocks(file: Path) -> Iterator[Block]:
    for block in read_blocks(file, size=_BLOCK_BYTES):
        yield JsonLines(file, *block)


def _json_array_blocks(file: Path, opening: str) -> Iterator[Block]:
    records = array_records(file, opening)
    while group := list(islice(records, _BLOCK_ROWS // 10)):
        yield Records([(row, record) for row, record, _ in group], group[-1][2])


def _tab_blocks(file: Path, table: Table) -> Iterator[Block]:
    skip = table.header
    for first, content, progress in read_blocks(file, size=_BLOCK_BYTES):
        while skip and content:
            header, _, content = content.partition(b"\n")
            skip, first = not header.strip(), first + 1
        if content:
            yield TableLines(file, first, content, progress, table.names, table.quoted)


def _csv_blocks(file: Path, table: Table) -> Iterator[Block]:
    """Yield the rows of a comma-separated table, whose quoted fields may have line ends."""
    progress = 0.0

    def lines() -> Iterator[str]:
        nonlocal progress
        for block in read_blocks(file, size=1 << 16):
            progress = block.progress
            yield from (f"{line}\n" for _, line in decode_lines(file, block.first, block.content))

    rows = csv.reader(lines(), strict=True)
    numbered = ((rows.line_num, cells) for cells in rows if cells)
    try:
        if table.header:
            next(numbered, None)
        while group := [(row, record_of(file, row, table.names, c)) for row, c in islice(numbered, _BLOCK_ROWS)]:
            yield Records(group, progress)
    except csv.Error as error:
        raise UserError(f"{file}, row {rows.line_num}: not a row of CSV ({error}). Correct the row.") from error


def _arrow_schema(file: Path) -> Iterator[pa.Schema]:
    """Yield the schema of a Parquet or Arrow file."""
    if file.name.endswith(".parquet"):
        with parquet.ParquetFile(file) as table:
            yield table.schema_arrow
    else:
        with pa.memory_map(str(file)) as source:
            yield _open_arrow(source).schema


def _open_arrow(source: pa.NativeFile) -> Any:
    """Return a reader of Arrow's file format or of its stream format, which `save_to_disk` writes."""
    magic = source.read(6)
    source.seek(0)
    return pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)


def _arrow_blocks(file: Path) -> Iterator[Block]:
    first = 1
    if file.name.endswith(".parquet"):
        with parquet.ParquetFile(file) as table:
            total = table.metadata.num_rows
            for batch in table.iter_batches(batch_size=_BLOCK_ROWS):
                yield ArrowRows(file, first, batch, (first - 1 + batch.num_rows) / total)
                first += batch.num_rows
        return
    with pa.memory_map(str(file)) as source:
        reader = _open_arrow(source)
        batches = (
            iter(reader) if hasattr(reader, "__iter__") else map(reader.get_batch, range(reader.num_record_batches))
        )
        for batch in batches:
            for start in range(0, batch.num_rows, _BLOCK_ROWS):
                part = batch.slice(start, _BLOCK_ROWS)
                yield ArrowRows(file, first, part, source.tell() / max(source.size(), 1))
                first += part.num_rows
