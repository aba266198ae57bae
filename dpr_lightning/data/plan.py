"""The rows of data files for a plan: counted and checked without converting them, and with every problem listed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash

from dpr_lightning.data.cache import CacheEntry, Facts
from dpr_lightning.data.convert import Input, Problems, SeenIds, checked_rows
from dpr_lightning.data.layouts import Kind
from dpr_lightning.data.readers import HUB
from dpr_lightning.data.schema import Record
from dpr_lightning.data.sources import Files, Options, Request, TextFiles, request
from dpr_lightning.data.texts import Texts
from dpr_lightning.errors import UserError
from dpr_lightning.files import size_text
from dpr_lightning.plan import Plan

if TYPE_CHECKING:
    from datasets import Dataset

_MOST_BYTES = 1 << 30  # larger files are not read for a plan
_MOST_TEXT_BYTES = 100 << 20  # nor larger files with the texts of ids, which are held in memory
_SAMPLE_ROWS = 4096


@dataclass
class Counted:
    """The rows of a source.

    Attributes:
        rows: How many rows there are.
        fingerprint: Their fingerprint, as `Source` has it.
        sample: Some of the rows.
    """

    rows: int = 0
    fingerprint: str = ""
    sample: list[dict[str, Any]] = field(default_factory=list)


def count_rows(
    plan: Plan,
    files: Files,
    kind: Kind,
    *,
    name: str,
    skip_invalid: bool = False,
    format: str | None = None,
    texts: TextFiles | None = None,
) -> Counted | None:
    """Add a line about the rows of files to a plan, and their problems; return the rows, None if they are not counted.

    Rows that an earlier command has converted are valid and counted already. Other files are read and checked, unless
    they are large or on the hub. If the texts of their ids are large and not converted, only the rows' own fields are.

    Args:
        plan: The plan.
        files: The files; see `find_files`.
        kind: The kind of their rows.
        name: The argument that the files come from, for messages.
        skip_invalid: Do not report invalid rows as problems.
        format: The layout of the files; None recognizes it.
        texts: By kind, the files with the texts of ids, and the argument that they come from.
    """
    options = Options(name, skip_invalid, format, dict(texts or {}))
    try:
        wanted = request(files, kind, options, hub="cached", remember=False)
    except (UserError, OSError) as error:
        plan.add_problem(error)
        return None
    if not wanted.files or any(not one.files for of_file in wanted.texts for one in of_file.values()):
        plan.add(name, f"not counted: not yet fetched from the hub ({HUB}…); scripts/prepare.py fetches it")
        return None
    size = sum(file.stat().st_size for file in wanted.files)
    what = f"{wanted.files[0]}" if len(wanted.files) == 1 else f"{len(wanted.files)} files"
    if converted := _find_converted(wanted):
        counted = _read_converted(*converted)
        plan.add(name, f"{counted.rows:,} rows, checked earlier; {what}, {size_text(size)}")
        return counted
    if size > _MOST_BYTES:
        plan.add(name, f"not counted: {size_text(size)} that are not converted yet; scripts/prepare.py converts them")
        return None
    known = len(plan.problems)
    large = _large_texts(wanted)
    found = [_AnyText()] * len(wanted.files) if large else _find_all_texts(plan, wanted)
    counted = Counted() if len(plan.problems) > known else _check_rows(plan, wanted, found)
    if len(plan.problems) > known:
        plan.add(name, f"not counted, because rows are invalid; {what}, {size_text(size)}")
        return None
    if large:
        unread = f"not checked: whether {large} has the texts of its ids, because it is large and not converted yet"
        plan.add(name, f"{counted.rows:,} rows, {unread}; {what}, {size_text(size)}")
        return None
    plan.add(name, f"{counted.rows:,} rows, checked now; {what}, {size_text(size)}")
    return counted


def _find_converted(wanted: Request) -> tuple[CacheEntry, Facts] | None:
    """Return the cache entry of a conversion and its facts, or None if it does not exist."""
    prints: list[dict[str, str]] = []
    for of_file in wanted.texts:
        known = {kind: _find_converted(one) for kind, one in of_file.items()}
        prints.append({kind: found[1]["fingerprint"] for kind, found in known.items() if found})
        if len(prints[-1]) < len(of_file):
            return None
    entry = wanted.entry(prints)
    facts = entry.verified_facts()
    return (entry, facts) if facts else None


def _read_converted(entry: CacheEntry, facts: Facts) -> Counted:
    from datasets import Dataset

    rows = Dataset.from_file(str(entry.arrow))
    step = max(1, len(rows) // _SAMPLE_ROWS)
    return Counted(len(rows), facts["fingerprint"], rows.select(range(0, len(rows), step)).to_list()[:_SAMPLE_ROWS])


class _AnyText(Texts):
    """Has a text for every id, to check the other fields of a row."""

    def passage(self, docid: Any, field: str) -> Record:
        """Return a passage."""
        return {"docid": str(docid), "title": "", "text": ""}

    def query(self, query_id: Any) -> str:
        """Return a query."""
        return "?"


def _large_texts(wanted: Request) -> str:
    """Return the first file that has texts of ids, is not converted and is too large to read for a plan, or nothing."""
    for one in (one for of_file in wanted.texts for one in of_file.values()):
        if sum(file.stat().st_size for file in one.files) > _MOST_TEXT_BYTES and not _find_converted(one):
            return str(one.files[0])
    return ""


def _find_all_texts(plan: Plan, wanted: Request) -> list[Texts]:
    """Return the texts that each file names by ids; files with the same texts share them."""
    shared: dict[str, Texts] = {}
    keys = [str({kind: one.files for kind, one in of_file.items()}) for of_file in wanted.texts]
    for key, of_file in zip(keys, wanted.texts, strict=True):
        if key not in shared:
            shared[key] = Texts(**{kind: _read_texts(plan, one) for kind, one in of_file.items()})
    return [shared[key] for key in keys]


def _read_texts(plan: Plan, wanted: Request) -> Dataset:
    from datasets import Dataset

    if converted := _find_converted(wanted):
        return Dataset.from_file(str(converted[0].arrow))
    batches = [valid for valid, _ in _valid_rows(plan, wanted, _find_all_texts(plan, wanted))]
    return Dataset(pa.Table.from_batches(batches, wanted.schema.columns))


def _check_rows(plan: Plan, wanted: Request, texts: Sequence[Texts]) -> Counted:
    counted, digest = Counted(), xxhash.xxh3_128()
    for valid, lines in _valid_rows(plan, wanted, texts):
        digest.update(lines)
        counted.rows += valid.num_rows
        counted.sample += valid.slice(0, max(0, _SAMPLE_ROWS - len(counted.sample))).to_pylist()
    counted.fingerprint = digest.hexdigest()
    return counted


def _valid_rows(plan: Plan, wanted: Request, texts: Sequence[Texts]) -> Iterator[tuple[pa.RecordBatch, pa.Buffer]]:
    """Check the rows of each file on its own, so that a damaged file does not hide the problems of the next."""
    options, known, seen, rows = wanted.options, len(plan.problems), SeenIds(), 0
    for source in wanted.inputs(texts):
        problems = Problems([source.file], options.name, skip=True)
        with plan.collected():
            for valid, lines in checked_rows([source], wanted.schema, problems, seen):
                rows += valid.num_rows
                yield valid, lines
        if problems.count and not options.skip_invalid:
            _add_problems(plan, problems, source)
    if not rows and len(plan.problems) == known:
        plan.add_problem(UserError(f"{options.name}: {wanted.files[0]} has no valid rows. Correct `{options.name}`."))


def _add_problems(plan: Plan, problems: Problems, source: Input) -> None:
    for problem in problems.first:
        plan.add_problem(UserError(f"{problems.name}: {problems.describe(*problem)}."))
    shown = f", the first {len(problems.first)} are above" if problems.count > len(problems.first) else ""
    plan.add_problem(
        UserError(
            f"{problems.name}: {source.file} has {problems.count:,} invalid rows{shown}. Correct them, or set "
            "`skip_invalid`=true to count and skip such rows."
        )
    )
