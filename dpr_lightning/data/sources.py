"""Opens training data, queries and corpora of any size as memory-mapped rows.

The first opening reads every row, checks it, and writes an Arrow file into the cache (`HF_DATASETS_CACHE`), beside it
what was found out on the way: fingerprint and skipped rows. Later openings map that file. The cache's name depends on
each source file's path, size and time of change.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import xxhash
from filelock import FileLock

from dpr_lightning.data.readers import find_files, read_records
from dpr_lightning.data.schema import CORPUS, QUERIES, TRAINING, InvalidRowError, Record, Schema
from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.files import flush_to_disk, write_json

_log = logging.getLogger(__name__)
_FORMAT = 3  # raise it when the cached form changes
_BATCH_ROWS = 1000  # training rows hold up to hundreds of passages
Files = str | Sequence[str] | None


class Source(NamedTuple):
    """Checked rows in file order, memory-mapped.

    `fingerprint` is a hash of all rows; `skipped` counts the invalid ones that `skip_invalid` left out.
    """

    rows: datasets.Dataset
    fingerprint: str
    skipped: int


def open_training(files: Files, *, key: str = "data.train", skip_invalid: bool = False) -> Source:
    """Rows `query_id, query, answers, positives, negatives`; passages are `{docid, title, text, score}`."""
    return _open(files, TRAINING, key, skip_invalid)


def open_queries(files: Files, *, key: str = "data.queries", skip_invalid: bool = False) -> Source:
    """Rows `query_id, query, answers`."""
    return _open(files, QUERIES, key, skip_invalid)


def open_corpus(files: Files, *, key: str = "data.corpus", skip_invalid: bool = False) -> Source:
    """Rows `docid, title, text`."""
    return _open(files, CORPUS, key, skip_invalid)


def _open(spec: Files, schema: Schema, key: str, skip_invalid: bool) -> Source:
    """Raises UserError for what `find_files` and `read_records` refuse, an invalid row, a repeated id, no rows."""
    check_choice(skip_invalid, "data.skip_invalid", [True, False])
    files = find_files(spec, key=key)
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = repr((_FORMAT, schema.columns.names, skip_invalid, states))
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "dpr_lightning"
    folder.mkdir(parents=True, exist_ok=True)
    cached = folder / hashlib.sha256(identity.encode()).hexdigest()[:32]
    arrow, facts = cached.with_suffix(".arrow"), cached.with_suffix(".json")
    with FileLock(cached.with_suffix(".lock")):
        if not (facts.exists() and arrow.exists()):
            _log.info("%s: checking %s once", key, ", ".join(file.name for file in files))
            write_json(facts, _convert(files, schema, key, skip_invalid, arrow))
    found = json.loads(facts.read_text())
    if found["skipped"]:
        _log.warning("%s: %d invalid rows skipped, the first: %s", key, found["skipped"], found["first_skipped"])
    return Source(datasets.Dataset.from_file(str(arrow)), found["fingerprint"], found["skipped"])


def _convert(files: list[Path], schema: Schema, key: str, skip_invalid: bool, arrow: Path) -> dict[str, Any]:
    """Writes the valid rows to `arrow` and returns the facts kept beside it."""
    digest, rows, problems = xxhash.xxh3_128(), 0, _Problems(key, skip_invalid)
    encode = json.JSONEncoder(ensure_ascii=False).encode
    temporary = arrow.with_suffix(".arrow.tmp")
    try:
        with temporary.open("wb") as file, pa.ipc.new_stream(file, schema.columns) as stream:
            for batch in _valid_batches(files, schema, problems):
                rows += len(batch)
                for row in batch:
                    digest.update(encode(row).encode() + b"\n")
                stream.write_batch(pa.RecordBatch.from_pylist(batch, schema.columns))
            stream.close()
            flush_to_disk(file)
        if not rows:
            skipped = f" but {problems.count} invalid ones, the first: {problems.first}" if problems.count else ""
            raise UserError(f"{key}: {', '.join(map(str, files))} holds no rows{skipped}. Correct {key}.")
        temporary.replace(arrow)
    finally:
        temporary.unlink(missing_ok=True)
    return {"fingerprint": digest.hexdigest(), "skipped": problems.count, "first_skipped": problems.first}


class _Problems:
    """Raises at the first invalid row, or counts such rows where they are to be skipped."""

    def __init__(self, key: str, skip: bool) -> None:
        self.key, self.skip, self.count, self.first = key, skip, 0, ""

    def add(self, file: Path, row: int, named: str, problem: object) -> None:
        found = f"{file}, row {row}{named}: {problem}"
        if not self.skip:
            remedy = "Correct the row, or set data.skip_invalid=true to count and skip such rows."
            raise UserError(f"{self.key}: {found}. {remedy}")
        self.count += 1
        self.first = self.first or found


def _valid_batches(files: list[Path], schema: Schema, problems: _Problems) -> Iterator[list[Record]]:
    seen = _SeenIds()
    batch: list[tuple[Path, int, Record]] = []
    for file in files:
        for row, record in read_records(file):
            try:
                checked = schema.check(record)
            except InvalidRowError as error:
                given = record.get(schema.id_field) if isinstance(record, dict) else None
                named = f" ({schema.id_field} {_quoted(given)})" if isinstance(given, str | int) else ""
                problems.add(file, row, named, error)
            else:
                batch.append((file, row, checked))
                if len(batch) == _BATCH_ROWS:
                    yield _without_repeated(batch, schema, seen, problems)
                    batch = []
    yield _without_repeated(batch, schema, seen, problems)


def _without_repeated(
    batch: list[tuple[Path, int, Record]], schema: Schema, seen: _SeenIds, problems: _Problems
) -> list[Record]:
    if not schema.unique:
        return [checked for _, _, checked in batch]
    kept = []
    for (file, row, checked), is_new in zip(batch, seen.add([c[schema.id_field] for _, _, c in batch]), strict=True):
        if is_new:
            kept.append(checked)
        else:
            problems.add(
                file, row, "", f"{schema.id_field} {_quoted(checked[schema.id_field])} stands in an earlier row too"
            )
    return kept


def _quoted(value: str | int) -> str:
    """An id in quotes, any characters that cannot be printed spelled out."""
    return f'"{repr(str(value))[1:-1]}"'


class _SeenIds:
    """A set of ids by 64-bit hash, 8 bytes each: 170 MB and a 1-in-80,000 chance of a false alarm for 21 million."""

    def __init__(self) -> None:
        self._levels: list[np.ndarray] = []  # sorted hashes; each level is longer than the next

    def add(self, ids: list[str]) -> np.ndarray:
        """Adds the ids and tells for each [len(ids)] whether it is new."""
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
