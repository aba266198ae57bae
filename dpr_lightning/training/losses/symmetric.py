"""In-batch loss in both directions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dpr_lightning.data.collate import NO_DOCID, Batch
from dpr_lightning.training.gather import gather, global_rank
from dpr_lightning.training.losses.in_batch import InBatchLoss, contrastive_loss


class SymmetricLoss(InBatchLoss):
    """Mean of `InBatchLoss` and the same loss of each positive over all questions of the global batch."""

    def forward(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        """Return the loss, a float32 scalar; see `InBatchLoss`."""
        forward = super().forward(queries, passages, batch)
        positives, docids, known = passages[batch.targets], batch.docids[batch.targets], batch.positive_docids
        targets = torch.arange(len(queries), device=queries.device)
        if self.gather_negatives:
            widest = int(gather(torch.tensor([known.shape[1]], device=known.device)).max())
            known = gather(functional.pad(known, (0, widest - known.shape[1]), value=NO_DOCID))
            targets, queries = targets + global_rank() * len(queries), gather(queries)
        excluded = known_questions(targets, docids, known) if self.mask_known_positives else None
        backward = contrastive_loss(positives, queries, targets, temperature=self.temperature, excluded=excluded)
        return (forward + backward) / 2


def known_questions(targets: Tensor, docids: Tensor, positive_docids: Tensor) -> Tensor:
    """Return a mask [B, Q] of false negatives: other questions that have the passage as a known positive.

    Args:
        targets: The row of each positive's own question, [B].
        docids: Hashed docids of the positives, [B].
        positive_docids: Hashed docids of the positives of all Q questions, [Q, M].
    """
    excluded = (docids[:, None, None] == positive_docids).any(-1)
    return excluded.scatter(1, targets[:, None], False)
