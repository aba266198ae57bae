"""In-batch softmax loss over the passages of the global batch.

Shapes: B questions of this process, P passages of all processes (or of this one), M known positives of a question.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError
from dpr_lightning.training.gather import gather, global_rank


def contrastive_loss(
    queries: Tensor, passages: Tensor, targets: Tensor, *, temperature: float = 1.0, excluded: Tensor | None = None
) -> Tensor:
    """Return the mean negative log-likelihood of each question's positive among all passages, computed in float32.

    Args:
        queries: Embeddings [B, dim].
        passages: Embeddings [P, dim].
        targets: The row of each question's positive, [B] int64.
        temperature: Divides the scores.
        excluded: Pairs to leave out of the softmax, [B, P] bool; must not contain a question's target.

    Source: equation 2 of Karpukhin et al., Dense Passage Retrieval, arXiv:2004.04906.
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = queries.float() @ passages.float().T / temperature  # [B, P]
        if excluded is not None:
            logits = logits.masked_fill(excluded, float("-inf"))
        return functional.cross_entropy(logits, targets)


def known_positives(targets: Tensor, docids: Tensor, positive_docids: Tensor) -> Tensor:
    """Return a mask [B, P] of false negatives: other known positives of the question.

    Args:
        targets: The row of each question's positive, [B].
        docids: Hashed docids of the passages, [P].
        positive_docids: Hashed docids of each question's positives, [B, M].
    """
    excluded = (positive_docids[:, :, None] == docids).any(1)
    return excluded.scatter(1, targets[:, None], False)


class InBatchLoss(nn.Module):
    """In-batch negatives: every passage of the global batch except a question's own positive is its negative.

    The loss is the mean over the questions of this process. Its mean over all processes is the loss of the global
    batch. A subclass that sets `needs_scores` is refused for training data without a teacher's scores.
    """

    needs_scores: ClassVar[bool] = False

    def __init__(
        self, *, temperature: float = 1.0, gather_negatives: bool = True, mask_known_positives: bool = True
    ) -> None:
        """Check the temperature.

        Args:
            temperature: Divides the scores; 1.0 as in DPR, about 0.05 for normalized embeddings.
            gather_negatives: Take negatives from all processes; has no effect with one process.
            mask_known_positives: Never use a known positive of a question as its negative.

        Raises:
            UserError: `temperature` is not above 0.
        """
        super().__init__()
        if not temperature > 0:
            raise UserError(f"temperature: {temperature} is not above 0. Correct `temperature`.")
        self.temperature, self.gather_negatives = temperature, gather_negatives
        self.mask_known_positives = mask_known_positives

    def forward(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            queries: Embeddings [B, dim] of this process's questions.
            passages: Embeddings of this process's passages, as many in every process.
            batch: The batch that was embedded.
        """
        targets, docids = batch.targets, batch.docids
        if self.gather_negatives:
            targets = targets + global_rank() * len(passages)
            passages, docids = gather(passages), gather(docids)
        excluded = known_positives(targets, docids, batch.positive_docids) if self.mask_known_positives else None
        return contrastive_loss(queries, passages, targets, temperature=self.temperature, excluded=excluded)
