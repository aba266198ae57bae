"""Exact scores and ranks of single passages among all, however deep the ranking is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.embeddings.shards import ShardedEmbeddings
from dpr_lightning.retrieval.topk import ROWS_AT_ONCE, score_pairs

Scores = NDArray[np.float32]


class Place(NamedTuple):
    """The rank of a passage, from 1, and its score."""

    rank: int
    score: float


def best_rows(query: NDArray[Any], passages: ShardedEmbeddings, rows: list[int], count: int) -> list[int]:
    """Return the `count` corpus rows with the best scores, best first, of some ascending `rows`."""
    scores = np.concatenate(
        [
            _scores(query, passages.gather(np.array(rows[first : first + ROWS_AT_ONCE])))
            for first in range(0, len(rows), ROWS_AT_ONCE)
        ]
    )
    return [rows[i] for i in np.argsort(-scores, kind="stable")[:count]]


def exact_places(query: NDArray[Any], passages: ShardedEmbeddings, rows: list[int]) -> dict[int, Place]:
    """Return the places of corpus rows among all passages, with the scores and the order of an exact search.

    One block of passages is in memory at a time.

    Args:
        query: The embedding [dim] of the query.
        passages: The corpus.
        rows: Corpus rows, each once.
    """
    ascending = sorted(rows)
    own = dict(zip(ascending, _scores(query, passages.gather(np.array(ascending))), strict=True)) if rows else {}
    above, first = dict.fromkeys(rows, 0), 0
    for block in passages.blocks(ROWS_AT_ONCE) if rows else ():
        scores = _scores(query, block)
        for row, score in own.items():
            above[row] += _count_above(scores, score, before=row - first)
        first += len(block)
    return {row: Place(above[row] + 1, float(own[row])) for row in rows}


def place_among(scores: Scores, row: int) -> Place:
    """Return the place of a row among the scores [rows] of all passages; equal scores rank by row."""
    return Place(1 + _count_above(scores, scores[row], before=row), float(scores[row]))


def _count_above(scores: Scores, score: np.float32, *, before: int) -> int:
    """Return the number of rows that rank above a passage of this score, which row `before` is, or would be."""
    return int((scores > score).sum() + (scores[: max(0, before)] == score).sum())


def _scores(query: NDArray[Any], passages: NDArray[Any]) -> Scores:
    """Return the scores [rows] of passages [rows, dim], those that an exact search gives them."""
    vectors = np.ascontiguousarray(passages, np.float32)
    scores: Scores = score_pairs(np.asarray(query, np.float32)[None], vectors, np.arange(len(vectors))[None])[0]
    return scores
