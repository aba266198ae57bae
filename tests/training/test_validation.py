"""Ranks in the pool of all dev passages, against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.metrics import logged

from dpr_lightning.training.validation import PoolRanking


def naive_ranks(batches):
    """Return ranks computed by loops; vectors of small whole numbers give exact products and many ties."""
    pool = {d: p for _, passages, _, docids in batches for p, d in zip(passages, docids, strict=True)}
    ranks = []
    for queries, passages, targets, docids in batches:
        for query, target in zip(queries, targets, strict=True):

            def score(passage, query=query):
                return sum(a * b for a, b in zip(query, passage, strict=True))

            own = score(passages[target])
            ranks.append(1 + sum(score(p) >= own for d, p in pool.items() if d != docids[target]))
    return ranks


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_equal_naive_ones_with_repeated_passages_and_ties(data):
    vector = st.lists(st.integers(-2, 2), min_size=2, max_size=2)
    corpus = data.draw(st.lists(vector, min_size=3, max_size=8))
    batches = []
    for _ in range(data.draw(st.integers(1, 3))):
        queries = data.draw(st.lists(vector, min_size=1, max_size=3))
        groups = [data.draw(st.permutations(range(len(corpus))))[:2] for _ in queries]
        docids = [docid for group in groups for docid in group]
        batches.append((queries, [corpus[d] for d in docids], [2 * i for i in range(len(queries))], docids))
    metric = PoolRanking()
    for queries, passages, targets, docids in batches:
        metric.update(torch.tensor(queries), torch.tensor(passages), torch.tensor(targets), torch.tensor(docids))
    found = {name: value.item() for name, value in metric.compute().items()}
    ranks = naive_ranks(batches)
    assert found == {
        "mean_rank": torch.tensor(ranks).double().mean().item(),
        "accuracy": torch.tensor([r == 1 for r in ranks]).double().mean().item(),
        "mrr": (1 / torch.tensor(ranks).double()).mean().item(),
    }


def test_all_questions_beyond_one_chunk_are_ranked():
    count = 300
    metric = PoolRanking()
    vectors = torch.eye(count)
    metric.update(vectors, vectors, torch.arange(count).flip(0), torch.arange(count))  # each positive scores 0
    ranks = torch.full((count,), float(count)).double()
    assert metric.compute()["mean_rank"] == ranks.mean()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("broken", ["queries", "positive", "everything"])
def test_scores_that_are_not_finite_rank_the_positive_last(value, broken):
    queries, passages = torch.ones(1, 2), torch.ones(5, 2)
    passages[0] = 2  # the positive would be the first
    for tensor in {"queries": [queries], "positive": [passages[:1]], "everything": [queries, passages]}[broken]:
        tensor.fill_(value)
    metric = PoolRanking()
    metric.update(queries, passages, torch.tensor([0]), torch.arange(5))
    assert {name: value.item() for name, value in metric.compute().items()} == {
        "mean_rank": 5,
        "accuracy": 0,
        "mrr": pytest.approx(1 / 5),
    }


def test_a_passage_with_nan_counts_against_the_positive():
    passages = torch.ones(5, 2)
    passages[0], passages[3] = 2, torch.nan
    metric = PoolRanking()
    metric.update(torch.ones(1, 2), passages, torch.tensor([0]), torch.arange(5))
    assert metric.compute()["mean_rank"] == 2


def test_dev_negatives_enlarge_the_pool(command, settings, tmp_path):
    """Without them, the pool has the positives of the 8 dev questions alone."""
    ranks = {}
    for negatives in (0, 30):
        run = f"run_dir={tmp_path}/{negatives}"
        code, _, err = command("train", *settings, run, f"data.dev_negatives={negatives}")
        assert code == 0, err
        ranks[negatives] = logged(tmp_path / str(negatives), "val/mean_rank")[0]
    assert ranks[0] < ranks[30]
    assert command("train", *settings)[0] == 0
    assert logged(tmp_path / "run", "val/mean_rank")[0] == ranks[30], "the recipe has another value"
