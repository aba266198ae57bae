"""The contrastive loss of a batch: which passages each question is told apart from, and how.

Notation: B questions of this process, P passages of all processes (or of this one), M known positives of a question.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError
from dpr_lightning.training.gather import gather, global_rank


def contrastive_loss(
    queries: Tensor, passages: Tensor, targets: Tensor, *, temperature: float = 1.0, excluded: Tensor | None = None
) -> Tensor:
    """Mean over questions of the negative log-likelihood of the positive among all passages, in float32.

    Args:
        queries: [B, dim].
        passages: [P, dim].
        targets: [B] int64, the row of each question's positive.
        temperature: divides the scores.
        excluded: [B, P] bool, pairs left out of the sum; never a question's target.

    Source: equation 2 of Karpukhin et al., Dense Passage Retrieval, arXiv:2004.04906.
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = queries.float() @ passages.float().T / temperature  # [B, P]
        if excluded is not None:
            logits = logits.masked_fill(excluded, float("-inf"))
        return functional.cross_entropy(logits, targets)


def known_positives(targets: Tensor, docids: Tensor, positive_docids: Tensor) -> Tensor:
    """Which passages [B, P] are positives of a question without being its target: no negatives for it.

    docids [P] and positive_docids [B, M] as in `Batch`.
    """
    excluded = (positive_docids[:, :, None] == docids).any(1)
    return excluded.scatter(1, targets[:, None], False)


class InBatchLoss:
    """In-batch negatives: every passage of the global batch that is not a question's own counts as its negative.

    Called with embeddings of this process's queries [B, dim] and passages [P, dim] and their batch, it gives the mean
    loss over this process's questions; the mean over processes is the loss of the global batch.
    """

    def __init__(
        self, *, temperature: float = 1.0, gather_negatives: bool = True, mask_known_positives: bool = True
    ) -> None:
        """Raises UserError for a temperature that is not above 0.

        Args:
            temperature: divides the scores; 1.0 as in DPR, about 0.05 for normalized embeddings.
            gather_negatives: take negatives from all processes; no effect with one process.
            mask_known_positives: a passage known as a positive of the question never is its negative.
        """
        if not temperature > 0:
            raise UserError(f"loss.temperature: {temperature} is not above 0. Correct loss.temperature.")
        self.temperature, self.gather_negatives = temperature, gather_negatives
        self.mask_known_positives = mask_known_positives

    def check_rows(self, rows: Any) -> None:
        """Accepts any training rows; a loss that needs more of them refuses others here, before training."""

    def __call__(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        """The loss, a scalar float32."""
        targets, docids = batch.targets, batch.docids
        if self.gather_negatives:
            targets = targets + global_rank() * len(passages)
            passages, docids = gather(passages), gather(docids)
        excluded = known_positives(targets, docids, batch.positive_docids) if self.mask_known_positives else None
        return contrastive_loss(queries, passages, targets, temperature=self.temperature, excluded=excluded)
