"""Exact inner-product search over blocks of passages: bounded memory, and the same result for any division into blocks.

Notation: Q queries, D dimensions, B rows of a block, P rows of all blocks, K = min(depth, P).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.retrieval.candidates import Rows, Scores, Selector, select_candidates_faiss
from dpr_lightning.retrieval.keys import NOTHING, pack_keys, unpack_rows, unpack_scores

SLACK = 16  # candidates beyond depth, so that rounding rarely requires a rescan
QUERIES_AT_ONCE = 4096  # FAISS's own block of queries; more would be multiplied one block after another anyway
PAIRS_AT_ONCE = 1 << 17  # pairs (query, passage) that are scored and merged at once
ROWS_AT_ONCE = 4096  # passages scored with few queries while the processor's cache has them
FEWEST_FOR_PRODUCT = 12  # queries; below, scoring every pair is faster than selecting candidates


def topk_inner_product(
    queries: NDArray[np.float32],
    blocks: Iterable[NDArray[Any]],
    *,
    depth: int,
    select: Selector = select_candidates_faiss,
) -> tuple[Scores, Rows]:
    """Return the `depth` best passages of each query by exact inner product.

    Equal scores rank by corpus row. Scores and order do not depend on how the corpus is divided into blocks. A block
    product, whose rounding depends on shapes and machine, only selects candidates; `score_pairs` scores these again.
    If rounding could have dropped a top-`depth` passage, rescan the whole block.

    Args:
        queries: The queries [Q, D] float32.
        blocks: The passages [B, D] float32 or float16 in corpus order, below 2**32 rows. Each block is read once.
        depth: Passages kept per query, at least 1; it takes memory even if the corpus has fewer.
        select: Selects the candidates of a block.

    Returns:
        Scores [Q, K] float32, descending, and corpus rows [Q, K] int64, never -1.

    Raises:
        UserError: `depth` < 1, a block of another D, no rows, or numbers that are not finite (the message names the
            row).

    Source: k-selection by blocks as in Johnson et al., Billion-scale similarity search with GPUs, arXiv:1702.08734.
    """
    check_positive(depth, "depth")
    search = _RunningTopK(np.ascontiguousarray(queries, np.float32), depth, select)
    for block in blocks:
        search.add(block)
    if not search.rows_seen:
        raise UserError("there are no passages to search. Encode the corpus first.")
    return search.ranking()


def score_pairs(queries: NDArray[np.float32], passages: NDArray[np.float32], rows: Rows) -> Scores:
    """Return the scores [Q, R] of queries [Q, D] with `rows` [Q, R] of passages [B, D]; the row -1 scores -inf.

    A pair's score depends on nothing but the pair: FAISS sums each inner product by itself, in an order fixed by D and
    the processor, whatever else is scored and however many threads there are.

    Many pairs are scored in the order of the passages, so that a passage is read from memory once for all its queries.
    """
    scores = np.empty(rows.size, np.float32)
    order = np.argsort(rows, axis=None) if rows.size > PAIRS_AT_ONCE else np.arange(rows.size)
    queries, passages = np.ascontiguousarray(queries), np.ascontiguousarray(passages)
    for first in range(0, rows.size, PAIRS_AT_ONCE):
        pairs = order[first : first + PAIRS_AT_ONCE]
        inputs = queries, pairs // rows.shape[1], passages, rows.ravel()[pairs]
        found = np.empty(len(pairs), np.float32)
        pointers = [faiss.swig_ptr(array) for array in (*inputs, found)]
        faiss.pairwise_indexed_inner_product(queries.shape[1], len(pairs), *pointers)  # type: ignore[attr-defined]
        scores[pairs] = found
    return scores.reshape(rows.shape)


class _RunningTopK:
    """The rankings over the blocks so far, as keys [Q, depth], ascending for each query."""

    def __init__(self, queries: NDArray[np.float32], depth: int, select: Selector) -> None:
        self.queries, self.select, self.rows_seen = queries, select, 0
        self.query_norms = _norms(queries, 0, "query")
        self.keys = np.full((len(queries), depth), NOTHING)

    def add(self, block: NDArray[Any]) -> None:
        """Rank the next block [B, D] of the corpus among the passages before it."""
        dim = self.queries.shape[1]
        if block.shape[1] != dim:
            raise UserError(f"queries have {dim} dimensions, passages {block.shape[1]}: they are by two models.")
        block = np.ascontiguousarray(block, np.float32)
        if len(self.queries) < FEWEST_FOR_PRODUCT:
            self._add_all(block)
        elif len(block):
            self._add_candidates(block)
        self.rows_seen += len(block)

    def ranking(self) -> tuple[Scores, Rows]:
        """Return scores and rows of the rankings so far."""
        keys = self.keys[:, : self.rows_seen]
        scores, rows = np.empty(keys.shape, np.float32), np.empty(keys.shape, np.int64)
        for first in range(0, len(keys), 64):  # few queries at a time keep temporary arrays small
            part = slice(first, first + 64)
            scores[part], rows[part] = unpack_scores(keys[part]), unpack_rows(keys[part])
        return scores, rows

    def _add_all(self, block: NDArray[np.float32]) -> None:
        queries = np.arange(len(self.queries))
        for first in range(0, len(block), ROWS_AT_ONCE):
            rows = np.arange(first, min(first + ROWS_AT_ONCE, len(block)))
            self._merge(queries, block, np.tile(rows, (len(queries), 1)))

    def _add_candidates(self, block: NDArray[np.float32]) -> None:
        # Two float32 sums of the same D products differ by at most D * eps * |query| * |passage|, whatever their order:
        # a score lies at most that far from the block product ("rough score") of the pair.
        errors = block.shape[1] * np.finfo(np.float32).eps * self.query_norms
        errors *= _norms(block, self.rows_seen, "passage").max()
        k = min(self.keys.shape[1] + SLACK, len(block))
        for first in range(0, len(self.queries), QUERIES_AT_ONCE):
            rough, rows = self.select(self.queries[first : first + QUERIES_AT_ONCE], block, k)
            queries = np.arange(first, first + len(rows))
            self._merge_candidates(queries, block, rough, rows, errors[queries])

    def _merge_candidates(
        self, queries: Rows, block: NDArray[np.float32], rough: Scores, rows: Rows, errors: NDArray[np.float32]
    ) -> None:
        """Merge candidates [q, k] of some queries, rough scores descending, and what rounding may have left out.

        Example: depth 2, errors of 0.1, and a ranking with the scores 9.0 and 7.0 so far. The candidates' rough scores
        are 8.0, 6.95 and 6.8. The threshold is 7.0 - 0.1 = 6.9, so 8.0 and 6.95 are scored: 8.0 enters, and the
        threshold rises to 7.9. Rows that are not candidates have rough scores of at most 6.8: none can enter.
        """
        # 1. Score and merge the candidates that may enter the ranking, and nothing of queries that have none.
        rows[rough < self._threshold(queries, errors)[:, None]] = -1
        some = rows[:, 0] >= 0
        self._merge(queries[some], block, rows if some.all() else rows[some])
        # 2. Done, if every row of the block was a candidate.
        if rows.shape[1] == len(block):
            return
        # 3. The rough scores of all other rows are at most the last candidate's. Where even that is below the new
        #    threshold, none of them can enter. Otherwise rescan the whole block for this query.
        threshold = self._threshold(queries, errors)
        for i in np.flatnonzero(rough[:, -1] >= threshold):
            may_enter = block @ self.queries[queries[i]] >= threshold[i]
            may_enter[rows[i][rows[i] >= 0]] = False
            others = np.flatnonzero(may_enter)
            for first in range(0, len(others), PAIRS_AT_ONCE):
                self._merge(queries[i : i + 1], block, others[None, first : first + PAIRS_AT_ONCE])

    def _threshold(self, queries: Rows, errors: NDArray[np.float32]) -> Scores:
        """Return the rough score from which a passage may enter each query's ranking."""
        threshold: Scores = unpack_scores(self.keys[queries, -1]) - errors
        return threshold

    def _merge(self, queries: Rows, block: NDArray[np.float32], rows: Rows) -> None:
        """Merge rows [q, R] of the block into the rankings of some queries; -1 is ignored, a row appears once."""
        all_scores = score_pairs(self.queries[queries], block, rows)
        step = max(1, PAIRS_AT_ONCE // rows.shape[1])
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            self._merge_scores(queries[part], block, rows[part], all_scores[part])

    def _merge_scores(self, queries: Rows, block: NDArray[np.float32], rows: Rows, scores: Scores) -> None:
        if len(bad := np.argwhere((rows >= 0) & ~np.isfinite(scores))):
            query, row = queries[bad[0, 0]], rows[tuple(bad[0])]
            _refuse("passage", self.rows_seen + row, self.queries[query], block[row])
        before = self.keys[queries]
        better = (scores >= unpack_scores(before[:, -1:])).any(0)
        new = pack_keys(scores[:, better], self.rows_seen + rows[:, better])
        merged = np.partition(np.concatenate([before, new], 1), before.shape[1] - 1, 1)
        self.keys[queries] = np.sort(merged[:, : before.shape[1]], 1)


def _norms(vectors: NDArray[np.float32], first_row: int, what: str) -> NDArray[np.float32]:
    """Return upper bounds of the norms, close to them; they hold even if squares are too small for float32."""
    underflow = vectors.shape[1] * np.finfo(np.float32).tiny
    squares = np.empty(len(vectors), np.float32)
    arrays = faiss.swig_ptr(squares), faiss.swig_ptr(vectors)
    faiss.fvec_norms_L2sqr(*arrays, vectors.shape[1], len(vectors))  # type: ignore[attr-defined]
    norms: NDArray[np.float32] = np.sqrt(squares + underflow)
    if not np.isfinite(norms).all():
        row = np.flatnonzero(~np.isfinite(norms))[0]
        _refuse(what, first_row + row, vectors[row])
    return norms


def _refuse(what: str, row: int, *vectors: NDArray[np.float32]) -> None:
    if all(np.isfinite(vector).all() for vector in vectors):
        raise UserError(
            f"the embedding of {what} row {row} is so long that scores are too large for 32-bit numbers. "
            "Use a model with normalize=true, and encode queries and passages again."
        )
    raise UserError(f"the embedding of {what} row {row} is not finite. Encode it again in 32-bit precision.")
