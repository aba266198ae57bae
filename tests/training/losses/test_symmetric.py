"""The symmetric loss against plain loops in both directions."""

import pytest
import torch

from dpr_lightning.data.collate import Batch
from dpr_lightning.training.losses.in_batch import InBatchLoss
from dpr_lightning.training.losses.symmetric import SymmetricLoss


@pytest.mark.parametrize("masked", [True, False])
def test_it_is_the_mean_of_both_directions_without_known_positives(masked):
    torch.manual_seed(0)
    queries, passages = torch.randn(3, 4), torch.randn(6, 4)
    docids, known = torch.tensor([10, 11, 20, 21, 30, 31]), torch.tensor([[10, 30], [20, -1], [30, -1]])
    batch = Batch({}, {}, torch.tensor([0, 2, 4]), docids, known, torch.tensor([]))
    options = {"temperature": 0.5, "mask_known_positives": masked}
    backward = []
    for positive in range(3):  # passage 30 of question 2 is a positive of question 0, too
        others = [q for q in range(3) if not (masked and (positive, q) == (2, 0))]
        scores = {q: float(queries[q] @ passages[2 * positive]) / 0.5 for q in others}
        backward.append(torch.tensor(list(scores.values())).logsumexp(0).item() - scores[positive])
    forward = InBatchLoss(**options)(queries, passages, batch).item()
    found = SymmetricLoss(**options)(queries, passages, batch).item()
    assert found == pytest.approx((forward + sum(backward) / 3) / 2, rel=1e-5)
