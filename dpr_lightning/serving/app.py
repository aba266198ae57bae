"""The web application: `/` is the page, `/about` says what is served, `/search` answers a question as JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.searcher import Found, Searcher
from dpr_lightning.serving.batcher import Batcher, Request

LONGEST_QUESTION = 2000  # characters
MOST_PASSAGES = 100
_DEFAULT_PASSAGES = "10"
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}


def make_app(searchers: Mapping[str, Searcher], *, name: str) -> Starlette:
    """Return the application that serves a run.

    Args:
        searchers: The searcher of each method, the default first.
        name: The name of the run, shown on the page.
    """
    methods, batcher = list(searchers), Batcher(searchers)
    html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    about = {"name": name, "methods": methods, "longest_question": LONGEST_QUESTION}

    async def page(_: HttpRequest) -> Response:
        return HTMLResponse(html, headers=_HEADERS)

    async def describe(_: HttpRequest) -> Response:
        return JSONResponse(about)

    async def search(http: HttpRequest) -> Response:
        start = time.perf_counter()
        try:
            request = parse_request(http.query_params, methods)
        except UserError as error:
            return _as_error(400, str(error))
        found = await batcher.search(request)
        seconds = round(time.perf_counter() - start, 6)
        answer = {"question": request.question, "method": request.method, "seconds": seconds}
        return JSONResponse({**answer, "passages": as_passages(found)})

    routes = [Route("/", page), Route("/about", describe), Route("/search", search)]
    return Starlette(
        routes=routes, exception_handlers={HTTPException: _not_found, UserError: _failed, Exception: _failed}
    )


def parse_request(values: Mapping[str, str], methods: list[str]) -> Request:
    """Return the request that the values `q`, `k` and `method` of a query string describe.

    Raises:
        UserError: A value is missing or not possible.
    """
    question, depth, method = values.get("q", "").strip(), values.get("k") or _DEFAULT_PASSAGES, values.get("method")
    if not question:
        raise UserError("q: the question is missing. Give it as q=TEXT.")
    if len(question) > LONGEST_QUESTION:
        raise UserError(f"q: {len(question):,} characters are more than {LONGEST_QUESTION:,}. Shorten the question.")
    if not re.fullmatch("[0-9]{1,3}", depth) or not 1 <= int(depth) <= MOST_PASSAGES:
        raise UserError(f"k: {depth[:20]!r} is not a number from 1 to {MOST_PASSAGES}. Correct k.")
    check_choice(method := method or methods[0], "method", methods)
    return Request(question, method, int(depth))


def as_passages(found: Found) -> list[dict[str, Any]]:
    """Return the passages of a question as plain objects, best first."""
    return [
        {"docid": docid, "title": passage["title"], "text": passage["text"], "score": score}
        for docid, passage, score in zip(found.docids, found.passages, found.scores.tolist(), strict=True)
    ]


def _as_error(status: int, message: str) -> Response:
    return JSONResponse({"error": " ".join(message.replace("`", "").split())}, status)


def _not_found(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _as_error(error.status_code, error.detail)


def _failed(_: HttpRequest, error: Exception) -> Response:
    """Return what a search has failed with: a damaged file in words, anything else as Python's name of the error."""
    return _as_error(500, str(error) if isinstance(error, UserError) else f"the search failed: {type(error).__name__}")
