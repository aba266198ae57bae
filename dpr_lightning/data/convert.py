"""Converts data files to an Arrow file of checked rows, and computes their fingerprint.

1. The files are read in blocks, in order.
2. Each block is checked: column by column if its layout and its content allow that, otherwise row by row. Blocks are
   checked by two threads, which run in parallel while Arrow parses.
3. In the order of the files, repeated ids are found, the lines of JSON of the valid rows are hashed, and the rows are
   written. Hence fingerprint and errors do not depend on how a block was checked.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dpr_lightning.data.blocks import Block, Numbered, Records, content_of, json_lines_of
from dpr_lightning.data.cache import Facts
from dpr_lightning.data.cells import with_lists
from dpr_lightning.data.containers import Table, read_file, read_records
from dpr_lightning.data.layouts import Layout
from dpr_lightning.data.schema import CORPUS, InvalidRowError, Schema
from dpr_lightning.data.texts import Texts, hash_ids
from dpr_lightning.errors import UserError

_log = logging.getLogger(__name__)
_BATCH_ROWS = 1000
_BATCH_BYTES = 1 << 27  # a training row may have hundreds of passages
_ROW_BYTES = (1 << 31) - 1  # offsets within an Arrow column are 32-bit integers
_THREADS = 2
_REPORT_S = 10.0
_KEPT_PROBLEMS = 3


class Input(NamedTuple):
    """A file to convert: its layout, how to read it if it is a table, and the texts of the ids that it names."""

    file: Path
    layout: Layout
    table: Table | None
    texts: Texts


class Problems:
    """Raises at the first invalid row, or counts such rows if they are to be skipped, and keeps the first few."""

    def __init__(self, files: list[Path], name: str, skip: bool) -> None:
        """Store the files and the argument that they come from, for messages, and whether to skip invalid rows."""
        self.files, self.name, self.skip, self.count = files, name, skip, 0
        self.first: list[tuple[int, str]] = []

    def add(self, file: int, row: int, problem: str) -> None:
        """Count or raise a problem; the text follows the row's number directly."""
        found = (file, f"row {row}{problem}")
        if not self.skip:
            remedy = "Correct the row, or set `skip_invalid`=true to count and skip such rows."
            raise UserError(f"{self.name}: {self.describe(*found)}. {remedy}")
        if self.count < _KEPT_PROBLEMS:
            self.first.append(found)
        self.count += 1

    def describe(self, file: int, problem: str) -> str:
        """Return the problem with its file; facts in the cache do not name files, which may have moved since."""
        return f"{self.files[file]}, {problem}"


@dataclass
class _Checked:
    """Valid rows, with their numbers in the file and as lines of JSON, and the problems of the others."""

    rows: pa.RecordBatch
    lines: pa.Array
    numbers: Sequence[int]
    problems: list[tuple[int, str]]


def convert(inputs: list[Input], schema: Schema, problems: Problems, path: Path) -> Facts:
    """Write the valid rows of all files to an Arrow file.

    Returns:
        The fingerprint of the rows, the number of invalid rows and the first of these.

    Raises:
        UserError: A file is damaged, a row is invalid, an id is repeated, or the files have no rows.
    """
    digest, rows = xxhash.xxh3_128(), 0
    with path.open("wb") as file, pa.ipc.new_stream(file, schema.columns) as stream:
        for valid, lines in checked_rows(inputs, schema, problems, SeenIds()):
            digest.update(lines)
            stream.write_batch(valid)
            rows += valid.num_rows
    first = problems.first[0] if problems.first else (0, "")
    if not rows:
        invalid = f"{problems.count} invalid and no valid rows, the first: {problems.describe(*first)}"
        content = invalid if problems.count else "no rows"
        raise UserError(
            f"{problems.name}: {', '.join(map(str, problems.files))} has {content}. Correct `{problems.name}`."
        )
    return {"fingerprint": digest.hexdigest(), "skipped": problems.count, "first_skipped": first}


def checked_rows(
    inputs: list[Input], schema: Schema, problems: Problems, seen: SeenIds
) -> Iterator[tuple[pa.RecordBatch, pa.Buffer]]:
    """Yield the valid rows of all files in order, and as lines of JSON, whose hash is their fingerprint.

    Args:
        inputs: The files.
        schema: The kind of rows.
        problems: Takes the invalid rows, by the number of their file in `inputs`.
        seen: The ids of earlier rows, to which those of these rows are added.
    """
    rows, progress = 0, _Progress(problems.name, len(inputs))
    for number, source in enumerate(inputs):
        for block, parts in _in_order(_blocks(source), lambda block: _check(block, source, schema)):  # noqa: B023
            for part in parts:
                for row, problem in part.problems:
                    problems.add(number, row, problem)
                valid = _without_repeated(part, number, source, schema, seen, problems) if schema.unique else part
                if valid.rows.num_rows:
                    yield valid.rows, content_of(valid.lines)
                    rows += valid.rows.num_rows
            progress.report(rows, number, block.progress)
    progress.finish(rows)


def _blocks(source: Input) -> Iterator[Block]:
    if source.layout.group is None:
        yield from read_file(source.file, source.table)
        return
    records = source.layout.group(read_records(source.file, source.table), source.file)
    while group := list(islice(records, _BATCH_ROWS // 10)):
        yield Records(group, 0.0)


def _in_order(
    blocks: Iterator[Block], check: Callable[[Block], list[_Checked]]
) -> Iterator[tuple[Block, list[_Checked]]]:
    """Yield each block with its checked rows, in order; a few blocks are checked ahead."""
    waiting: deque[tuple[Block, Future[list[_Checked]]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for block in blocks:
                waiting.append((block, pool.submit(check, block)))
                if len(waiting) > _THREADS:
                    block, result = waiting.popleft()
                    yield block, result.result()
            while waiting:
                block, result = waiting.popleft()
                yield block, result.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _check(block: Block, source: Input, schema: Schema) -> list[_Checked]:
    by_columns = source.layout.convert is None or source.layout.convert_columns is not None
    if schema is CORPUS and by_columns and (checked := _check_columns(block, source.layout, schema)):
        return [checked]
    return list(_check_rows(block.records(), source, schema))


def _check_columns(block: Block, layout: Layout, schema: Schema) -> _Checked | None:
    """Return the passages of a block, or None unless all of them are valid and no line is blank."""
    names = schema.columns.names
    table = block.columns([layout.names.get(name, f"\0{name}") for name in names])
    if table is None or not table.num_rows:
        return None
    table = table.rename_columns(names)
    if layout.convert_columns:
        table = layout.convert_columns(table)
    docids, titles, texts = (table.column(name) for name in names)
    if docids.null_count or texts.null_count or pc.any(pc.equal(docids, "")).as_py():
        return None
    table = table.set_column(1, "title", titles.fill_null(""))
    lines = json_lines_of(table)
    if pc.max(pc.binary_length(lines)).as_py() > _ROW_BYTES:
        return None
    batch = table.combine_chunks().to_batches()[0]
    return _Checked(batch, lines, range(block.first, block.first + table.num_rows), [])


def _check_rows(records: Iterator[Numbered], source: Input, schema: Schema) -> Iterator[_Checked]:
    """Yield the valid rows in batches that are limited by rows and by bytes."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    header = source.table is not None and source.table.header
    lists = source.layout.list_fields if source.table else []
    batch: list[tuple[int, Any, bytes]] = []
    problems: list[tuple[int, str]] = []
    size = 0
    for row, record in records:
        try:
            given = with_lists(record, lists) if lists else record
            checked = schema.check(source.layout.record(row - 1 - header, given, source.texts))
            line = f"{encode(checked)}\n".encode()
            if len(line) > _ROW_BYTES:
                raise InvalidRowError(f"the row has {len(line):,} bytes, more than {_ROW_BYTES:,}")
        except InvalidRowError as error:
            fields = record if isinstance(record, dict) else {}
            field = source.layout.name_of(schema.id_field, fields)
            id_ = fields.get(field, fields.get(schema.id_field))
            named = f" ({field} {_quoted(id_)})" if isinstance(id_, str | int) else ""
            problems.append((row, f"{named}: {source.layout.problem(str(error), fields)}"))
            continue
        if batch and (len(batch) == _BATCH_ROWS or size + len(line) > _BATCH_BYTES):
            yield _checked_batch(batch, schema, problems)
            batch, problems, size = [], [], 0
        batch.append((row, checked, line))
        size += len(line)
    yield _checked_batch(batch, schema, problems)


def _checked_batch(batch: list[tuple[int, Any, bytes]], schema: Schema, problems: list[tuple[int, str]]) -> _Checked:
    rows = pa.RecordBatch.from_pylist([record for _, record, _ in batch], schema.columns)
    lines = pa.array([line for _, _, line in batch], pa.large_binary())
    return _Checked(rows, lines, [row for row, _, _ in batch], problems)


def _without_repeated(
    part: _Checked, file: int, source: Input, schema: Schema, seen: SeenIds, problems: Problems
) -> _Checked:
    """Return the rows whose id is new."""
    ids = part.rows.column(schema.id_field).to_pylist()
    is_new = seen.add(ids)
    if is_new.all():
        return part
    field = source.layout.name_of(schema.id_field, source.table.names if source.table else ())
    for position in np.flatnonzero(~is_new):
        problem = f": {field} {_quoted(ids[position])} is also in an earlier row"
        problems.add(file, part.numbers[int(position)], problem)
    mask = pa.array(is_new)
    return _Checked(part.rows.filter(mask), part.lines.filter(mask), [], [])


def _quoted(value: str | int) -> str:
    """Return an id in quotes, with escapes for characters that cannot be printed."""
    return f'"{repr(str(value))[1:-1]}"'


class SeenIds:
    """A set of 64-bit hashes of ids: for 21 million, 170 MB and a chance of 1 in 80,000 that two ids collide."""

    def __init__(self) -> None:
        self._levels: list[np.ndarray] = []  # sorted hashes; each level is longer than the next

    def add(self, ids: list[str]) -> np.ndarray:
        """Add the ids and return, for each of them, whether it is new: [len(ids)] bool."""
        hashes = hash_ids(ids)
        first = np.zeros(len(ids), dtype=bool)
        first[np.unique(hashes, return_index=True)[1]] = True
        known = np.zeros(len(ids), dtype=bool)
        for level in self._levels:
            known |= level[np.minimum(np.searchsorted(level, hashes), len(level) - 1)] == hashes
        is_new: np.ndarray = first & ~known
        if is_new.any():
            self._levels.append(np.sort(hashes[is_new]))
        while len(self._levels) > 1 and len(self._levels[-1]) >= len(self._levels[-2]):
            self._levels.append(np.sort(np.concatenate([self._levels.pop(), self._levels.pop()])))
        return is_new


class _Progress:
    """Logs the rows so far, the share of the files read and the rate, for conversions that take longer."""

    def __init__(self, name: str, files: int) -> None:
        self._name, self._files, self._start = name, files, time.monotonic()
        self._next = self._start + _REPORT_S

    def report(self, rows: int, file: int, share: float) -> None:
        """Log the progress if the last report is some seconds old."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + _REPORT_S
            done = f"{(file + share) / self._files:.0%}" if share else f"file {file + 1} of {self._files}"
            _log.info("%s: %s rows (%s), %s rows/s", self._name, f"{rows:,}", done, self._rate(rows))

    def finish(self, rows: int) -> None:
        """Log the total."""
        if time.monotonic() - self._start >= _REPORT_S:
            _log.info("%s: %s rows checked, %s rows/s", self._name, f"{rows:,}", self._rate(rows))

    def _rate(self, rows: int) -> str:
        return f"{rows / max(time.monotonic() - self._start, 1e-9):,.0f}"
