"""A loss with a parameter that not every process uses."""

import torch

from dpr_lightning.training.gather import global_rank
from dpr_lightning.training.losses.in_batch import InBatchLoss


class BiasInFirstProcess(InBatchLoss):
    """Adds a learned bias in the first process only, and has another parameter that nothing uses."""

    def __init__(self, **options):
        super().__init__(**options)
        self.bias, self.unused = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, queries, passages, batch):
        loss = super().forward(queries, passages, batch)
        return loss + self.bias if global_rank() == 0 else loss
