"""Validation: rank each question's positive in the pool of all dev passages."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class PoolRanking(Metric):
    """Mean rank, accuracy@1 and mean reciprocal rank of each question's positive in the pool of all dev passages.

    Equal scores count against the positive, and so do scores that are NaN and an infinite score of the positive itself.
    Questions and passages may come from several processes; each is counted once. Close to the average-rank validation
    of Karpukhin et al., arXiv:2004.04906, with ranks from 1.
    """

    full_state_update = False
    queries: list[Tensor]
    positives: list[Tensor]
    passages: list[Tensor]
    positive_docids: list[Tensor]
    docids: list[Tensor]

    def __init__(self) -> None:
        """Start with an empty pool; embeddings stay on the device until `compute`."""
        super().__init__()
        for name in ("queries", "positives", "passages", "positive_docids", "docids"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, queries: Tensor, passages: Tensor, targets: Tensor, docids: Tensor) -> None:
        """Add a batch of B questions and P passages.

        Args:
            queries: Embeddings [B, dim].
            passages: Embeddings [P, dim].
            targets: The row of each question's positive, [B].
            docids: Hashed docids of the passages, [P].
        """
        self.queries.append(queries.float())
        self.positives.append(passages[targets].float())
        self.positive_docids.append(docids[targets])
        self.passages.append(passages.float())
        self.docids.append(docids)

    def compute(self) -> dict[str, Tensor]:
        """Return the scalars `mean_rank`, `accuracy` (the share of positives at rank 1) and `mrr`."""
        queries, positives, passages = _joined(self.queries), _joined(self.positives), _joined(self.passages)
        positive_docids, docids = _joined(self.positive_docids), _joined(self.docids)
        distinct, inverse = torch.unique(docids, return_inverse=True)
        first = torch.full_like(distinct, len(docids)).scatter_reduce(
            0, inverse, torch.arange(len(docids), device=docids.device), "amin"
        )
        passages, docids = passages[first], docids[first]  # a passage of several questions is in the pool once
        ranks = []
        for chunk in torch.arange(len(queries), device=docids.device).split(256):
            own = (queries[chunk] * positives[chunk]).sum(-1, keepdim=True)
            own = own.where(own.isfinite(), -torch.inf)
            beaten = queries[chunk] @ passages.T < own  # false for NaN
            others = docids[None, :] != positive_docids[chunk, None]
            ranks.append(1 + (~beaten & others).sum(-1))
        rank = torch.cat(ranks).double()
        return {"mean_rank": rank.mean(), "accuracy": (rank == 1).double().mean(), "mrr": (1 / rank).mean()}


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    return state if isinstance(state, Tensor) else torch.cat(state)
