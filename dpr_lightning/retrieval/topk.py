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
from dpr_lightning.retrieval.candidates import Rows, Scores, Selector, select_candidates_faiss
from dpr_lightning.retrieval.keys import NOTHING, pack_keys, unpack_rows, unpack_scores

SLACK = 16  # candidates beyond depth, so that rounding in the block product rarely asks for a second look
QUERIES_AT_ONCE = 4096  # as faiss's own blocks, which would be multiplied one after another anyway
PAIRS_AT_ONCE = 1 << 17  # of a query and a passage, scored and merged at once
ROWS_AT_ONCE = 4096  # scored with few queries; the processor's cache holds them meanwhile
FEWEST_FOR_PRODUCT = 12  # queries; for fewer, picking candidates takes longer than scoring every pair


def topk_inner_product(
    queries: NDArray[np.float32],
    blocks: Iterable[NDArray[Any]],
    *,
    depth: int,
    select: Selector = select_candidates_faiss,
) -> tuple[Scores, Rows]:
    """The `depth` best passages of each query by exact inner product.

    Equal scores rank by corpus row. Scores and order do not depend on how the corpus is cut into blocks: the block
    products (whose rounding depends on shapes and machine) only pick candidates, which one fixed routine scores again;
    a bound on that rounding tells when a passage left out could still belong, and then the whole block is looked at.

    Args:
        queries: [Q, D] float32.
        blocks: [B, D] float32 or float16 each, in corpus order; each is read once. Rows in all: below 2**32.
        depth: passages kept per query, at least 1; takes memory, even where the corpus has fewer.
        select: selects the candidates of a block.

    Returns:
        Scores [Q, K] float32, descending, and corpus rows [Q, K] int64; never -1.

    Raises:
        UserError: `depth` < 1, a block of another D, no rows at all, or numbers that are not finite (the message
            names the row).

    Source: k-selection by blocks as in Johnson et al., Billion-scale similarity search with GPUs, arXiv:1702.08734.
    """
    if depth < 1:
        raise UserError(f"depth: {depth} is not at least 1. Correct depth.")
    search = _RunningTopK(np.ascontiguousarray(queries, np.float32), depth, select)
    for block in blocks:
        search.add(block)
    if not search.rows_seen:
        raise UserError("there are no passages to search. Encode the corpus first.")
    return search.ranking()


def score_pairs(queries: NDArray[np.float32], passages: NDArray[np.float32], rows: Rows) -> Scores:
    """Scores [Q, R] of queries [Q, D] with `rows` [Q, R] of passages [B, D]; the row -1 scores -inf.

    A pair's score is the same whatever is scored beside it and by however many threads: each is summed by itself, in
    the one order that faiss has for D dimensions on this kind of processor.
    """
    scores, each = np.empty(rows.shape, np.float32), np.repeat(np.arange(len(rows)), rows.shape[1])
    inputs = [np.ascontiguousarray(array) for array in (queries, each, passages, rows)]
    pointers = [faiss.swig_ptr(array) for array in (*inputs, scores)]
    faiss.pairwise_indexed_inner_product(queries.shape[1], rows.size, *pointers)  # type: ignore[attr-defined]
    return scores


class _RunningTopK:
    """Rankings over the blocks so far, as keys [Q, depth], each query's ascending."""

    def __init__(self, queries: NDArray[np.float32], depth: int, select: Selector) -> None:
        self.queries, self.select, self.rows_seen = queries, select, 0
        self.query_norms = _norms(queries, 0, "query")
        self.keys = np.full((len(queries), depth), NOTHING)

    def add(self, block: NDArray[Any]) -> None:
        """Ranks the next block [B, D] of the corpus among the passages before it."""
        dim = self.queries.shape[1]
        if block.shape[1] != dim:
            raise UserError(f"queries have {dim} dimensions, passages {block.shape[1]}: two models made them.")
        block = np.ascontiguousarray(block, np.float32)
        if len(self.queries) < FEWEST_FOR_PRODUCT:
            self._add_all(block)
        elif len(block):
            self._add_candidates(block)
        self.rows_seen += len(block)

    def ranking(self) -> tuple[Scores, Rows]:
        """Scores and rows of what was found."""
        keys = self.keys[:, : self.rows_seen]
        scores, rows = np.empty(keys.shape, np.float32), np.empty(keys.shape, np.int64)
        for first in range(0, len(keys), 64):  # the copies stay small
            part = slice(first, first + 64)
            scores[part], rows[part] = unpack_scores(keys[part]), unpack_rows(keys[part])
        return scores, rows

    def _add_all(self, block: NDArray[np.float32]) -> None:
        queries = np.arange(len(self.queries))
        for first in range(0, len(block), ROWS_AT_ONCE):
            rows = np.arange(first, min(first + ROWS_AT_ONCE, len(block)))
            self._merge(queries, block, np.tile(rows, (len(queries), 1)))

    def _add_candidates(self, block: NDArray[np.float32]) -> None:
        # |block product - score of the pair|, over any two orders of summation
        errors = block.shape[1] * np.finfo(np.float32).eps * self.query_norms
        errors *= _norms(block, self.rows_seen, "passage").max()
        k = min(self.keys.shape[1] + SLACK, len(block))
        for first in range(0, len(self.queries), QUERIES_AT_ONCE):
            rough, rows = self.select(self.queries[first : first + QUERIES_AT_ONCE], block, k)
            step = max(1, PAIRS_AT_ONCE // k)
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                queries = np.arange(first + start, first + min(start + step, len(rows)))
                self._merge_candidates(queries, block, rough[part], rows[part], errors[queries])

    def _merge_candidates(
        self, queries: Rows, block: NDArray[np.float32], rough: Scores, rows: Rows, errors: NDArray[np.float32]
    ) -> None:
        """Merges candidates [q, k] of some queries, rough scores descending, and what rounding may have left out."""
        in_reach = rough >= self._threshold(queries, errors)[:, None]
        some = in_reach[:, 0]
        self._merge(queries[some], block, np.where(in_reach, rows, -1)[some])
        if rows.shape[1] == len(block):
            return
        reach = self._threshold(queries, errors)
        for place in np.flatnonzero(rough[:, -1] >= reach):
            left_out = block @ self.queries[queries[place]] >= reach[place]
            left_out[rows[place]] = False
            found = np.flatnonzero(left_out)
            for first in range(0, len(found), PAIRS_AT_ONCE):
                self._merge(queries[place : place + 1], block, found[None, first : first + PAIRS_AT_ONCE])

    def _threshold(self, queries: Rows, errors: NDArray[np.float32]) -> Scores:
        """The products from which on a passage may belong to a query's ranking."""
        reach: Scores = unpack_scores(self.keys[queries, -1]) - errors
        return reach

    def _merge(self, queries: Rows, block: NDArray[np.float32], rows: Rows) -> None:
        """Merges rows [q, R] of the block, or -1, into the rankings of some queries; a row once at most."""
        scores = score_pairs(self.queries[queries], block, rows)
        if not np.isfinite(scores[rows >= 0]).all():
            _refuse("passage", self.rows_seen + rows[(rows >= 0) & ~np.isfinite(scores)][0])
        before = self.keys[queries]
        better = (scores >= unpack_scores(before[:, -1:])).any(0)
        new = pack_keys(scores[:, better], self.rows_seen + rows[:, better])
        merged = np.partition(np.concatenate([before, new], 1), before.shape[1] - 1, 1)
        self.keys[queries] = np.sort(merged[:, : before.shape[1]], 1)


def _norms(vectors: NDArray[np.float32], first_row: int, what: str) -> NDArray[np.float32]:
    """Norms, for bounds: not below the true ones even where squares are too small for float32."""
    underflow = vectors.shape[1] * np.finfo(np.float32).tiny
    squares = np.empty(len(vectors), np.float32)
    arrays = faiss.swig_ptr(squares), faiss.swig_ptr(vectors)
    faiss.fvec_norms_L2sqr(*arrays, vectors.shape[1], len(vectors))  # type: ignore[attr-defined]
    norms: NDArray[np.float32] = np.sqrt(squares + underflow)
    if not np.isfinite(norms).all():
        _refuse(what, first_row + np.flatnonzero(~np.isfinite(norms))[0])
    return norms


def _refuse(what: str, row: int) -> None:
    raise UserError(f"the embedding of {what} row {row} is not finite. Encode it again with encode.precision=32.")
