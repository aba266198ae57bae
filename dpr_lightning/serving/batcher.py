"""Searches concurrent requests in batches.

One thread searches. The requests that arrive meanwhile wait, and those of one method and depth are its next batch, that
of the oldest request first. A single request is therefore searched at once, and many are searched at the speed of
batches. The answers do not depend on the batches.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from dpr_lightning.searcher import Found, Searcher

_LARGEST_BATCH = 64  # questions; limits how long the next request waits


class Request(NamedTuple):
    """A question, the method that answers it, and how many passages it gets."""

    question: str
    method: str
    depth: int


_Waiting = tuple[Request, "asyncio.Future[Found]"]


class Batcher:
    """Answers requests of one event loop."""

    def __init__(self, searchers: Mapping[str, Searcher]) -> None:
        """Take the searcher of each method. No other thread may use them."""
        self._searchers = searchers
        self._waiting: list[_Waiting] = []
        self._thread = ThreadPoolExecutor(1, "search")
        self._working: asyncio.Task[None] | None = None

    async def search(self, request: Request) -> Found:
        """Return the passages of a question. Raises what `Searcher.search` raises."""
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        """Search until no request waits."""
        while self._waiting:
            batch = self._next_batch()
            (_, method, depth), questions = batch[0][0], [request.question for request, _ in batch]
            search = functools.partial(self._searchers[method].search, questions, depth=depth)
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._thread, search)
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():  # nobody waits for it any more
                        answer.set_exception(error)
                continue
            for (_, answer), one in zip(batch, found, strict=True):
                if not answer.done():
                    answer.set_result(one)

    def _next_batch(self) -> list[_Waiting]:
        """Take the oldest request and those that can be searched with it."""
        first = self._waiting[0][0]
        alike = [one for one in self._waiting if one[0][1:] == first[1:]][:_LARGEST_BATCH]
        taken = {id(one) for one in alike}
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        return alike
