"""In-batch loss plus the distance from a teacher's scores."""

from __future__ import annotations

import torch
from torch import Tensor

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import check_choice
from dpr_lightning.training.losses.in_batch import InBatchLoss


class DistillationLoss(InBatchLoss):
    """`InBatchLoss` plus `weight` times the distance between our scores and the teacher's on each question's passages.

    - `margin_mse`: squared difference of the margins (positive - negative) of raw scores, averaged over the negatives.
    - `kl`: Kullback-Leibler divergence of our softmax from the teacher's, both over scores / `temperature`.

    Passages without a score are left out. A question whose positive or all of whose negatives have no score adds 0.
    Sources: Hofstätter et al., Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation, arXiv:2010.02666; Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531.
    """

    needs_scores = True

    def __init__(
        self,
        *,
        weight: float = 1.0,
        distance: str = "margin_mse",
        temperature: float = 1.0,
        gather_negatives: bool = True,
        mask_known_positives: bool = True,
    ) -> None:
        """Check the distance.

        Args:
            weight: Factor of the distance.
            distance: `margin_mse` or `kl`.
            temperature: See `InBatchLoss`.
            gather_negatives: See `InBatchLoss`.
            mask_known_positives: See `InBatchLoss`.

        Raises:
            UserError: `distance` is unknown, or `temperature` is not above 0.
        """
        super().__init__(
            temperature=temperature, gather_negatives=gather_negatives, mask_known_positives=mask_known_positives
        )
        check_choice(distance, "distance", ["margin_mse", "kl"])
        self.weight, self.distance = weight, distance

    def forward(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        """Return the loss, a float32 scalar; every question must have equally many passages. See `InBatchLoss`."""
        teacher = batch.scores.view(len(queries), -1)  # [B, n], the positive first
        with torch.autocast(queries.device.type, enabled=False):
            own = passages.float().view(*teacher.shape, -1)
            student = (own @ queries.float().unsqueeze(-1)).squeeze(-1)  # [B, n]
            scored = ~teacher.isnan()
            compare = self._margin_mse if self.distance == "margin_mse" else self._kl
            distance = compare(student, teacher.where(scored, 0), scored & scored[:, :1])
        return super().forward(queries, passages, batch) + self.weight * distance.mean()

    def _margin_mse(self, student: Tensor, teacher: Tensor, scored: Tensor) -> Tensor:
        difference = student - teacher
        squared = (difference[:, :1] - difference).square().where(scored, 0)[:, 1:]
        return squared.sum(-1) / scored[:, 1:].sum(-1).clamp(min=1)

    def _kl(self, student: Tensor, teacher: Tensor, scored: Tensor) -> Tensor:
        lowest = torch.finfo(student.dtype).min
        ours, theirs = ((s / self.temperature).where(scored, lowest).log_softmax(-1) for s in (student, teacher))
        return (theirs.exp() * (theirs - ours)).where(scored, 0).sum(-1)
