"""Cells of a table that have a list: a JSON list, a Python list, or one element as it is."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import reprlib
import tokenize
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from dpr_lightning.data.schema import InvalidRowError, Record

_ANSWERS = 'Lisbon or ["Lisbon", "Lisboa"]'
_IDS = '7 or ["7", "9"]'
_PASSAGES = '[{"docid": "7", "title": "", "text": "…"}]'
_EXAMPLES = {
    "answers": _ANSWERS,
    "answer": _ANSWERS,
    "positive_document_ids": _IDS,
    "negative_document_ids": _IDS,
    "scores": "[1.5, 0.2]",
    **dict.fromkeys(("positive_passages", "negative_passages"), _PASSAGES),
    **dict.fromkeys(("positive_ctxs", "hard_negative_ctxs", "negative_ctxs", "ctxs", "contexts"), _PASSAGES),
}

LIST_FIELDS = frozenset(_EXAMPLES)


def with_lists(record: Record, fields: Sequence[str]) -> Record:
    """Return a row of a table with lists in some of `LIST_FIELDS`, if it has them; an empty cell becomes None.

    Raises:
        InvalidRowError: A cell is in square brackets, but is neither a JSON nor a Python list.
    """
    return record | {field: _elements(record[field], field) for field in fields if field in record}


def parse_list(cell: str) -> list[Any] | None:
    """Return the list that a cell spells in JSON or Python, or None if it does not spell one."""
    for parse in (json.loads, _parse_python):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = parse(cell.strip())
            return value if isinstance(value, list) else None
    return None


def _parse_python(cell: str) -> Any:
    """Return a Python literal; NumPy's `['a' 'b']`, which Python reads as `['ab']`, is refused."""
    value = ast.literal_eval(cell)
    tokens = [token.type for token in tokenize.generate_tokens(io.StringIO(cell).readline)]
    if any(first == second == tokenize.STRING for first, second in pairwise(t for t in tokens if t != tokenize.NL)):
        raise ValueError("no comma between two strings")
    return value


def _elements(cell: str, field: str) -> list[Any] | None:
    cell = cell.strip()
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell] if cell else None
    if (elements := parse_list(cell)) is None:
        accepted = f"write it as {_EXAMPLES[field]}"
        raise InvalidRowError(f"{field} is not a JSON or Python list, but {reprlib.repr(cell)}; {accepted}")
    return elements
