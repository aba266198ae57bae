"""Fusion of rankings: a weighted sum of normalized scores, or of reciprocal ranks; and a retriever that fuses two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.errors import UserError, check_choice, check_positive
from dpr_lightning.retrieval.retriever import Queries, Ranked, Retriever

FUSIONS = ("sum", "rrf")
_RRF_CONSTANT = 60  # Cormack, Clarke and Buettcher 2009


@dataclass(frozen=True)
class HybridSettings:
    """How dense search and BM25 are fused.

    Attributes:
        fusion: `sum` or `rrf`; see `fuse`.
        weight: The weight of dense search, from 0 to 1; BM25 has the rest.
        depth: The number of passages of each that are fused.
    """

    fusion: str = "sum"
    weight: float = 0.5
    depth: int = 1000

    def __post_init__(self) -> None:
        """Raise UserError if a value is not possible."""
        check_choice(self.fusion, "fusion", FUSIONS)
        if not 0 <= self.weight <= 1:
            raise UserError(f"weight: {self.weight} is not from 0 to 1. Correct `weight`.")
        check_positive(self.depth, "depth")

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of dense search and of BM25."""
        return self.weight, 1 - self.weight


def fuse(
    rankings: Sequence[tuple[Sequence[Any], NDArray[np.float32]]], weights: Sequence[float], *, fusion: str, depth: int
) -> tuple[list[Any], NDArray[np.float32]]:
    """Return the `depth` best passages of one query's fused rankings, and their scores.

    `sum` adds the scores of each ranking after scaling them linearly so that its first passage has 1 and its last has 0
    (if all are equal, each has 1). `rrf` adds 1 / (60 + rank). Both multiply by the ranking's weight; a passage that a
    ranking lacks gets nothing from it. Ties rank by passage, ascending.

    Args:
        rankings: Of each ranking, the passages (docids or rows), best first, and their scores [depth].
        weights: The weight of each ranking.
        fusion: `sum` or `rrf`.
        depth: The number of passages to return, at most.
    """
    total: dict[Any, float] = {}
    for (passages, scores), weight in zip(rankings, weights, strict=True):
        points = 1 / (_RRF_CONSTANT + np.arange(1, len(passages) + 1)) if fusion == "rrf" else _scaled(scores)
        for passage, point in zip(passages, (weight * points).tolist(), strict=True):
            total[passage] = total.get(passage, 0.0) + point
    passages = sorted(total)
    fused = np.array([total[passage] for passage in passages], np.float32)
    best = np.argsort(-fused, kind="stable")[:depth]
    return [passages[i] for i in best], fused[best]


class Hybrid:
    """Search by two retrievers of one corpus, fused."""

    def __init__(self, dense: Retriever, sparse: Retriever, settings: HybridSettings) -> None:
        """Fuse dense search and BM25."""
        self._retrievers, self._settings = (dense, sparse), settings
        self.rows = dense.rows
        self.tag = f"hybrid-{dense.tag.rpartition('-')[2]}"

    def search(self, queries: Queries, *, depth: int) -> Iterator[Ranked]:
        """Yield the `depth` best passages of each query. Queries have embeddings and texts."""
        settings = self._settings
        searched = max(depth, settings.depth)
        for ranked in zip(*(one.search(queries, depth=searched) for one in self._retrievers), strict=True):
            rankings = [(one.rows.tolist(), one.scores) for one in ranked]
            rows, scores = fuse(rankings, settings.weights, fusion=settings.fusion, depth=depth)
            docids = {row: docid for one in ranked for row, docid in zip(one.rows.tolist(), one.docids, strict=True)}
            yield Ranked(np.array(rows, np.int64), [docids[row] for row in rows], scores)


def _scaled(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return descending scores [depth] scaled linearly to [0, 1]."""
    if not len(scores):
        return np.zeros(0)
    values = scores.astype(np.float64)
    spread = values[0] - values[-1]
    return (values - values[-1]) / spread if spread > 0 else np.ones(len(values))
