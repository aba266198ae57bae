"""The learning rate of each step."""

import pytest
import torch

from dpr_lightning.errors import UserError
from dpr_lightning.training.schedule import linear_warmup


def rates(total, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8.0)
    schedule = linear_warmup(optimizer, total_steps=total, warmup=warmup)
    found = []
    for _ in range(total + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warmup", [4, 0.25, 0.2])  # 0.2 of 16 steps is 3.2, rounded up
def test_it_rises_from_zero_and_falls_to_zero(warmup):
    rising = [0.0, 2.0, 4.0, 6.0]
    assert rates(16, warmup) == pytest.approx(rising + [8 * (16 - step) / 12 for step in range(4, 17)])


def test_no_warmup_starts_at_the_full_rate():
    assert rates(4, 0) == pytest.approx([8.0, 6.0, 4.0, 2.0, 0.0])


def test_a_negative_warmup_is_refused():
    with pytest.raises(UserError, match=r"^warmup: -1 is negative"):
        rates(4, -1)
