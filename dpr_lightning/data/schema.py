"""What a training row, a query and a corpus row must hold. Each check returns the row in one fixed form."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

Record = dict[str, Any]
_PASSAGE = pa.struct([("docid", pa.string()), ("title", pa.string()), ("text", pa.string())])
_FLOAT32_MAX = 3.4028234e38
_SCORED_PASSAGE = pa.struct([*_PASSAGE, ("score", pa.float64())])


class InvalidRowError(ValueError):
    """A row that breaks its schema; the message starts with the field."""


class Schema(NamedTuple):
    """A kind of row: its Arrow columns, the check that yields them, the field that must be unique, if any."""

    columns: pa.Schema
    check: Callable[[Any], Record]
    id_field: str
    unique: bool


def check_training_row(record: Any) -> Record:
    """`query_id, query, positive_passages, negative_passages`, optional `answers`; at least one positive.

    Optional `scores`, a teacher's, one per positive and then per negative passage: each passage gets its `score`.
    """
    row = check_query(record)
    row["positives"] = _passages(record, "positive_passages")
    row["negatives"] = _passages(record, "negative_passages")
    if not row["positives"]:
        raise InvalidRowError("positive_passages is empty, a training question needs one")
    passages = [*row["positives"], *row["negatives"]]
    for passage, score in zip(passages, _scores(record, len(passages)), strict=True):
        passage["score"] = score
    return row


def check_query(record: Any) -> Record:
    """`query_id, query`, optional `answers` (a list of strings)."""
    query_id, query = _id(record, "query_id"), _text(record, "query")
    if not query.strip():
        raise InvalidRowError("query is empty")
    answers = [] if record.get("answers") is None else record["answers"]
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise InvalidRowError("answers is not a list of non-empty strings")
    _check_utf8("".join(answers), "answers")
    return {"query_id": query_id, "query": query, "answers": answers}


def check_passage(record: Any) -> Record:
    """`docid, text`, optional `title` (missing or null counts as empty)."""
    docid, text = _id(record, "docid"), _text(record, "text")
    title = "" if record.get("title") is None else record["title"]
    if not isinstance(title, str):
        raise InvalidRowError("title is not a string")
    _check_utf8(title, "title")
    return {"docid": docid, "title": title, "text": text}


def _passages(record: Record, field: str) -> list[Record]:
    passages = record.get(field)
    if not isinstance(passages, list):
        raise InvalidRowError(f"{field} is missing or not a list")
    checked = []
    for place, passage in enumerate(passages):
        try:
            checked.append(check_passage(passage))
        except InvalidRowError as error:
            raise InvalidRowError(f"{field}[{place}].{error}") from None
    return checked


def _scores(record: Record, count: int) -> list[float] | list[None]:
    scores = record.get("scores")
    if scores is None:
        return [None] * count
    if not isinstance(scores, list) or len(scores) != count:
        raise InvalidRowError(f"scores is not a list of {count} numbers, one per positive and negative passage")
    for place, score in enumerate(scores):
        if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= _FLOAT32_MAX:
            raise InvalidRowError(f"scores[{place}] is not a finite float32 number, but {score!r}")
    return [float(score) for score in scores]


def _id(record: Any, field: str) -> str:
    value = record.get(field) if isinstance(record, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(record, field) or _refuse(f"{field} is empty")


def _text(record: Any, field: str) -> str:
    if not isinstance(record, dict):
        raise InvalidRowError(f"the row is no object with fields, but {type(record).__name__}")
    if field not in record:
        raise InvalidRowError(f"{field} is missing")
    value = record[field]
    if not isinstance(value, str):
        raise InvalidRowError(f"{field} is {'null' if value is None else f'no string, but {reprlib.repr(value)}'}")
    _check_utf8(value, field)
    return value


def _check_utf8(value: str, field: str) -> None:
    """Refuses half a surrogate pair, which JSON can spell and no text file or Arrow column can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRowError(f"{field} holds half of a surrogate pair, which is no character") from None


def _refuse(problem: str) -> str:
    raise InvalidRowError(problem)


_QUERY_COLUMNS = [("query_id", pa.string()), ("query", pa.string()), ("answers", pa.list_(pa.string()))]
_TRAINING_COLUMNS = [
    *_QUERY_COLUMNS,
    ("positives", pa.list_(_SCORED_PASSAGE)),
    ("negatives", pa.list_(_SCORED_PASSAGE)),
]
TRAINING = Schema(pa.schema(_TRAINING_COLUMNS), check_training_row, "query_id", unique=False)
QUERIES = Schema(pa.schema(_QUERY_COLUMNS), check_query, "query_id", unique=True)
CORPUS = Schema(pa.schema(list(_PASSAGE)), check_passage, "docid", unique=True)
