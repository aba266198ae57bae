"""Learning from a teacher's scores beside the in-batch loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.training.losses.in_batch import InBatchLoss


class DistillationLoss(InBatchLoss):
    """`InBatchLoss` + `weight` x how far each question's scores of its own passages are from the teacher's.

    - `margin_mse`: squared difference of the margins, positive - negative, averaged over the negatives; of raw scores.
    - `kl`: Kullback-Leibler divergence of the teacher's softmax from ours, both over scores ÷ `temperature`.

    Passages without a score are left out; a question for which no pair is left adds 0.
    Sources: Hofstätter et al., Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation, arXiv:2010.02666; Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        distance: str = "margin_mse",
        temperature: float = 1.0,
        gather_negatives: bool = True,
        mask_known_positives: bool = True,
    ) -> None:
        """As `InBatchLoss`, and raises UserError for a distance that is not `margin_mse` or `kl`."""
        super().__init__(
            temperature=temperature, gather_negatives=gather_negatives, mask_known_positives=mask_known_positives
        )
        check_choice(distance, "loss.distance", ["margin_mse", "kl"])
        self.weight, self.distance = weight, {"margin_mse": self._margin_mse, "kl": self._kl}[distance]

    def check_rows(self, rows: Any) -> None:
        """Raises UserError if no training row has scores."""
        if not any(row["positives"][0]["score"] is not None for row in rows):
            raise UserError(
                "loss: distillation learns from a teacher's scores, and no row of data.train has scores. "
                "Add them, or choose loss=in_batch."
            )

    def __call__(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        """The loss, a scalar float32; each question has equally many passages."""
        teacher = batch.scores.view(len(queries), -1)  # [B, n], the positive first
        with torch.autocast(queries.device.type, enabled=False):
            own = passages.float().view(*teacher.shape, -1)
            student = (own @ queries.float().unsqueeze(-1)).squeeze(-1)  # [B, n]
            scored = ~teacher.isnan()
            distance = self.distance(student, teacher.where(scored, 0), scored & scored[:, :1])
        return super().__call__(queries, passages, batch) + self.weight * distance.mean()

    def _margin_mse(self, student: Tensor, teacher: Tensor, scored: Tensor) -> Tensor:
        difference = student - teacher
        squared = (difference[:, :1] - difference).square().where(scored, 0)[:, 1:]
        return squared.sum(-1) / scored[:, 1:].sum(-1).clamp(min=1)

    def _kl(self, student: Tensor, teacher: Tensor, scored: Tensor) -> Tensor:
        lowest = torch.finfo(student.dtype).min
        ours, theirs = ((s / self.temperature).where(scored, lowest).log_softmax(-1) for s in (student, teacher))
        return (theirs.exp() * (theirs - ours)).where(scored, 0).sum(-1)
