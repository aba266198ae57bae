"""Exact search as a retriever: every passage is scored, within a memory budget."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.embeddings.shards import ShardedEmbeddings
from dpr_lightning.files import size_text
from dpr_lightning.retrieval.candidates import Rows, Scores, choose_selector
from dpr_lightning.retrieval.memory import plan_search
from dpr_lightning.retrieval.retriever import Queries, Ranked
from dpr_lightning.retrieval.topk import SLACK, topk_inner_product

_log = logging.getLogger(__name__)
_CACHED_ROWS = 4096  # passages that are read, checked and multiplied while the processor's cache has them


class ExactSearch:
    """Search by exact inner product over all passages."""

    def __init__(self, passages: ShardedEmbeddings, *, memory: int | None = None) -> None:
        """Search passages within `memory` bytes; None is fastest for few queries at a time and keeps pages mapped."""
        self._passages, self._memory = passages, memory
        self.rows = passages.rows
        self.tag = f"dpr_lightning-{passages.model_fingerprint[:8]}"

    def search(self, queries: Queries, *, depth: int) -> Iterator[Ranked]:
        """Yield the `depth` best passages of each query; see `topk_inner_product` for errors."""
        depth, at_once, block_rows = min(depth, self.rows), len(queries.qids), _CACHED_ROWS
        if self._memory is not None:
            plan = plan_search(self._memory, self._passages, queries=len(queries.qids), depth=depth)
            _log.info(
                "search: corpus %s in %d files, blocks of %s passages, %s queries per pass, at most %s",
                size_text(self._passages.bytes),
                len(self._passages.shards),
                f"{plan.block_rows:,}",
                f"{plan.queries:,}",
                size_text(plan.peak),
            )
            if plan.peak > self._memory:
                _log.warning("memory=%s is less than this search takes", size_text(self._memory))
            at_once, block_rows = plan.queries, plan.block_rows
        for vectors in queries.blocks(at_once):
            yield from self._search(vectors, depth, block_rows)

    def _search(self, vectors: NDArray[Any], depth: int, block_rows: int) -> Iterator[Ranked]:
        keep = self._memory is None
        scores, rows = exact_topk(vectors, self._passages, depth=depth, block_rows=block_rows, keep=keep)
        for own_rows, docids, own_scores in zip(rows, self._passages.docids(rows), scores, strict=True):
            yield Ranked(own_rows, docids, own_scores)


def exact_topk(
    queries: NDArray[Any], passages: ShardedEmbeddings, *, depth: int, block_rows: int, keep: bool = False
) -> tuple[Scores, Rows]:
    """Return scores and corpus rows, both [Q, depth], of the best passages of queries [Q, dim].

    Args:
        queries: The queries' embeddings.
        passages: The corpus, at least `depth` passages.
        depth: Passages per query.
        block_rows: Passages that are scored at once.
        keep: Whether the passages stay mapped for the next search.
    """
    select = choose_selector(len(queries), depth + SLACK)
    blocks = passages.blocks(block_rows, keep=keep)
    return topk_inner_product(np.asarray(queries, np.float32), blocks, depth=depth, select=select)
