"""Learning rate over the steps of training."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_linear_schedule_with_warmup

from dpr_lightning.errors import UserError


def linear_warmup(optimizer: Optimizer, *, total_steps: int, warmup: float = 0.1) -> LambdaLR:
    """Rises linearly from 0 to the optimizer's rate, then falls linearly to 0 at `total_steps`.

    `warmup` below 1 is a fraction of the steps (rounded up, as Tevatron v1 did), from 1 on a number of steps.
    """
    if warmup < 0:
        raise UserError(f"scheduler.warmup: {warmup} is negative. Give a fraction of the steps, or a number of steps.")
    steps = math.ceil(warmup * total_steps) if warmup < 1 else int(warmup)
    schedule: LambdaLR = get_linear_schedule_with_warmup(optimizer, steps, total_steps)
    return schedule
