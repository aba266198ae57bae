"""Exact inner-product search over blocks of passages: bounded in memory, the same answer however the corpus is cut.

Notation: Q queries, D dimensions, B rows of a block, P rows in all, K = min(depth, P).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from dpr_lightning.errors import UserError

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]
_SLACK = 16  # candidates beyond depth, so that rounding in the block product rarely asks for a second look
_PAIRS_AT_ONCE = 4096
_NO_ROW = np.iinfo(np.int64).max


def topk_inner_product(
    queries: NDArray[np.float32], blocks: Iterable[NDArray[Any]], *, depth: int
) -> tuple[Scores, Rows]:
    """The `depth` best passages of each query by exact inner product.

    Equal scores rank by corpus row. Scores and order do not depend on how the corpus is cut into blocks: the block
    products (BLAS, whose rounding depends on shapes) only pick candidates, which one fixed routine scores again; a
    bound on that rounding tells when a passage left out could still belong, and then the whole block is looked at.

    Args:
        queries: [Q, D] float32.
        blocks: [B, D] float32 or float16 each, in corpus order; each is read once.
        depth: passages kept per query, at least 1.

    Returns:
        Scores [Q, K] float32, descending, and corpus rows [Q, K] int64; never -1.

    Raises:
        UserError: `depth` < 1, a block of another D, no rows at all, or numbers that are not finite (the message
            names the row).

    Source: k-selection by blocks as in Johnson et al., Billion-scale similarity search with GPUs, arXiv:1702.08734.
    """
    if depth < 1:
        raise UserError(f"depth: {depth} is not at least 1. Correct depth.")
    search = _RunningTopK(np.ascontiguousarray(queries, np.float32), depth)
    for block in blocks:
        search.add(block)
    if not search.rows_seen:
        raise UserError("there are no passages to search. Encode the corpus first.")
    return search.scores, search.rows


class _RunningTopK:
    def __init__(self, queries: NDArray[np.float32], depth: int) -> None:
        self.queries, self.depth, self.rows_seen = queries, depth, 0
        self.query_norms = _norms(queries, 0, "query")
        self.scores: Scores = np.empty((len(queries), 0), np.float32)
        self.rows: Rows = np.empty((len(queries), 0), np.int64)

    def add(self, block: NDArray[Any]) -> None:
        if block.shape[1] != self.queries.shape[1]:
            raise UserError(
                f"queries have {self.queries.shape[1]} dimensions, passages {block.shape[1]}: two models made them."
            )
        block = np.ascontiguousarray(block, np.float32)
        if not len(block):
            return
        # |block product - exact score| of one pair, over any order of summation
        error = (
            block.shape[1]
            * np.finfo(np.float32).eps
            * self.query_norms
            * _norms(block, self.rows_seen, "passage").max()
        )
        k = min(self.depth + _SLACK, len(block))
        rough, local = faiss.knn(self.queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
        before = self.scores, self.rows
        in_reach = rough >= self._threshold(self.scores)[:, None] - error[:, None]
        order = np.argsort(np.where(in_reach, local, _NO_ROW), axis=1, kind="stable")  # ties are merged in row order
        local, in_reach = np.take_along_axis(local, order, 1), np.take_along_axis(in_reach, order, 1)
        query_of, place = np.nonzero(in_reach)
        found = np.full(local.shape, -np.inf, np.float32)
        found[query_of, place] = self._score(query_of, block, local[query_of, place])
        self._merge(slice(None), found, np.where(in_reach, local + self.rows_seen, _NO_ROW))
        if k < len(block):
            unsure = rough[:, -1] + error >= self._threshold(self.scores)
            for query in np.flatnonzero(unsure).tolist():
                self._look_again(query, block, before, error[query])
        self.rows_seen += len(block)

    def _look_again(self, query: int, block: NDArray[np.float32], before: tuple[Scores, Rows], error: float) -> None:
        """Redoes one query's merge with every row of the block that can reach its ranking."""
        reach = np.flatnonzero(block @ self.queries[query] >= self._threshold(self.scores[[query]])[0] - error)
        scores = self._score(np.full(len(reach), query), block, reach)
        self.scores[query], self.rows[query] = _best(
            np.concatenate([before[0][query], scores])[None],
            np.concatenate([before[1][query], reach + self.rows_seen])[None],
            self.scores.shape[1],
        )

    def _merge(self, queries: slice, scores: Scores, rows: Rows) -> None:
        depth = min(self.depth, self.scores.shape[1] + scores.shape[1])
        joined = np.concatenate([self.scores, scores], 1), np.concatenate([self.rows, rows], 1)
        self.scores, self.rows = _best(*joined, depth)

    def _threshold(self, scores: Scores) -> Scores:
        """The score a passage must reach to enter each ranking [len(scores)]."""
        if scores.shape[1] < self.depth:
            return np.full(len(scores), -np.inf, np.float32)
        return scores[:, -1]

    def _score(self, query_of: Rows, block: NDArray[np.float32], rows: Rows) -> Scores:
        """Scores of pairs, each summed in float64 in one order: products of float32 are exact there."""
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            left = self.queries[query_of[part]].astype(np.float64)
            scores[part] = np.einsum("pd,pd->p", left, block[rows[part]].astype(np.float64))
        return scores


def _best(scores: Scores, rows: Rows, depth: int) -> tuple[Scores, Rows]:
    """The best `depth` columns of each row; equal scores stay in the order they have."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _norms(vectors: NDArray[np.float32], first_row: int, what: str) -> NDArray[np.float32]:
    """Norms, for bounds: not below the true ones even where squares are too small for float32."""
    underflow = vectors.shape[1] * np.finfo(np.float32).tiny
    norms: NDArray[np.float32] = np.sqrt(np.einsum("nd,nd->n", vectors, vectors) + underflow)
    if not np.isfinite(norms).all():
        row = first_row + int(np.flatnonzero(~np.isfinite(norms))[0])
        raise UserError(f"the embedding of {what} row {row} is not finite. Encode it again with encode.precision=32.")
    return norms
