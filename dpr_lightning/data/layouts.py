"""The table of layouts: which fields the files of other programs have, and the rows that they become.

A new layout is one more entry of `LAYOUTS`, and of `SHAPES` if it is a table without header. `recognize.py` chooses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dpr_lightning.data.blocks import Numbered
from dpr_lightning.data.cells import LIST_FIELDS, parse_list
from dpr_lightning.data.grouping import consecutive_triples, judged_queries, relevant_passages
from dpr_lightning.data.schema import InvalidRowError, Record
from dpr_lightning.data.texts import Texts

Kind = Literal["training", "queries", "corpus"]


class Layout(NamedTuple):
    """One kind of file.

    Attributes:
        name: The value of `format` that selects it.
        kind: What the file has.
        fields: The fields that identify it; `a|b` is either of two.
        names: The file's field for each field of our schema; `a|b` is either of two.
        convert: Returns the record in our schema, given its position from 0, the record and the texts of ids; None
            renames fields.
        convert_columns: Does the same for a table of passages, whose columns have our names.
        group: Merges consecutive records before that.
        ids: Which texts the file only names: "corpus", "queries".
    """

    name: str
    kind: Kind
    fields: tuple[str, ...]
    names: Mapping[str, str]
    convert: Callable[[int, Record, Texts], Record] | None = None
    convert_columns: Callable[[pa.Table], pa.Table] | None = None
    group: Callable[[Iterator[Numbered], Path], Iterator[Numbered]] | None = None
    ids: tuple[Kind, ...] = ()

    def matches(self, fields: Sequence[str]) -> bool:
        """Return whether a file with these fields has this layout."""
        return all(any(option in fields for option in field.split("|")) for field in self.fields)

    def record(self, position: int, record: Any, texts: Texts) -> Any:
        """Return a record in our schema; what is not an object is returned as it is, for the schema to refuse."""
        if not isinstance(record, dict):
            return record
        if self.convert:
            return self.convert(position, record, texts)
        return {ours: record[theirs] for ours, theirs in self.names.items() if theirs in record}

    @property
    def list_fields(self) -> list[str]:
        """The file's fields that have lists."""
        return [name for names in self.names.values() for name in names.split("|") if name in LIST_FIELDS]

    def name_of(self, field: str, fields: Container[str]) -> str:
        """Return the file's name for a field of our schema: the first possible one among its fields."""
        options = self.names.get(field, field).split("|")
        return next((option for option in options if option in fields), options[0])

    def problem(self, message: str, fields: Container[str]) -> str:
        """Return a message of our schema in terms of the file's fields."""
        return re.sub(r"^\w+", lambda field: self.name_of(field[0], fields), message)


def text_id(text: str) -> str:
    """Return an id for a text that has none, which is the same in every file."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def _as_it_is(position: int, record: Record, texts: Texts) -> Record:
    return record


def _first_line_is_title(position: int, record: Record, texts: Texts) -> Record:
    converted = {ours: record[theirs] for ours, theirs in _PYSERINI.items() if theirs in record}
    if isinstance(converted.get("text"), str) and "\n" in converted["text"]:
        converted["title"], _, converted["text"] = converted["text"].partition("\n")
    return converted


def _first_lines_are_titles(passages: pa.Table) -> pa.Table:
    """Split the texts of a table as `_first_line_is_title` splits one."""
    lines = pc.extract_regex(passages["text"].combine_chunks(), r"(?s)^(?:(?P<title>[^\n]*)\n)?(?P<text>.*)$")
    for position, name in ((1, "title"), (2, "text")):
        passages = passages.set_column(position, name, pc.struct_field(lines, name))
    return passages


def _fair_question(position: int, record: Record, texts: Texts) -> Record:
    """Number questions without ids from 0, as other programs number the lines of FAIR's question files."""
    ids = (record[field] for field in _QUERY_IDS if record.get(field) is not None)
    given = {"query_id": next(ids, str(position))}
    names = (("query", "query"), ("question", "query"), ("answer", "answers"), ("answers", "answers"))
    return given | {ours: record[theirs] for theirs, ours in names if theirs in record}


def _fair_training(position: int, record: Record, texts: Texts) -> Record:
    """Take the hard negatives, or the other negatives of a question that has no hard ones."""
    negatives = record.get("hard_negative_ctxs") or record.get("negative_ctxs") or []
    return _fair_question(position, record, texts) | {
        "positive_passages": _fair_passages(record.get("positive_ctxs")),
        "negative_passages": _fair_passages(negatives),
    }


def _fair_results(position: int, record: Record, texts: Texts) -> Record:
    """Passages of a retrieval result are positive if they have an answer; `contexts` start with the title's line."""
    passages = record.get("ctxs", record.get("contexts"))
    passages = passages if isinstance(passages, list) else []
    hits = [isinstance(passage, dict) and bool(passage.get("has_answer")) for passage in passages]
    return _fair_question(position, record, texts) | {
        f"{label}_passages": _fair_passages([p for p, hit in zip(passages, hits, strict=True) if hit == wanted])
        for label, wanted in (("positive", True), ("negative", False))
    }


def _fair_passages(passages: Any) -> Any:
    return [_fair_passage(passage) for passage in passages] if isinstance(passages, list) else passages


def _fair_passage(passage: Any) -> Any:
    if not isinstance(passage, dict):
        return passage
    ids = (passage.get(field) for field in ("passage_id", "psg_id", "id", "docid"))
    docid = next((id_ for id_ in ids if id_ not in (None, "")), None)
    if docid is None and isinstance(passage.get("text"), str):
        docid = text_id(f"{passage.get('title') or ''}\n{passage['text']}")
    kept = {field: passage[field] for field in ("title", "text") if field in passage}
    if "title" not in passage and isinstance(passage.get("text"), str) and "\n" in passage["text"]:
        kept["title"], _, kept["text"] = passage["text"].partition("\n")
    return {"docid": docid.removeprefix("wiki:") if isinstance(docid, str) else docid} | kept


def _tevatron_2(position: int, record: Record, texts: Texts) -> Record:
    answers = record.get("answers", record.get("answer"))
    converted = {
        key: value for key, value in record.items() if key in ("query_id", "positive_passages", "negative_passages")
    }
    if (query := record.get("query_text", record.get("query"))) is not None:
        converted["query"] = query
    return converted | {"answers": [answers] if isinstance(answers, str) and answers else answers or None}


def _by_ids(position: int, record: Record, texts: Texts) -> Record:
    """Look up the texts of passages, and of the query if the record has none."""
    converted = _tevatron_2(position, record, texts)
    if "query" not in converted:
        converted["query"] = texts.query(converted.get("query_id"))
    for label in ("positive", "negative"):
        field = f"{label}_passages"
        ids = record.get(f"{label}_document_ids") or []
        if not isinstance(ids, list):
            raise InvalidRowError(f'{field} is not a list of ids, such as ["7", "9"]')
        converted[field] = [texts.passage(docid, field) for docid in ids]
    return converted


def _pair(position: int, record: Record, texts: Texts) -> Record:
    """Ids are hashes of texts, so that equal texts are the same passage; null negatives are left out."""
    query = record.get("anchor", record.get("query"))
    negatives = [record[field] for field in record if re.fullmatch(r"negative(_\d+)?", field)]
    texts_of = {"positive": [record.get("positive")], "negative": [text for text in negatives if text is not None]}
    passages = {
        f"{label}_passages": [
            {"docid": text_id(text) if isinstance(text, str) else None, "text": text} for text in given
        ]
        for label, given in texts_of.items()
    }
    return {"query_id": text_id(query) if isinstance(query, str) else "", "query": query} | passages


_OURS = {name: name for name in ("answers", "positive_passages", "negative_passages", "scores")}
_QUERY_IDS = ("query_id", "id", "_id", "qid", "question_id")
_QUESTION = {"query_id": "|".join(_QUERY_IDS), "query": "question|query", "answers": "answers|answer"}
_FAIR = _QUESTION | {"positive_passages": "positive_ctxs", "negative_passages": "hard_negative_ctxs|negative_ctxs"}
_RESULTS = _QUESTION | {"positive_passages": "ctxs|contexts", "negative_passages": "ctxs|contexts"}
_TEVATRON_2 = {"query": "query_text|query", "answers": "answers|answer"}
_IDS = _TEVATRON_2 | {"positive_passages": "positive_document_ids", "negative_passages": "negative_document_ids"}
_PYSERINI = {"docid": "id", "text": "contents"}
_PASSAGE = {"docid": "docid", "title": "title", "text": "text"}
_QRELS = {"query_id": "query-id", "positive_passages": "corpus-id", "negative_passages": "corpus-id"}
_PAIR = {"query": "anchor|query", "positive_passages": "positive", "negative_passages": "negative"}
_PIDS = {"query_id": "qid", "positive_passages": "positive_pid", "negative_passages": "negative_pid"}
_TRIPLE = ("qid", "positive_pid", "negative_pid")
_LOOKED_UP: tuple[Kind, ...] = ("corpus", "queries")
LAYOUTS = (
    Layout("tevatron", "corpus", ("docid", "text"), _PASSAGE),
    Layout("beir", "corpus", ("_id", "text"), _PASSAGE | {"docid": "_id"}),
    Layout("pyserini", "corpus", ("id", "contents"), _PYSERINI, _first_line_is_title, _first_lines_are_titles),
    Layout("fair_dpr", "corpus", ("id", "text"), _PASSAGE | {"docid": "id"}),
    Layout("msmarco", "corpus", ("pid", "passage"), {"docid": "pid", "text": "passage"}),
    Layout("tevatron", "queries", ("query_id", "query"), {"answers": "answers"}, _as_it_is),
    Layout("tevatron", "queries", ("query_id", "query_text"), _TEVATRON_2, _tevatron_2),
    Layout("beir", "queries", ("_id", "text"), {"query_id": "_id", "query": "text"}),
    Layout("beir", "queries", ("query-id", "corpus-id"), _QRELS, _by_ids, group=judged_queries, ids=("queries",)),
    Layout("fair_dpr", "queries", ("question",), _QUESTION, _fair_question),
    Layout("msmarco", "queries", ("qid", "query"), {"query_id": "qid", "query": "query"}),
    Layout("tevatron", "training", ("query_id", "query", "positive_passages"), _OURS, _as_it_is),
    Layout("tevatron", "training", ("query_id", "query_text", "positive_passages"), _TEVATRON_2, _tevatron_2),
    Layout(
        "tevatron",
        "training",
        ("query_id", "query_text|query", "positive_document_ids"),
        _IDS,
        _by_ids,
        ids=("corpus",),
    ),
    Layout("fair_dpr", "training", ("question", "positive_ctxs"), _FAIR, _fair_training),
    Layout("fair_dpr", "training", ("question", "ctxs|contexts"), _RESULTS, _fair_results),
    Layout("beir", "training", ("query-id", "corpus-id"), _QRELS, _by_ids, group=relevant_passages, ids=_LOOKED_UP),
    Layout("msmarco", "training", ("query-id", "corpus-id"), _QRELS, _by_ids, group=relevant_passages, ids=_LOOKED_UP),
    Layout("msmarco", "training", _TRIPLE, _PIDS, _by_ids, group=consecutive_triples, ids=_LOOKED_UP),
    Layout("sentence_transformers", "training", ("anchor|query", "positive"), _PAIR, _pair),
    Layout("msmarco", "training", ("query", "positive", "negative"), _PAIR, _pair),
)
FORMATS = tuple(dict.fromkeys(layout.name for layout in LAYOUTS))


class Shape(NamedTuple):
    """A table without header: its columns, whether quotes enclose fields, and how its first line is recognized."""

    kind: Kind
    names: tuple[str, ...]
    recognizes: Callable[[list[str]], bool]
    quoted: bool = False


def _has_digit(cells: list[str]) -> bool:
    return any(character.isdigit() for character in cells[0])


SHAPES = (
    Shape("corpus", ("pid", "passage"), _has_digit),
    Shape("corpus", ("docid", "url", "title", "text"), lambda cells: cells[1].startswith("http")),
    Shape("queries", ("question", "answers"), lambda cells: parse_list(cells[1]) is not None, quoted=True),
    Shape("queries", ("qid", "query"), _has_digit),
    Shape("training", _TRIPLE, lambda cells: all(cell.isdigit() for cell in cells)),
    Shape("training", ("query", "positive", "negative"), lambda cells: all(" " in cell for cell in cells)),
    Shape("training", ("query-id", "iteration", "corpus-id", "score"), lambda cells: cells[3].strip("-").isdigit()),
)
