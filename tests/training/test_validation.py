"""Ranking in the pool of all dev passages, against a restatement in plain loops."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpr_lightning.training.validation import PoolRanking


def naive_ranks(batches):
    """Small whole numbers as vectors: products are exact, and ties are frequent."""
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
def test_ranks_equal_the_naive_ones_with_repeated_passages_and_ties(data):
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


def test_more_questions_than_one_chunk_are_all_ranked():
    count = 300
    metric = PoolRanking()
    vectors = torch.eye(count)
    metric.update(vectors, vectors, torch.arange(count).flip(0), torch.arange(count))  # each positive scores 0
    ranks = torch.full((count,), float(count)).double()
    assert metric.compute()["mean_rank"] == ranks.mean()
