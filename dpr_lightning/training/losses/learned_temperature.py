"""In-batch loss with a learned temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError
from dpr_lightning.training.losses.in_batch import InBatchLoss

_LOWEST, _HIGHEST = 0.01, 100.0


class LearnedTemperatureLoss(InBatchLoss):
    """`InBatchLoss` whose temperature is learned, from `temperature` on and within 0.01 and 100.

    The parameter is the logarithm of the inverse temperature, a float32 scalar. Each step first clamps it to the range,
    so that its gradient can always lead back. AdamW moves it by about the learning rate per step.
    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv:2103.00020.
    """

    def __init__(
        self, *, temperature: float = 1.0, gather_negatives: bool = True, mask_known_positives: bool = True
    ) -> None:
        """Make the parameter; see `InBatchLoss` for the arguments.

        Raises:
            UserError: `temperature` is not within 0.01 and 100.
        """
        super().__init__(gather_negatives=gather_negatives, mask_known_positives=mask_known_positives)
        if not _LOWEST <= temperature <= _HIGHEST:
            raise UserError(
                f"temperature: {temperature} is not within {_LOWEST} and {_HIGHEST:.0f}. Correct `temperature`."
            )
        self.log_inverse_temperature = nn.Parameter(torch.tensor(-math.log(temperature), dtype=torch.float32))

    def forward(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        """Return the loss, a float32 scalar; see `InBatchLoss`."""
        with torch.no_grad():
            self.log_inverse_temperature.clamp_(-math.log(_HIGHEST), -math.log(_LOWEST))
        return super().forward(queries.float() * self.log_inverse_temperature.float().exp(), passages, batch)
