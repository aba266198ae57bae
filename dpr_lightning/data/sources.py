"""Opens training data, queries and corpora of any size and layout as memory-mapped rows.

The first opening reads and checks every row and writes an Arrow file into the cache; later openings map that file.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dpr_lightning.data.cache import CacheEntry, Facts, content_hash
from dpr_lightning.data.containers import read_sample
from dpr_lightning.data.convert import Input, Problems, convert
from dpr_lightning.data.layouts import Kind
from dpr_lightning.data.readers import find_files
from dpr_lightning.data.recognize import choose_layout
from dpr_lightning.data.schema import CORPUS, QUERIES, TRAINING, Schema
from dpr_lightning.data.texts import Texts
from dpr_lightning.errors import UserError, check_choice

if TYPE_CHECKING:
    from datasets import Dataset

_log = logging.getLogger(__name__)
_FORMAT = 5  # raise it when the cached form changes
_SCHEMAS: dict[Kind, Schema] = {"training": TRAINING, "queries": QUERIES, "corpus": CORPUS}
Files = str | Sequence[str] | None


class Source(NamedTuple):
    """Checked rows in file order, memory-mapped.

    `fingerprint` is a hash of all rows; `skipped` counts the invalid ones that `skip_invalid` left out.
    """

    rows: Dataset
    fingerprint: str
    skipped: int


class Options(NamedTuple):
    """How files are opened.

    Attributes:
        name: The argument that the files come from, for messages.
        skip_invalid: Count and skip invalid rows instead of raising.
        format: The layout of the files; None recognizes it.
        texts: By kind, the files with the texts of ids.
    """

    name: str
    skip_invalid: bool
    format: str | None
    texts: dict[str, Files]


def open_training(
    files: Files,
    *,
    name: str = "train",
    skip_invalid: bool = False,
    format: str | None = None,
    corpus: Files = None,
    queries: Files = None,
) -> Source:
    """Return rows `query_id, query, answers, positives, negatives`; a passage is `{docid, title, text, score}`.

    `corpus` and `queries` have the texts of files that only name ids, unless a file of judgments is in a BEIR folder.
    """
    texts = {"corpus": corpus, "queries": queries}
    return _open(files, "training", Options(name, skip_invalid, format, texts))


def open_queries(
    files: Files, *, name: str = "queries", skip_invalid: bool = False, format: str | None = None
) -> Source:
    """Return rows `query_id, query, answers`."""
    return _open(files, "queries", Options(name, skip_invalid, format, {}))


def open_corpus(files: Files, *, name: str = "corpus", skip_invalid: bool = False, format: str | None = None) -> Source:
    """Return rows `docid, title, text`."""
    return _open(files, "corpus", Options(name, skip_invalid, format, {}))


def _open(spec: Files, kind: Kind, options: Options) -> Source:
    """Return the rows of all files.

    Raises:
        UserError: A file is missing or damaged or has an unknown layout, a row is invalid, an id is repeated, or the
            files have no rows.
    """
    name, skip_invalid = options.name, options.skip_invalid
    check_choice(skip_invalid, "skip_invalid", [True, False])
    files = find_files(spec, name=name)
    contents = [(file.suffix, content_hash(file)) for file in files]
    layouts = [choose_layout(file, read_sample(file), kind, name=name, format=options.format) for file in files]
    texts = [_open_texts(file, layout.ids, options) for file, (layout, _) in zip(files, layouts, strict=True)]
    prints = [{kind: source.fingerprint for kind, source in sources.items()} for sources in texts]
    described = [(layout.name, layout.fields, table) for layout, table in layouts]
    problems = Problems(files, name, skip_invalid)
    entry = CacheEntry(repr((_FORMAT, _SCHEMAS[kind].columns.names, skip_invalid, contents, described, prints)))

    def write(path: Path) -> Facts:
        _log.info("%s: checking %s once", name, ", ".join(file.name for file in files))
        by_id = {id(sources): Texts(**{kind: source.rows for kind, source in sources.items()}) for sources in texts}
        inputs = [
            Input(file, layout, table, by_id[id(sources)])
            for file, (layout, table), sources in zip(files, layouts, texts, strict=True)
        ]
        facts = convert(inputs, _SCHEMAS[kind], problems, path)
        if [(file.suffix, content_hash(file)) for file in files] != contents:
            raise UserError(f"{name}: {', '.join(map(str, files))} changed during reading. Wait until it is complete.")
        return facts

    facts = entry.facts(write)
    if facts["skipped"]:
        first = problems.describe(*facts["first_skipped"])
        _log.warning("%s: %d invalid rows skipped, the first: %s", name, facts["skipped"], first)
    from datasets import Dataset  # takes a second to import

    return Source(Dataset.from_file(str(entry.arrow)), facts["fingerprint"], facts["skipped"])


def _open_texts(file: Path, kinds: Sequence[str], options: Options) -> dict[str, Source]:
    """Return the sources of the texts that a file names by ids: beside it in a BEIR folder, or as given.

    Raises:
        UserError: They are not given.
    """
    sources = {}
    for kind in kinds:
        beside = [
            Path(path)
            for folder in (file.parent.parent, file.parent)
            for path in sorted(glob.glob(f"{glob.escape(str(folder))}/{kind}.jsonl*"))  # noqa: PTH207
        ]
        files = [str(beside[0])] if beside else options.texts.get(kind)
        if not files:
            missing = f"Set `{kind}`" if kind in options.texts else f"Put {kind}.jsonl beside it"
            raise UserError(f"{options.name}: {file} has ids without texts. {missing} to the texts of its {kind}.")
        opening = open_corpus if kind == "corpus" else open_queries
        name, format = (options.name, None) if beside else (kind, options.format)
        sources[kind] = opening(files, name=name, skip_invalid=options.skip_invalid, format=format)
    return sources
