"""The formats of ranking files that are read: one table, recognized by content."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.json_stream import JsonStream
from dpr_lightning.text_files import excerpt, plain_number, read_lines, read_text

_TOO_LARGE = float(2**128 - 2**103)  # the least number that float32 rounds to infinity
_CHARACTERS_AT_ONCE = 1 << 20
_JSON_START = re.compile(r"""\s*(?:(\[)\s*[]{]|({)\s*["}])""")
_HEAD_LINES = 100_000  # lines that decide between scores and ranks


class Row(NamedTuple):
    """One passage of a ranking.

    Attributes:
        number: The line, or in JSON the entry, from 1.
        qid: The query's id; in JSON without ids, its position from 0.
        docid: The passage's id.
        score: The score; in a file of ranks, 1 / rank.
        tag: The run's name, or "".
        question: The query's text if the file has no ids, else "".
    """

    number: int
    qid: str
    docid: str
    score: float
    tag: str = ""
    question: str = ""


class Format(NamedTuple):
    """A ranking format.

    Attributes:
        form: What a line or an entry looks like, for messages.
        read: Yields the rows of a file.
        counts: What `Row.number` counts.
    """

    form: str
    read: Callable[[Path], Iterator[Row]]
    counts: str = "line"


def recognize(path: Path) -> str:
    """Return the name in `FORMATS` of a file's format, by its content.

    Three columns are MS MARCO's if the third one has the ranks 1, 2, … of the first query with several passages.

    Raises:
        UserError: The file is empty or has another form.
    """
    start = _start(path)
    number, first = next(((i, line) for i, line in enumerate(start.split("\n"), 1) if line.strip()), (0, ""))
    if not first:
        raise UserError(f"{path} is empty. Search again.")
    columns = _columns(first)
    is_trec = len(columns) == 6 and _is_number(columns[4])
    if not (is_trec or "\t" in first) and (bracket := _JSON_START.match(start)):
        return "dpr" if bracket[1] else "pyserini"
    if len(columns) == 3:
        return "msmarco" if _has_ranks(path) else "text"
    if is_trec:
        return "trec"
    raise UserError(f"{path}, line {number}: {excerpt(first)} has {len(columns)} columns. {_accepted()}")


def read_rows(path: Path, format: str | None = None) -> Iterator[Row]:
    """Yield the passages of a ranking file, in file order.

    Args:
        path: The file.
        format: A name in `FORMATS`; None recognizes it.

    Raises:
        UserError: A line or an entry has another form; the message names it.
    """
    return FORMATS[format or recognize(path)].read(path)


def _read_trec(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        try:
            qid, _, docid, _, score, tag = line.split()
            yield Row(number, qid, docid, _finite(score), tag)
        except ValueError:
            raise _other_form(path, number, line, "trec", "a finite score") from None


def _read_text(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        try:
            qid, docid, score = _three(line)
            yield Row(number, qid, docid, _finite(score))
        except ValueError:
            raise _other_form(path, number, line, "text", "a finite score") from None


def _read_msmarco(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        try:
            qid, docid, rank = _three(line)
            if (value := int(plain_number(rank))) < 1:
                raise ValueError
            yield Row(number, qid, docid, 1 / value)
        except ValueError:
            raise _other_form(path, number, line, "msmarco", "a rank of at least 1") from None


def _read_json(path: Path) -> Iterator[Row]:
    for number, (key, entry) in enumerate(_json_entries(path), 1):
        fields = entry if isinstance(entry, Mapping) else {}
        contexts = _first_of(fields, "ctxs", "contexts")
        prefix = "wiki:" if "ctxs" in fields else ""  # FAIR's ids of the passages in psgs_w100.tsv
        question = fields.get("question", "")
        if not isinstance(contexts, list) or not isinstance(question, str):
            raise UserError(f"{path}, entry {number}: {_description(entry)}. {_accepted()}")
        qid = key if key is not None else _first_of(fields, "id", "qid", "query_id")
        if qid is None and not question:
            raise UserError(f"{path}, entry {number}: it has neither an id nor a question. {_accepted()}")
        for context in contexts:
            docid = _first_of(context, "docid", "id", "passage_id") if isinstance(context, Mapping) else None
            try:
                score = _finite(context["score"])
                if not isinstance(docid, str | int) or docid == "":
                    raise ValueError
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{path}, entry {number}: a passage without an id or a finite score, {_description(context)}. "
                    f"{_accepted()}"
                ) from None
            known = qid is not None
            passage = str(docid).removeprefix(prefix)
            yield Row(number, str(qid if known else number - 1), passage, score, "", "" if known else question)


FORMATS = {
    "trec": Format("TREC `qid Q0 docid rank score tag`", _read_trec),
    "text": Format("text `qid docid score`", _read_text),
    "msmarco": Format("MS MARCO `qid docid rank`", _read_msmarco),
    "dpr": Format("DPR JSON `[{ctxs}]`", _read_json, "entry"),
    "pyserini": Format("Pyserini JSON `{qid: {contexts}}`", _read_json, "entry"),
}
"""Every format that is read, by name."""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in read_lines(path) if line.strip())


def _start(path: Path) -> str:
    """Return the start of a file: all of a short one, and at least one long line or several lines."""
    pieces, length = [], 0
    try:
        for piece, _ in read_text(path):
            pieces.append(piece)
            length += len(piece)
            if length >= _CHARACTERS_AT_ONCE:
                break
    except UserError:
        for _ in _lines(path):  # names the line that is damaged
            pass
        raise
    return "".join(pieces)


def _columns(line: str) -> list[str]:
    words = line.split()
    is_trec = len(words) == 6 and words[1] == "Q0" and _is_number(words[4])  # may have two tabs among blanks
    return line.split("\t") if line.count("\t") == 2 and not is_trec else words


def _three(line: str) -> tuple[str, str, str]:
    """Return the three columns of a line. Raises ValueError if it has others, or an id is empty."""
    qid, docid, value = _columns(line)
    if not (qid and docid):
        raise ValueError
    return qid, docid, value


def _finite(score: str | float) -> float:
    """Return a score as a number. Raises ValueError if it is not a number in the range of float32."""
    value = float(plain_number(score) if isinstance(score, str) else score)
    if not abs(value) < _TOO_LARGE:
        raise ValueError
    return value


def _is_number(text: str) -> bool:
    try:
        _finite(text)
    except ValueError:
        return False
    return True


def _has_ranks(path: Path) -> bool:
    """Return whether the third column rises from 1 over the first query that has several passages."""
    head = (_columns(line) for number, line in _lines(path) if number <= _HEAD_LINES)
    for _, rows in groupby((row for row in head if len(row) == 3), key=itemgetter(0)):
        values = [row[2].strip() for row in rows]
        if len(values) > 1:
            ranks = [int(value) for value in values if value.isascii() and value.isdecimal()]
            return len(ranks) == len(values) and ranks[0] == 1 and ranks == sorted(set(ranks))
    return False


def _other_form(path: Path, number: int, line: str, format: str, value: str) -> UserError:
    return UserError(
        f"{path}, line {number}: {excerpt(line)} is not {FORMATS[format].form} with {value}. Correct the line."
    )


def _accepted() -> str:
    return f"Accepted: {'; '.join(format.form for format in FORMATS.values())}."


def _description(value: object) -> str:
    if isinstance(value, Mapping):
        return f"found the fields {', '.join(map(excerpt, value))}" if value else "found no fields"
    return f"found {excerpt(json.dumps(value))}"


def _first_of(fields: Mapping[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if name in fields), None)


def _json_entries(path: Path) -> Iterator[tuple[str | None, Any]]:
    """Yield (key, value) of a JSON object, or (None, value) of a list, with one value at a time in memory.

    Raises:
        UserError: The file is not valid JSON.
    """
    count = 0
    stream = JsonStream(piece for piece, _ in read_text(path))
    try:
        closing = "]" if stream.take("[{") == "[" else "}"
        while stream.peek() != closing:
            if count:
                stream.take(",")
            key = None
            if closing == "}":
                key = str(stream.value())
                stream.take(":")
            yield key, stream.value()
            count += 1
        stream.take(closing)
        if stream.peek():
            raise ValueError(f"more text after the closing {closing}")
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}, after entry {count}: not valid JSON ({error}). {_accepted()}") from error
    if not count:
        raise UserError(f"{path} is empty. Search again.")
