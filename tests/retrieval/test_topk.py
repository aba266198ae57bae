"""Exact search equals a naive reference for any division of the corpus into blocks."""

import math

import faiss
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpr_lightning.errors import UserError
from dpr_lightning.retrieval import candidates
from dpr_lightning.retrieval.candidates import select_candidates_faiss
from dpr_lightning.retrieval.topk import FEWEST_FOR_PRODUCT, SLACK, score_pairs, topk_inner_product


def reference(queries, passages, depth):
    """Score each pair by itself, then sort by (score descending, row ascending)."""
    scores = np.empty((len(queries), len(passages)), np.float32)
    for i, j in np.ndindex(scores.shape):
        pair = queries[i : i + 1], passages[j : j + 1].astype(np.float32)
        scores[i, j] = score_pairs(*pair, np.zeros((1, 1), int))[0, 0]
    rows = [sorted(range(len(passages)), key=lambda row: (-one[row], row))[:depth] for one in scores]
    return np.take_along_axis(scores, np.array(rows), 1), np.array(rows)


def few_and_many(queries):
    """The queries once, few enough to be scored with every passage, and repeated until candidates are selected."""
    assert len(queries) < FEWEST_FOR_PRODUCT
    return [queries, np.tile(queries, (-(-FEWEST_FOR_PRODUCT // len(queries)), 1))]


def divide(passages, bounds):
    return np.split(passages, sorted(bound % (len(passages) + 1) for bound in bounds))


def assert_same(result, expected):
    assert result[0].dtype == np.float32
    assert result[1].dtype == np.int64
    np.testing.assert_array_equal(result[1], expected[1])
    assert result[0].tobytes() == expected[0].astype(np.float32).tobytes()


@st.composite
def worlds(draw):
    """Queries, passages with many (nearly) equal, depth, block bounds; all scores are exact in float32."""
    dim = draw(st.integers(1, 8))
    kind = draw(st.sampled_from(["integers", "near ties", "float16"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_passages, num_queries = draw(st.integers(1, 120)), draw(st.integers(1, 4))
    if kind == "integers":
        queries, passages = rng.integers(-2, 3, (num_queries, dim)), rng.integers(-2, 3, (num_passages, dim))
    else:
        few = rng.integers(-(2**8), 2**8, (draw(st.integers(1, 3)), dim))
        passages = (few[rng.integers(0, len(few), num_passages)] + rng.integers(-1, 2, (num_passages, dim))) * 2.0**-8
        queries = rng.integers(-(2**8), 2**8, (num_queries, dim)) * 2.0**-8
    dtype = np.float16 if kind == "float16" else np.float32
    depth = draw(st.one_of(st.integers(1, 12), st.integers(1, 150)))
    bounds = draw(st.lists(st.integers(0, 200), max_size=6))
    return queries.astype(np.float32), passages.astype(dtype), depth, bounds


@settings(max_examples=150, deadline=None)
@given(worlds())
@example((np.zeros((1, 3), np.float32), np.zeros((60, 3), np.float32), 4, [20, 20, 40]))
def test_scores_and_order_are_those_of_a_full_sort(world):
    queries, passages, depth, bounds = world
    for asked in few_and_many(queries):
        exact = asked.astype(np.float64) @ passages.T.astype(np.float64)
        rows = np.argsort(-exact, axis=1, kind="stable")[:, :depth]
        expected = np.take_along_axis(exact, rows, 1) + 0.0, rows
        assert_same(topk_inner_product(asked, divide(passages, bounds), depth=depth), expected)


@pytest.mark.parametrize("dim", [1, 3, 8, 31, 384, 770])
def test_a_pair_scores_the_same_everywhere_and_near_the_exact_sum(dim):
    rng = np.random.default_rng(6)
    queries, passages = rng.standard_normal((3, dim), np.float32), rng.standard_normal((40, dim), np.float32)
    whole = score_pairs(queries, passages, np.tile(np.arange(40), (3, 1)))
    exact = [[math.fsum(a * b for a, b in zip(q, p, strict=True)) for p in passages.tolist()] for q in queries.tolist()]
    np.testing.assert_allclose(whole, exact, rtol=1e-5, atol=1e-5)
    unaligned = np.empty(40 * dim + 1, np.float32)[1:].reshape(40, dim)
    unaligned[:] = passages
    for count in (1, 2, 3, 5, 39):
        rows = np.stack([rng.permutation(40)[:count] for _ in range(3)])
        rows[:, -1] = -1
        found = score_pairs(queries, unaligned, rows)
        np.testing.assert_array_equal(found[:, :-1], np.take_along_axis(whole, rows[:, :-1], 1))
        assert (found[:, -1] == -np.inf).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_bits_do_not_depend_on_blocks_queries_or_threads(monkeypatch, dtype):
    monkeypatch.setattr(candidates, "_FEWEST_PER_THREAD", 5)
    rng = np.random.default_rng(1)
    passages = rng.standard_normal((900, 96)).astype(dtype)
    passages[1::3] = passages[::3]
    passages[2::3] = np.nextafter(passages[::3], dtype(9))
    queries = rng.standard_normal((24, 96)).astype(np.float32)
    whole = topk_inner_product(queries, [passages], depth=50)
    threads = faiss.omp_get_max_threads()
    try:
        for number in (1, 2, 3):
            faiss.omp_set_num_threads(number)
            for size in (1, 7, 64, 299):
                blocks = [passages[first : first + size] for first in range(0, 900, size)]
                assert_same(topk_inner_product(queries[:3], blocks, depth=50), (whole[0][:3], whole[1][:3]))
            assert_same(topk_inner_product(queries, np.split(passages, [1, 512, 800]), depth=50), whole)
    finally:
        faiss.omp_set_num_threads(threads)
    assert len(np.unique(whole[0][0])) > 10


def hidden_by_rounding(rng):
    """400 vectors of 256 numbers whose sum is below 1, with addends so large that a float32 sum is mostly error."""
    large = rng.integers(2**19, 2**21, (400, 127)).astype(np.float32)
    small = (rng.permutation(400)[:, None] + 220) / 1024
    return np.concatenate([large, -large, small, 0 * small], 1).astype(np.float32)[:, rng.permutation(256)]


@pytest.mark.parametrize("block", [10, 150, 400])
def test_passages_dropped_by_rounding_are_recovered(block):
    queries, left_out = np.ones((25, 256), np.float32), 0
    for seed in range(6):
        passages = hidden_by_rounding(np.random.default_rng(seed))
        expected = reference(queries[:1], passages, 40)
        left_out += len(set(expected[1][0]) - set(select_candidates_faiss(queries, passages, 40 + SLACK)[1][0]))
        for asked in (queries[:1], queries):
            found = topk_inner_product(asked, np.split(passages, range(block, 400, block)), depth=40)
            assert_same(found, [np.repeat(part, len(asked), 0) for part in expected])
    assert left_out > 0


def test_vectors_whose_squares_underflow_are_ranked():
    rng = np.random.default_rng(3)
    queries = (rng.standard_normal((2, 64)) * 1e-24).astype(np.float32)
    base = rng.standard_normal(64).astype(np.float32)
    passages = (base + rng.integers(-1, 2, (500, 64)) * np.spacing(base)).astype(np.float32)
    for asked in few_and_many(queries):
        expected = reference(asked, passages, 10)
        assert_same(topk_inner_product(asked, np.split(passages, [77, 300]), depth=10), expected)


def test_depth_beyond_the_corpus_gives_every_passage_once():
    passages = np.eye(5, dtype=np.float32)
    scores, rows = topk_inner_product(np.ones((2, 5), np.float32), [passages[:2], passages[2:]], depth=1000)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert scores.tolist() == [[1.0] * 5] * 2


def test_scores_far_below_zero_are_ranked():
    for queries in few_and_many(-np.ones((1, 2), np.float32)):
        scores, rows = topk_inner_product(queries, [np.full((3, 2), 1e18, np.float32)], depth=2)
        assert rows.tolist() == [[0, 1]] * len(queries)
        assert (scores < -1e18).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_embedding_that_is_not_finite_is_named_by_its_row(bad):
    passages = np.zeros((10, 2), np.float32)
    passages[7, 1] = bad
    for queries in few_and_many(np.ones((1, 2), np.float32)):
        with pytest.raises(UserError, match="passage row 7 is not finite"):
            topk_inner_product(queries, np.split(passages, [4]), depth=1)
    with pytest.raises(UserError, match="query row 7 is not finite"):
        topk_inner_product(passages, [np.ones((1, 2), np.float32)], depth=1)


def test_embeddings_whose_scores_overflow_are_told_from_those_not_finite():
    passages, query = np.full((10, 2), 1e15, np.float32), np.full((1, 2), 1e18, np.float32)
    passages[7] = 1e22
    for queries in few_and_many(query):
        with pytest.raises(UserError, match=r"passage row 7 is so long that scores .* normalize=true"):
            topk_inner_product(queries, [passages], depth=1)
        with pytest.raises(UserError, match="query row 0 is so long that scores"):
            topk_inner_product(queries * np.float32(1e10), [passages], depth=1)


def test_impossible_searches_are_refused():
    queries = np.ones((1, 3), np.float32)
    with pytest.raises(UserError, match="queries have 3 dimensions, passages 2"):
        topk_inner_product(queries, [np.ones((1, 3), np.float32), np.ones((4, 2), np.float32)], depth=1)
    with pytest.raises(UserError, match="depth: 0 is not a whole number of at least 1"):
        topk_inner_product(queries, [queries], depth=0)
    with pytest.raises(UserError, match="no passages"):
        topk_inner_product(queries, [np.ones((0, 3), np.float32)], depth=1)
