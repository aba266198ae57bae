"""The in-batch loss against plain loops."""

import math

import pytest
import torch

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError
from dpr_lightning.training.losses.in_batch import InBatchLoss, contrastive_loss, known_positives


def naive_loss(queries, passages, targets, temperature=1.0, excluded=()):
    losses = []
    for i, query in enumerate(queries.tolist()):
        scores = [sum(a * b for a, b in zip(query, p, strict=True)) / temperature for p in passages.tolist()]
        kept = [math.exp(s) for j, s in enumerate(scores) if (i, j) not in excluded]
        losses.append(math.log(sum(kept)) - scores[targets[i]])
    return sum(losses) / len(losses)


def batch_of(targets, docids, positives):
    return Batch({}, {}, torch.tensor(targets), torch.tensor(docids), torch.tensor(positives), torch.tensor([]))


@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_loss_and_gradient_equal_the_naive_loops(group, temperature):
    torch.manual_seed(0)
    queries, passages = (torch.randn(4, 5) / 3).requires_grad_(), torch.randn(4 * group, 5) / 3
    targets = [i * group for i in range(4)]
    loss = contrastive_loss(queries, passages, torch.tensor(targets), temperature=temperature)
    assert loss.item() == pytest.approx(naive_loss(queries.detach(), passages, targets, temperature), rel=1e-5)
    loss.backward()
    step = torch.zeros_like(queries)
    step[1, 2] = 1e-2
    with torch.no_grad():
        above, below = (naive_loss(queries + sign * step, passages, targets, temperature) for sign in (1, -1))
    assert queries.grad[1, 2].item() == pytest.approx((above - below) / 2e-2, rel=1e-2, abs=1e-4)


def test_half_precision_embeddings_are_scored_in_float32():
    queries, passages = torch.full((1, 64), 8.0).half(), torch.full((2, 64), 8.0).half()
    passages[1, 0] = 8.0625  # the scores, 4096 and 4096.5, are one number in float16
    loss = contrastive_loss(queries, passages, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(0.5)), rel=1e-4)


def test_scores_are_float32_under_autocast():
    torch.manual_seed(0)
    queries, passages = torch.randn(1, 64), torch.randn(2, 64)
    expected = contrastive_loss(queries, passages, torch.tensor([0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(queries, passages, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert loss.equal(expected)


def test_other_positives_of_a_question_are_not_negatives():
    batch = batch_of([0, 2], [7, 8, 9, 7], [[7, 9], [9, -1]])
    expected = [[False, False, True, True], [False, False, False, False]]
    assert known_positives(batch.targets, batch.docids, batch.positive_docids).tolist() == expected
    torch.manual_seed(0)
    queries, passages = torch.randn(2, 3), torch.randn(4, 3)
    masked = InBatchLoss()(queries, passages, batch).item()
    assert masked == pytest.approx(naive_loss(queries, passages, [0, 2], excluded={(0, 2), (0, 3)}), rel=1e-5)
    unmasked = InBatchLoss(mask_known_positives=False)(queries, passages, batch).item()
    assert unmasked == pytest.approx(naive_loss(queries, passages, [0, 2]), rel=1e-5)


def test_padding_among_positives_matches_no_passage():
    assert not known_positives(torch.tensor([0]), torch.tensor([5, 6]), torch.tensor([[5, -1]])).any()


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_above_zero(temperature):
    with pytest.raises(UserError, match=r"^temperature: .* is not above 0"):
        InBatchLoss(temperature=temperature)
