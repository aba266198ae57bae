"""Exact search equals a naive float64 reference, however the corpus is cut."""

import math

import faiss
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.topk import topk_inner_product


def reference(queries, passages, depth):
    """Sorts all passages by (score descending, row ascending); each score is the exact sum, rounded once to float32."""
    scores = np.empty((len(queries), len(passages)), np.float32)
    for i, query in enumerate(queries.tolist()):
        for row, passage in enumerate(passages.tolist()):
            scores[i, row] = math.fsum(a * b for a, b in zip(query, passage, strict=True))
    rows = [sorted(range(len(passages)), key=lambda row: (-one[row], row))[:depth] for one in scores]
    return np.take_along_axis(scores, np.array(rows), 1), np.array(rows)


def cut(passages, places):
    return np.split(passages, sorted(place % (len(passages) + 1) for place in places))


def assert_same(found, expected):
    assert found[0].dtype == np.float32
    assert found[1].dtype == np.int64
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[0].tobytes() == expected[0].astype(np.float32).tobytes()


@st.composite
def worlds(draw):
    """Queries, passages of which many are equal or differ in their last bits only, depth, cuts.

    All numbers are multiples of 2**-23 below 2, so that sums of products are exact in float64.
    """
    dim = draw(st.integers(1, 8))
    kind = draw(st.sampled_from(["integers", "near ties", "float16"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_passages, num_queries = draw(st.integers(1, 120)), draw(st.integers(1, 4))
    if kind == "integers":
        queries, passages = rng.integers(-2, 3, (num_queries, dim)), rng.integers(-2, 3, (num_passages, dim))
    else:
        few = rng.integers(-(2**23), 2**23, (draw(st.integers(1, 3)), dim))
        passages = few[rng.integers(0, len(few), num_passages)] + rng.integers(-1, 2, (num_passages, dim))
        queries = rng.integers(-(2**23), 2**23, (num_queries, dim)) * 2.0**-23
        passages = passages * 2.0**-23
    dtype = np.float16 if kind == "float16" else np.float32
    depth = draw(st.one_of(st.integers(1, 12), st.integers(1, 150)))
    places = draw(st.lists(st.integers(0, 200), max_size=6))
    return queries.astype(np.float32), passages.astype(dtype), depth, places


@settings(max_examples=150, deadline=None)
@given(worlds())
@example((np.zeros((1, 3), np.float32), np.zeros((60, 3), np.float32), 4, [20, 20, 40]))
def test_scores_and_order_are_those_of_a_full_sort(world):
    queries, passages, depth, places = world
    expected = reference(queries, passages, depth)
    assert_same(topk_inner_product(queries, cut(passages, places), depth=depth), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_bits_do_not_depend_on_cuts_queries_or_threads(dtype):
    rng = np.random.default_rng(1)
    passages = rng.standard_normal((900, 96)).astype(dtype)
    passages[1::3] = passages[::3]
    passages[2::3] = np.nextafter(passages[::3], dtype(9))
    queries = rng.standard_normal((24, 96)).astype(np.float32)
    whole = topk_inner_product(queries, [passages], depth=50)
    threads = faiss.omp_get_max_threads()
    try:
        for number in (1, 2):
            faiss.omp_set_num_threads(number)
            for size in (1, 7, 64, 299):
                blocks = [passages[first : first + size] for first in range(0, 900, size)]
                assert_same(topk_inner_product(queries[:3], blocks, depth=50), (whole[0][:3], whole[1][:3]))
            assert_same(topk_inner_product(queries, np.split(passages, [1, 512, 800]), depth=50), whole)
    finally:
        faiss.omp_set_num_threads(threads)
    assert len(np.unique(whole[0][0])) > 10


def hidden_by_rounding(scores, rng):
    """Vectors [P, 64] whose sums are `scores`, among addends so large that float32 sums are rounded to quarters."""
    large = rng.integers(2**19, 2**21, (len(scores), 31)).astype(np.float32)
    addends = np.concatenate([large, -large, scores[:, None], np.zeros((len(scores), 1))], 1).astype(np.float32)
    return addends[:, rng.permutation(64)]


@pytest.mark.parametrize("block", [10, 150, 400])
def test_scores_that_a_float32_product_confuses_are_told_apart(block):
    rng = np.random.default_rng(2)
    passages = hidden_by_rounding((rng.permutation(400) + 220) / 1024, rng)
    queries = np.ones((3, 64), np.float32)
    found = topk_inner_product(queries, np.split(passages, range(block, 400, block)), depth=40)
    assert_same(found, reference(queries, passages, 40))
    assert (found[0] == np.arange(619, 579, -1) / 1024).all()


def test_a_passage_that_rounding_keeps_out_of_its_block_s_candidates_is_found():
    """In each block one passage beats all before it, but like its 199 neighbours it rounds to a half."""
    rng = np.random.default_rng(4)
    scores = np.full((40, 200), 0.4)
    scores[np.arange(40), rng.integers(0, 200, 40)] = 0.58 + np.arange(40) / 1024
    scores = scores.astype(np.float32).ravel()
    passages = hidden_by_rounding(scores, rng)
    found, rows = topk_inner_product(np.ones((1, 64), np.float32), np.split(passages, 40), depth=20)
    assert found[0].tolist() == np.sort(scores)[:-21:-1].tolist()
    assert scores[rows[0]].tolist() == found[0].tolist()


def test_vectors_whose_squares_underflow_are_ranked_exactly():
    rng = np.random.default_rng(3)
    queries = (rng.standard_normal((2, 64)) * 1e-24).astype(np.float32)
    base = rng.standard_normal(64).astype(np.float32)
    passages = (base + rng.integers(-1, 2, (500, 64)) * np.spacing(base)).astype(np.float32)
    assert_same(topk_inner_product(queries, np.split(passages, [77, 300]), depth=10), reference(queries, passages, 10))


def test_depth_beyond_the_corpus_gives_every_passage_once():
    passages = np.eye(5, dtype=np.float32)
    scores, rows = topk_inner_product(np.ones((2, 5), np.float32), [passages[:2], passages[2:]], depth=1000)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert scores.tolist() == [[1.0] * 5] * 2


def test_scores_far_below_zero_are_found():
    scores, rows = topk_inner_product(-np.ones((1, 2), np.float32), [np.full((3, 2), 1e18, np.float32)], depth=2)
    assert rows.tolist() == [[0, 1]]
    assert (scores < -1e18).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_by_its_corpus_row(bad):
    passages = np.zeros((10, 2), np.float32)
    passages[7, 1] = bad
    with pytest.raises(UserError, match="passage row 7 is not finite"):
        topk_inner_product(np.ones((1, 2), np.float32), np.split(passages, [4]), depth=1)
    with pytest.raises(UserError, match="query row 7 is not finite"):
        topk_inner_product(passages, [np.ones((1, 2), np.float32)], depth=1)


def test_what_cannot_be_searched_is_refused():
    queries = np.ones((1, 3), np.float32)
    with pytest.raises(UserError, match="queries have 3 dimensions, passages 2"):
        topk_inner_product(queries, [np.ones((1, 3), np.float32), np.ones((4, 2), np.float32)], depth=1)
    with pytest.raises(UserError, match="depth: 0 is not at least 1"):
        topk_inner_product(queries, [queries], depth=0)
    with pytest.raises(UserError, match="no passages"):
        topk_inner_product(queries, [np.ones((0, 3), np.float32)], depth=1)
