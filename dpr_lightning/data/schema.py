"""The schemas of training rows, queries and corpus rows. Each check returns the row in one fixed form."""

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
    """A row breaks its schema; the message starts with the field."""


class Schema(NamedTuple):
    """A kind of row: its Arrow columns, the check that returns them, and the field of its id, which may be `unique`."""

    columns: pa.Schema
    check: Callable[[Any], Record]
    id_field: str
    unique: bool


def check_training_row(record: Any) -> Record:
    """Return a row with `query_id, query, answers, positives, negatives`, where each passage has a `score` or None.

    The record has `query_id, query, positive_passages` and optional `answers` and `negative_passages`. Optional
    `scores` are a teacher's, first of the positive and then of the negative passages.
    """
    row = check_query(record)
    row["positives"] = _passages(record, "positive_passages")
    row["negatives"] = [] if record.get("negative_passages") is None else _passages(record, "negative_passages")
    if not row["positives"]:
        raise InvalidRowError("positive_passages is empty, but a training question needs one")
    passages = [*row["positives"], *row["negatives"]]
    for passage, score in zip(passages, _scores(record, len(passages)), strict=True):
        passage["score"] = score
    return row


def check_query(record: Any) -> Record:
    """Return a row with `query_id, query, answers`; the record may lack `answers`, a list of strings."""
    query_id, query = _id(record, "query_id"), _text(record, "query")
    if not query.strip():
        raise InvalidRowError("query is empty")
    answers = [] if record.get("answers") is None else record["answers"]
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise InvalidRowError('answers is not a list of non-empty strings, such as ["Lisbon", "Lisboa"]')
    _check_utf8("".join(answers), "answers")
    return {"query_id": query_id, "query": query, "answers": answers}


def check_passage(record: Any) -> Record:
    """Return a row with `docid, title, text`; a title that is missing or null is empty."""
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
    for position, passage in enumerate(passages):
        try:
            checked.append(check_passage(passage))
        except InvalidRowError as error:
            raise InvalidRowError(f"{field}[{position}].{error}") from None
    return checked


def _scores(record: Record, count: int) -> list[float] | list[None]:
    scores = record.get("scores")
    if scores is None:
        return [None] * count
    if not isinstance(scores, list) or len(scores) != count:
        raise InvalidRowError(f"scores is not a list of {count} numbers, one per positive and negative passage")
    for position, score in enumerate(scores):
        if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= _FLOAT32_MAX:
            raise InvalidRowError(f"scores[{position}] is {score!r}, not a finite float32 number")
    return [float(score) for score in scores]


def _id(record: Any, field: str) -> str:
    value = record.get(field) if isinstance(record, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(record, field) or _refuse(f"{field} is empty")


def _text(record: Any, field: str) -> str:
    if not isinstance(record, dict):
        raise InvalidRowError(f"the row is not an object with fields, but {type(record).__name__}")
    if field not in record:
        raise InvalidRowError(f"{field} is missing")
    value = record[field]
    if not isinstance(value, str):
        raise InvalidRowError(f"{field} is {'null' if value is None else f'not a string, but {reprlib.repr(value)}'}")
    _check_utf8(value, field)
    return value


def _check_utf8(value: str, field: str) -> None:
    """Raise for half a surrogate pair, which JSON can express, but not a text file or an Arrow column."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRowError(f"{field} has half of a surrogate pair, which is not a character") from None


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
