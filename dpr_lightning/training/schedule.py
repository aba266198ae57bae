"""Learning rate schedule."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_linear_schedule_with_warmup

from dpr_lightning.errors import UserError


def linear_warmup(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.1) -> LambdaLR:
    """Return a schedule that rises linearly from 0 to the optimizer's rate and then falls linearly to 0.

    Args:
        optimizer: The optimizer whose rate is scheduled.
        total_steps: The step at which the rate is 0 again.
        warmup: If below 1, a fraction of the steps (rounded up, as Tevatron v1 did); from 1 on, a number of steps.

    Raises:
        UserError: `warmup` is negative.
    """
    if warmup < 0:
        raise UserError(f"warmup: {warmup} is negative. Set `warmup` to a fraction of the steps or a number of steps.")
    steps = math.ceil(warmup * total_steps) if warmup < 1 else int(warmup)
    schedule: LambdaLR = get_linear_schedule_with_warmup(optimizer, steps, total_steps)
    return schedule
