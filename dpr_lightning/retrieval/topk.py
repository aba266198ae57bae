"""Exact inner-product search over blocks of passages: bounded in memory, the same answer however the corpus is cut.

Notation: Q queries, D dimensions, B rows of a block, P rows in all, K = min(depth, P).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.candidates import Picker, Rows, Scores, pick_with_faiss

SLACK = 16  # candidates beyond depth, so that rounding in the block product rarely asks for a second look
QUERIES_AT_ONCE = 4096  # as faiss's own blocks, which would be multiplied one after another anyway
ROWS_AT_ONCE = 128  # two arrays of which stay in the processor's cache
_NO_ROW = np.iinfo(np.int64).max


def topk_inner_product(
    queries: NDArray[np.float32], blocks: Iterable[NDArray[Any]], *, depth: int, pick: Picker = pick_with_faiss
) -> tuple[Scores, Rows]:
    """The `depth` best passages of each query by exact inner product.

    Equal scores rank by corpus row. Scores and order do not depend on how the corpus is cut into blocks: the block
    products (whose rounding depends on shapes and machine) only pick candidates, which one fixed routine scores again;
    a bound on that rounding tells when a passage left out could still belong, and then the whole block is looked at.

    Args:
        queries: [Q, D] float32.
        blocks: [B, D] float32 or float16 each, in corpus order; each is read once.
        depth: passages kept per query, at least 1; takes memory, even where the corpus has fewer.
        pick: picks the candidates.

    Returns:
        Scores [Q, K] float32, descending, and corpus rows [Q, K] int64; never -1.

    Raises:
        UserError: `depth` < 1, a block of another D, no rows at all, or numbers that are not finite (the message
            names the row).

    Source: k-selection by blocks as in Johnson et al., Billion-scale similarity search with GPUs, arXiv:1702.08734.
    """
    if depth < 1:
        raise UserError(f"depth: {depth} is not at least 1. Correct depth.")
    search = _RunningTopK(np.ascontiguousarray(queries, np.float32), depth, pick)
    for block in blocks:
        search.add(block)
    if not search.rows_seen:
        raise UserError("there are no passages to search. Encode the corpus first.")
    return search.scores[:, : search.rows_seen], search.rows[:, : search.rows_seen]


def score_exactly(query: NDArray[np.float32], passages: NDArray[Any], rows: Rows) -> Scores:
    """Scores [R] of a query [D] with R rows of passages [P, D]: of a pair always the same, whatever it is scored with.

    Products of float32 are exact in float64, where each score is summed in one order, to be rounded once.
    """
    wide, scores = query.astype(np.float64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        piece = slice(start, start + ROWS_AT_ONCE)
        scores[piece] = np.einsum("pd,d->p", passages.take(rows[piece], axis=0).astype(np.float64), wide)
    return scores


class _RunningTopK:
    """Rankings [Q, depth] over the blocks so far; what is not filled yet scores -inf."""

    def __init__(self, queries: NDArray[np.float32], depth: int, pick: Picker) -> None:
        self.queries, self.pick, self.rows_seen = queries, pick, 0
        self.query_norms = _norms(queries, 0, "query")
        self.scores: Scores = np.full((len(queries), depth), -np.inf, np.float32)
        self.rows: Rows = np.full((len(queries), depth), _NO_ROW)

    def add(self, block: NDArray[Any]) -> None:
        """Ranks the next block [B, D] of the corpus among the passages before it."""
        dim = self.queries.shape[1]
        if block.shape[1] != dim:
            raise UserError(f"queries have {dim} dimensions, passages {block.shape[1]}: two models made them.")
        block = np.ascontiguousarray(block, np.float32)
        if not len(block):
            return
        # |block product - exact score| of one pair, over any order of summation
        errors = dim * np.finfo(np.float32).eps * self.query_norms * _norms(block, self.rows_seen, "passage").max()
        k = min(self.scores.shape[1] + SLACK, len(block))
        for first in range(0, len(self.queries), QUERIES_AT_ONCE):
            picked = self.pick(self.queries[first : first + QUERIES_AT_ONCE], block, k)
            for query, (rough, rows) in enumerate(zip(*picked, strict=True), first):
                self._merge(query, block, rough, rows, errors[query])
        self.rows_seen += len(block)

    def _merge(self, query: int, block: NDArray[np.float32], rough: Scores, rows: Rows, error: np.float32) -> None:
        """Merges a block's candidates, rough scores descending, into a ranking."""
        before = self.scores[query].copy(), self.rows[query].copy()
        in_reach = np.sort(rows[rough >= before[0][-1] - error])  # ties are merged in row order
        if len(in_reach):
            self._rank(query, before, block, in_reach)
        if len(rows) < len(block) and rough[-1] + error >= self.scores[query, -1]:
            products = block @ self.queries[query]
            self._rank(query, before, block, np.flatnonzero(products >= self.scores[query, -1] - error))

    def _rank(self, query: int, before: tuple[Scores, Rows], block: NDArray[np.float32], rows: Rows) -> None:
        """Makes a query's ranking from the one before the block and rows of the block, ascending."""
        scores = np.concatenate([before[0], score_exactly(self.queries[query], block, rows)])
        best = np.argsort(-scores, kind="stable")[: len(before[0])]
        self.scores[query] = scores[best]
        self.rows[query] = np.concatenate([before[1], rows + self.rows_seen])[best]


def _norms(vectors: NDArray[np.float32], first_row: int, what: str) -> NDArray[np.float32]:
    """Norms, for bounds: not below the true ones even where squares are too small for float32."""
    underflow = vectors.shape[1] * np.finfo(np.float32).tiny
    norms: NDArray[np.float32] = np.sqrt(np.einsum("nd,nd->n", vectors, vectors) + underflow)
    if not np.isfinite(norms).all():
        row = first_row + int(np.flatnonzero(~np.isfinite(norms))[0])
        raise UserError(f"the embedding of {what} row {row} is not finite. Encode it again with encode.precision=32.")
    return norms
