"""The rows of data files for a plan: counted and checked without converting them, and with every problem listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import xxhash

from dpr_lightning.data.cache import CacheEntry, Facts
from dpr_lightning.data.convert import Input, Problems, SeenIds, checked_rows
from dpr_lightning.data.layouts import Kind
from dpr_lightning.data.readers import HUB
from dpr_lightning.data.sources import Files, Options, Request, request
from dpr_lightning.data.texts import Texts
from dpr_lightning.errors import UserError
from dpr_lightning.files import size_text
from dpr_lightning.plan import Plan

_MOST_BYTES = 1 << 30  # larger files are not read for a plan
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
    texts: Mapping[str, Files] | None = None,
) -> Counted | None:
    """Add a line about the rows of files to a plan, and their problems; return the rows, None if they are not counted.

    Rows that an earlier command has converted are valid and counted already. Other files are read and checked, unless
    they are large or on the hub.

    Args:
        plan: The plan.
        files: The files; see `find_files`.
        kind: The kind of their rows.
        name: The argument that the files come from, for messages.
        skip_invalid: Do not report invalid rows as problems.
        format: The layout of the files; None recognizes it.
        texts: By kind, the files with the texts of ids.
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
    if any(wanted.texts):
        plan.add(name, f"not counted: it names texts by ids, which are not converted yet; {what}, {size_text(size)}")
        return None
    if size > _MOST_BYTES:
        plan.add(name, f"not counted: {size_text(size)} that are not converted yet; scripts/prepare.py converts them")
        return None
    known = len(plan.problems)
    counted = _check_rows(plan, wanted)
    if len(plan.problems) > known:
        plan.add(name, f"not counted, because rows are invalid; {what}, {size_text(size)}")
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


def _check_rows(plan: Plan, wanted: Request) -> Counted:
    """Check the rows of each file on its own, so that a damaged file does not hide the problems of the next."""
    counted, digest, seen = Counted(), xxhash.xxh3_128(), SeenIds()
    options, known = wanted.options, len(plan.problems)
    for source in wanted.inputs([Texts()] * len(wanted.files)):
        problems = Problems([source.file], options.name, skip=True)
        with plan.collected():
            for valid, lines in checked_rows([source], wanted.schema, problems, seen):
                digest.update(lines)
                counted.rows += valid.num_rows
                counted.sample += valid.slice(0, max(0, _SAMPLE_ROWS - len(counted.sample))).to_pylist()
        if problems.count and not options.skip_invalid:
            _add_problems(plan, problems, source)
    counted.fingerprint = digest.hexdigest()
    if not counted.rows and len(plan.problems) == known:
        plan.add_problem(UserError(f"{options.name}: {wanted.files[0]} has no valid rows. Correct `{options.name}`."))
    return counted


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
