"""One array of JSON objects, or one object of objects by query id, of any size and parsed piece by piece."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpr_lightning.errors import UserError
from dpr_lightning.text_files import read_text

_RESULTS_BY_ID = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{\s*"question"\s*:')


def opening_of(file: Path) -> str:
    """Return `[` for an array of objects, `{` for results of retrieval by query id, and an empty text otherwise."""
    start, pieces = "", read_text(file)
    with contextlib.suppress(UserError, OSError):
        while len(start) < 1000 and (piece := next(pieces, None)):
            start = (start + piece[0]).lstrip()
    if start.startswith("[") and start[1:].lstrip()[:1] in ("{", "]", ""):
        return "["
    return "{" if _RESULTS_BY_ID.match(start) else ""


def array_records(file: Path, opening: str) -> Iterator[tuple[int, Any, float]]:
    """Yield (element from 1, record, share of the file read); records by query id get the field `query_id`.

    1. `separator` is the next character of the structure: the opening, a comma, a colon, or none before a value.
    2. More of the file is read whenever `text` ends within a value. A JSON error before the end of `text` is final,
       except that the decoder reports an unterminated string at its start.

    Raises:
        UserError: The file is not such an array; the message names the element.
    """
    decode, pieces = json.JSONDecoder().raw_decode, read_text(file)
    text, position, element, progress = "", 0, 0, 0.0
    separator, closing, key = opening, "]" if opening == "[" else "}", None

    def refuse(problem: str) -> UserError:
        return UserError(f"{file}, row {element + 1}: {problem}. Correct the file, or fetch it again.")

    while True:
        while text[position : position + 1].isspace():
            position += 1
        head = text[position : position + 1]
        if head == closing and separator in ("", ",") and key is None:
            if (text[position + 1 :] + next(pieces, ("", 1.0))[0]).strip():
                raise refuse("there is more text after the array")
            return
        if head and separator:
            if head != separator:
                raise refuse(f"{head!r} instead of {separator!r}")
            position, separator = position + 1, ""
            continue
        try:
            value, end = decode(text, position)
        except RecursionError as error:
            raise refuse("too deeply nested") from error
        except json.JSONDecodeError as error:
            if error.pos < len(text) - 16 and not error.msg.startswith("Unterminated string"):
                raise refuse(f"not a JSON object ({error.msg})") from error
            piece, progress = next(pieces, ("", 1.0))
            if not piece:
                raise refuse("the array does not end") from error
            text, position = text[position:] + piece, 0
            continue
        position = end
        if opening == "{" and key is None:
            key, separator = value, ":"
            continue
        element, separator = element + 1, ","
        yield element, {"query_id": key} | value if key is not None and isinstance(value, dict) else value, progress
        key = None
