"""Opens training data, queries and corpora of any size as memory-mapped rows.

The first opening reads and checks every row and writes an Arrow file into the cache; later openings map that file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import xxhash

from dpr_lightning.data.cache import CacheEntry, Facts, content_hash
from dpr_lightning.data.readers import find_files, read_records
from dpr_lightning.data.schema import CORPUS, QUERIES, TRAINING, InvalidRowError, Record, Schema
from dpr_lightning.errors import UserError, check_choice

_log = logging.getLogger(__name__)
_FORMAT = 4  # raise it when the cached form changes
_BATCH_ROWS = 1000
_BATCH_BYTES = 1 << 27  # a training row may have hundreds of passages
_ROW_BYTES = (1 << 31) - 1  # offsets within an Arrow column are 32-bit integers
Files = str | Sequence[str] | None


class Source(NamedTuple):
    """Checked rows in file order, memory-mapped.

    `fingerprint` is a hash of all rows; `skipped` counts the invalid ones that `skip_invalid` left out.
    """

    rows: datasets.Dataset
    fingerprint: str
    skipped: int


def open_training(files: Files, *, name: str = "train", skip_invalid: bool = False) -> Source:
    """Return rows `query_id, query, answers, positives, negatives`; a passage is `{docid, title, text, score}`."""
    return _open(files, TRAINING, name, skip_invalid)


def open_queries(files: Files, *, name: str = "queries", skip_invalid: bool = False) -> Source:
    """Return rows `query_id, query, answers`."""
    return _open(files, QUERIES, name, skip_invalid)


def open_corpus(files: Files, *, name: str = "corpus", skip_invalid: bool = False) -> Source:
    """Return rows `docid, title, text`."""
    return _open(files, CORPUS, name, skip_invalid)


def _open(spec: Files, schema: Schema, name: str, skip_invalid: bool) -> Source:
    """Return the rows of all files.

    Args:
        spec: See `find_files`.
        schema: The kind of the rows.
        name: The argument that `spec` comes from, for messages.
        skip_invalid: Count and skip invalid rows instead of raising.

    Raises:
        UserError: A file is missing or damaged, a row is invalid, an id is repeated, or there are no rows.
    """
    check_choice(skip_invalid, "skip_invalid", [True, False])
    files = find_files(spec, name=name)
    contents = [(file.suffix, content_hash(file)) for file in files]
    problems = _Problems(files, name, skip_invalid)
    entry = CacheEntry(repr((_FORMAT, schema.columns.names, skip_invalid, contents)))

    def convert(path: Path) -> Facts:
        _log.info("%s: checking %s once", name, ", ".join(file.name for file in files))
        facts = _convert(files, schema, problems, path)
        if [(file.suffix, content_hash(file)) for file in files] != contents:
            raise UserError(f"{name}: {', '.join(map(str, files))} changed during reading. Wait until it is complete.")
        return facts

    facts = entry.facts(convert)
    if facts["skipped"]:
        first = problems.describe(*facts["first_skipped"])
        _log.warning("%s: %d invalid rows skipped, the first: %s", name, facts["skipped"], first)
    return Source(datasets.Dataset.from_file(str(entry.arrow)), facts["fingerprint"], facts["skipped"])


def _convert(files: list[Path], schema: Schema, problems: _Problems, path: Path) -> Facts:
    """Write the valid rows to an Arrow file and return facts about them."""
    digest, rows = xxhash.xxh3_128(), 0
    with path.open("wb") as file, pa.ipc.new_stream(file, schema.columns) as stream:
        for batch in _valid_batches(files, schema, problems):
            rows += len(batch)
            for row in batch:
                digest.update(row.line)
            stream.write_batch(pa.RecordBatch.from_pylist([row.record for row in batch], schema.columns))
    if not rows:
        invalid = f"{problems.count} invalid and no valid rows, the first: {problems.describe(*problems.first)}"
        content = invalid if problems.count else "no rows"
        raise UserError(f"{problems.name}: {', '.join(map(str, files))} has {content}. Correct `{problems.name}`.")
    return {"fingerprint": digest.hexdigest(), "skipped": problems.count, "first_skipped": problems.first}


class _Row(NamedTuple):
    """A valid row: the number of its file, its number in it, and the record, also as a line of JSON."""

    file: int
    number: int
    record: Record
    line: bytes


class _Problems:
    """Raises at the first invalid row, or counts such rows if they are to be skipped."""

    def __init__(self, files: list[Path], name: str, skip: bool) -> None:
        self.files, self.name, self.skip, self.count = files, name, skip, 0
        self.first: tuple[int, str] = (0, "")

    def add(self, file: int, row: int, problem: str) -> None:
        """Count or raise a problem; the text follows the row's number directly."""
        first = (file, f"row {row}{problem}")
        if not self.skip:
            remedy = "Correct the row, or set `skip_invalid`=true to count and skip such rows."
            raise UserError(f"{self.name}: {self.describe(*first)}. {remedy}")
        self.first = self.first if self.count else first
        self.count += 1

    def describe(self, file: int, problem: str) -> str:
        """Return the problem with its file; facts in the cache do not name files, which may have moved since."""
        return f"{self.files[file]}, {problem}"


def _valid_batches(files: list[Path], schema: Schema, problems: _Problems) -> Iterator[list[_Row]]:
    """Yield the valid rows, in batches that are limited by rows and by bytes."""
    seen = _SeenIds()
    encode = json.JSONEncoder(ensure_ascii=False).encode
    batch: list[_Row] = []
    size = 0
    for file, number, record in _records(files):
        try:
            checked = schema.check(record)
            line = f"{encode(checked)}\n".encode()
            if len(line) > _ROW_BYTES:
                raise InvalidRowError(f"the row has {len(line):,} bytes, more than {_ROW_BYTES:,}")
        except InvalidRowError as error:
            id_ = record.get(schema.id_field) if isinstance(record, dict) else None
            named = f" ({schema.id_field} {_quoted(id_)})" if isinstance(id_, str | int) else ""
            problems.add(file, number, f"{named}: {error}")
            continue
        if batch and (len(batch) == _BATCH_ROWS or size + len(line) > _BATCH_BYTES):
            yield _without_repeated(batch, schema, seen, problems)
            batch, size = [], 0
        batch.append(_Row(file, number, checked, line))
        size += len(line)
    yield _without_repeated(batch, schema, seen, problems)


def _records(files: list[Path]) -> Iterator[tuple[int, int, object]]:
    """Yield (number of the file, row, record)."""
    for number, file in enumerate(files):
        for row, record in read_records(file):
            yield number, row, record


def _without_repeated(batch: list[_Row], schema: Schema, seen: _SeenIds, problems: _Problems) -> list[_Row]:
    """Return the rows whose id is new."""
    if not schema.unique:
        return batch
    kept = []
    for row, is_new in zip(batch, seen.add([row.record[schema.id_field] for row in batch]), strict=True):
        if is_new:
            kept.append(row)
        else:
            id_ = _quoted(row.record[schema.id_field])
            problems.add(row.file, row.number, f": {schema.id_field} {id_} is also in an earlier row")
    return kept


def _quoted(value: str | int) -> str:
    """Return an id in quotes, with escapes for characters that cannot be printed."""
    return f'"{repr(str(value))[1:-1]}"'


class _SeenIds:
    """A set of 64-bit hashes of ids: for 21 million, 170 MB and a chance of 1 in 80,000 that two ids collide."""

    def __init__(self) -> None:
        self._levels: list[np.ndarray] = []  # sorted hashes; each level is longer than the next

    def add(self, ids: list[str]) -> np.ndarray:
        """Add the ids and return, for each of them, whether it is new: [len(ids)] bool."""
        hashes = np.array([xxhash.xxh3_64_intdigest(value.encode()) for value in ids], dtype=np.uint64)
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
