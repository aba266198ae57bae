"""Every selector leads to the same rankings, bit for bit."""

from functools import partial

import numpy as np
import pytest
import torch

from dpr_lightning.retrieval import candidates
from dpr_lightning.retrieval.candidates import choose_selector, select_candidates_faiss, select_candidates_torch
from dpr_lightning.retrieval.topk import topk_inner_product


def near_ties(dtype):
    rng = np.random.default_rng(7)
    passages = rng.standard_normal((1200, 48)).astype(dtype)
    passages[1::3] = passages[::3]
    passages[2::3] = np.nextafter(passages[::3], dtype(9))
    return rng.standard_normal((70, 48)).astype(np.float32), passages


def ranked(queries, passages, select):
    scores, rows = topk_inner_product(queries, np.split(passages, [500]), depth=60, select=select)
    return scores.tobytes(), rows.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_torch_gives_the_rankings_of_faiss(dtype):
    queries, passages = near_ties(dtype)
    assert ranked(queries, passages, partial(select_candidates_torch, device="cpu")) == ranked(
        queries, passages, select_candidates_faiss
    )


@pytest.mark.parametrize("products", [1, 70 * 33, 70 * 900])
def test_torch_selects_the_largest_for_any_division_of_a_block(monkeypatch, products):
    queries, passages = near_ties(np.float32)
    monkeypatch.setattr(candidates, "_NUMBERS_AT_ONCE", products)
    scores, rows = select_candidates_torch(queries, passages[:900], 50, device="cpu")
    expected, _ = select_candidates_faiss(queries, passages[:900], 50)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, passages[rows]), rtol=1e-4, atol=1e-5)
    assert (np.diff(np.sort(rows, 1), axis=1) > 0).all()


@pytest.fixture
def low_precision():
    """A precision that a program may have set before it searches."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_torch_leaves_its_precision_as_it_was(low_precision):
    select_candidates_torch(*near_ties(np.float32), 5, device="cpu")
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_rankings_of_the_cpu(low_precision):
    assert choose_selector(70, 76) is not select_candidates_faiss
    for dtype in (np.float32, np.float16):
        queries, passages = near_ties(dtype)
        products, rows = select_candidates_torch(queries, passages.astype(np.float32), 5)
        np.testing.assert_allclose(products, np.einsum("qd,qkd->qk", queries, passages[rows]), rtol=1e-5, atol=1e-5)
        for select in (select_candidates_torch, choose_selector(70, 76)):
            assert ranked(queries, passages, select) == ranked(queries, passages, select_candidates_faiss)
