"""Fusion: weighted sums of scaled scores or of reciprocal ranks, ties by passage."""

import numpy as np
import pytest

from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.fusion import Hybrid, HybridSettings, fuse
from dpr_lightning.retrieval.retriever import Queries, Ranked

DENSE = (["a", "b", "c"], np.array([9, 8, 5], np.float32))
SPARSE = (["b", "d"], np.array([3, 1], np.float32))


def test_scaled_scores_are_added_with_their_weights():
    passages, scores = fuse([DENSE, SPARSE], [0.8, 0.2], fusion="sum", depth=9)
    assert passages == ["a", "b", "c", "d"]
    np.testing.assert_allclose(scores, [0.8, 0.8 * 0.75 + 0.2, 0, 0], rtol=1e-6)


def test_reciprocal_ranks_are_added_with_their_weights():
    passages, scores = fuse([DENSE, SPARSE], [0.5, 0.5], fusion="rrf", depth=3)
    assert passages == ["b", "a", "d"]
    np.testing.assert_allclose(scores, [0.5 / 62 + 0.5 / 61, 0.5 / 61, 0.5 / 62], rtol=1e-6)


@pytest.mark.parametrize("fusion", ["sum", "rrf"])
def test_a_ranking_with_all_weight_keeps_its_order(fusion):
    assert fuse([DENSE, SPARSE], [1, 0], fusion=fusion, depth=2)[0] == ["a", "b"]
    assert fuse([DENSE, SPARSE], [0, 1], fusion=fusion, depth=1)[0] == ["b"]


def test_equal_scores_count_fully_and_nothing_counts_nothing():
    one, none = (["x"], np.array([-3], np.float32)), ([], np.array([], np.float32))
    assert fuse([one, none], [0.5, 0.5], fusion="sum", depth=5)[1].tolist() == [0.5]
    assert fuse([none, none], [0.5, 0.5], fusion="rrf", depth=5)[0] == []


class Fixed:
    """A retriever that has the same ranking for every query, cut at the depth."""

    def __init__(self, rows, scores):
        self.rows, self.tag, self._ranked = 5, "dpr_lightning-abc", (rows, scores)

    def search(self, queries, *, depth):
        rows, scores = (values[:depth] for values in self._ranked)
        for _ in queries.qids:
            yield Ranked(np.array(rows), [f"d{row}" for row in rows], np.array(scores, np.float32))


def test_a_hybrid_fuses_deeper_rankings_than_it_returns():
    dense, sparse = Fixed([0, 1, 2, 3], [4, 3, 2.5, 0]), Fixed([2, 4, 1], [2, 1, 0])
    deep, shallow = (Hybrid(dense, sparse, HybridSettings(weight=0.5, depth=depth)) for depth in (4, 1))
    queries = Queries(["q0", "q1"], texts=["x", "y"])
    for ranked in deep.search(queries, depth=2):
        assert (ranked.rows.tolist(), ranked.docids) == ([2, 0], ["d2", "d0"])
        np.testing.assert_allclose(ranked.scores, [0.5 * 2.5 / 4 + 0.5, 0.5], rtol=1e-6)
    assert [ranked.docids for ranked in shallow.search(queries, depth=1)] == [["d0"], ["d0"]]


def test_impossible_settings_are_refused():
    for values, message in (
        ({"fusion": "max"}, "fusion: 'max' is not possible. Set `fusion` to one of: sum, rrf"),
        ({"weight": 1.5}, "weight: 1.5 is not from 0 to 1"),
        ({"weight": float("nan")}, "weight: nan is not from 0 to 1"),
        ({"depth": 0}, "depth: 0 is not a whole number of at least 1"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            HybridSettings(**values)
