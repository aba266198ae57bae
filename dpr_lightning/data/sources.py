"""Opens training data, queries and corpora of any size and layout as memory-mapped rows.

The first opening reads and checks every row and writes an Arrow file into the cache; later openings map that file.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dpr_lightning.data.cache import CacheEntry, Facts, content_hash
from dpr_lightning.data.containers import Table, read_sample
from dpr_lightning.data.convert import Input, Problems, convert
from dpr_lightning.data.layouts import Kind, Layout
from dpr_lightning.data.readers import find_files
from dpr_lightning.data.recognize import choose_layout
from dpr_lightning.data.schema import CORPUS, QUERIES, TRAINING, Schema
from dpr_lightning.data.texts import Texts
from dpr_lightning.errors import UserError, check_choice

if TYPE_CHECKING:
    from datasets import Dataset

_log = logging.getLogger(__name__)
_FORMAT = 6  # raise it when the cached form changes
_SCHEMAS: dict[Kind, Schema] = {"training": TRAINING, "queries": QUERIES, "corpus": CORPUS}
Files = str | Sequence[str] | None
TextFiles = Mapping[Kind, tuple[str, Files]]


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
        texts: By kind, the files with the texts of ids, and the argument that they come from.
    """

    name: str
    skip_invalid: bool
    format: str | None
    texts: TextFiles


def open_training(
    files: Files,
    *,
    name: str = "train",
    skip_invalid: bool = False,
    format: str | None = None,
    corpus: Files = None,
    queries: Files = None,
    queries_name: str = "queries",
) -> Source:
    """Return rows `query_id, query, answers, positives, negatives`; a passage is `{docid, title, text, score}`.

    `corpus` and `queries` have the texts of files that only name ids, unless a file of judgments is in a BEIR folder.
    `queries_name` is the argument that `queries` come from, for messages.
    """
    texts: TextFiles = {"corpus": ("corpus", corpus), "queries": (queries_name, queries)}
    return _open(request(files, "training", Options(name, skip_invalid, format, texts)))


def open_queries(
    files: Files, *, name: str = "queries", skip_invalid: bool = False, format: str | None = None
) -> Source:
    """Return rows `query_id, query, answers`."""
    return _open(request(files, "queries", Options(name, skip_invalid, format, {})))


def open_corpus(files: Files, *, name: str = "corpus", skip_invalid: bool = False, format: str | None = None) -> Source:
    """Return rows `docid, title, text`."""
    return _open(request(files, "corpus", Options(name, skip_invalid, format, {})))


class Request(NamedTuple):
    """Files that can be opened: they exist and their layouts are known.

    Attributes:
        kind: The kind of their rows.
        options: How they are opened.
        files: The files.
        contents: The ending and the content hash of each file.
        layouts: The layout of each file, and how to read it if it is a table.
        texts: For each file, the texts that it names only by ids.
    """

    kind: Kind
    options: Options
    files: list[Path]
    contents: list[tuple[str, str]]
    layouts: list[tuple[Layout, Table | None]]
    texts: list[dict[Kind, Request]]

    @property
    def schema(self) -> Schema:
        """The schema of the rows."""
        return _SCHEMAS[self.kind]

    def entry(self, prints: Sequence[Mapping[str, str]]) -> CacheEntry:
        """Return the cache entry of the rows, given the fingerprints of the texts of each file."""
        described = [(layout.name, layout.fields, table) for layout, table in self.layouts]
        names, skip_invalid = self.schema.columns.names, self.options.skip_invalid
        return CacheEntry(repr((_FORMAT, names, skip_invalid, self.contents, described, list(prints))))

    def inputs(self, texts: Sequence[Texts]) -> list[Input]:
        """Return what is converted, given the texts of each file."""
        return [
            Input(file, layout, table, own)
            for file, (layout, table), own in zip(self.files, self.layouts, texts, strict=True)
        ]


def request(spec: Files, kind: Kind, options: Options, *, hub: str = "fetch", remember: bool = True) -> Request:
    """Find files, recognize their layouts and hash their content.

    Args:
        spec: The files; see `find_files`.
        kind: The kind of their rows.
        options: How they are opened.
        hub: See `find_files`.
        remember: Write the hashes into the cache.

    Raises:
        UserError: A file is missing or has an unknown layout, or the texts of its ids are not given.
    """
    name, format = options.name, options.format
    check_choice(options.skip_invalid, "skip_invalid", [True, False])
    files = find_files(spec, name=name, hub=hub)
    contents = [(file.suffix, content_hash(file, remember=remember)) for file in files]
    layouts = [choose_layout(file, read_sample(file), kind, name=name, format=format) for file in files]
    texts: list[dict[Kind, Request]] = []
    for file, (layout, _) in zip(files, layouts, strict=True):
        found = _find_texts(file, layout.ids, options)
        texts.append({one: request(*of, hub=hub, remember=remember) for one, of in found.items()})
    return Request(kind, options, files, contents, layouts, texts)


def _find_texts(file: Path, kinds: Sequence[Kind], options: Options) -> dict[Kind, tuple[Files, Kind, Options]]:
    """Return where the texts are that a file names by ids: beside it in a BEIR folder, or as given.

    Raises:
        UserError: They are not given.
    """
    found: dict[Kind, tuple[Files, Kind, Options]] = {}
    for kind in kinds:
        beside = [
            Path(path)
            for folder in (file.parent.parent, file.parent)
            for path in sorted(glob.glob(f"{glob.escape(str(folder))}/{kind}.jsonl*"))  # noqa: PTH207
        ]
        name, files = (options.name, [str(beside[0])]) if beside else options.texts.get(kind, (kind, None))
        if not files:
            set_it = f"Set `{name}` to the texts of its {kind}"
            remedy = set_it if kind in options.texts else f"Put {kind}.jsonl with their texts beside it"
            raise UserError(f"{options.name}: {file} has ids without texts. {remedy}.")
        found[kind] = files, kind, Options(name, options.skip_invalid, None if beside else options.format, {})
    return found


def _open(wanted: Request) -> Source:
    """Return the rows of all files.

    Raises:
        UserError: A file is damaged, a row is invalid, an id is repeated, or the files have no rows.
    """
    from datasets import Dataset  # takes a second to import

    name, files = wanted.options.name, wanted.files
    texts = [{kind: _open(one) for kind, one in of_file.items()} for of_file in wanted.texts]
    entry = wanted.entry([{kind: source.fingerprint for kind, source in sources.items()} for sources in texts])
    problems = Problems(files, name, wanted.options.skip_invalid)

    def write(path: Path) -> Facts:
        _log.info("%s: checking %s once", name, ", ".join(file.name for file in files))
        by_file = [Texts(**{kind: source.rows for kind, source in sources.items()}) for sources in texts]
        facts = convert(wanted.inputs(by_file), wanted.schema, problems, path)
        if [(file.suffix, content_hash(file)) for file in files] != wanted.contents:
            raise UserError(f"{name}: {', '.join(map(str, files))} changed during reading. Wait until it is complete.")
        return facts

    facts = entry.facts(write)
    if facts["skipped"]:
        first = problems.describe(*facts["first_skipped"])
        _log.warning("%s: %d invalid rows skipped, the first: %s", name, facts["skipped"], first)
    return Source(Dataset.from_file(str(entry.arrow)), facts["fingerprint"], facts["skipped"])
