"""Any loss at several dimensions, so that embeddings can be cut after training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError
from dpr_lightning.model.bi_encoder import BiEncoder
from dpr_lightning.model.truncation import check_dim, truncate


class MatryoshkaLoss(nn.Module):
    """The mean of a loss over embeddings that are cut to each of several dimensions.

    Source: Kusupati et al., Matryoshka Representation Learning, arXiv:2205.13147.
    """

    def __init__(self, loss: nn.Module, *, dims: Sequence[int], normalize: bool) -> None:
        """Wrap a loss.

        Args:
            loss: Called with query and passage embeddings and the batch.
            dims: The numbers of components, each used once.
            normalize: Normalize the cut embeddings, as for a model that normalizes.
        """
        super().__init__()
        self.loss, self.dims, self.normalize = loss, tuple(dims), normalize
        self.needs_scores = bool(getattr(loss, "needs_scores", False))

    def forward(self, queries: Tensor, passages: Tensor, batch: Batch) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            queries: Embeddings [B, dim].
            passages: Embeddings [P, dim].
            batch: The batch that was embedded.
        """
        losses = []
        for dim in self.dims:
            cut = [truncate(embeddings, dim, normalize=self.normalize) for embeddings in (queries, passages)]
            losses.append(self.loss(*cut, batch))
        return torch.stack(losses).mean()


def at_dims(loss: nn.Module, bi_encoder: BiEncoder, *, dims: Sequence[int] | None = None) -> nn.Module:
    """Return the loss at each of `dims`, or as it is if `dims` is None.

    Raises:
        UserError: `dims` is empty, has a number twice, or one that is not possible for the model.
    """
    if dims is None:
        return loss
    if not dims or len(set(dims)) < len(dims):
        raise UserError(f"dims: {list(dims)!r} is not a list of different numbers. Correct `dims`.")
    for dim in dims:
        check_dim(dim, bi_encoder.passage.dim, "dims")
    return MatryoshkaLoss(loss, dims=dims, normalize=bi_encoder.settings.normalize)
