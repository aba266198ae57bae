"""Cut embeddings: the first components of a vector, compared as embeddings of a smaller dimension."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.model.bi_encoder import BiEncoder


def truncate(embeddings: Tensor, dim: int, *, normalize: bool) -> Tensor:
    """Return the first `dim` components of embeddings [N, D], [N, dim].

    Args:
        embeddings: [N, D] with D of at least `dim`; returned unchanged if D is `dim`.
        dim: The number of components to keep.
        normalize: Divide the rest by its L2 norm, as for a model that normalizes.
    """
    if dim == embeddings.shape[-1]:
        return embeddings
    cut = embeddings[:, :dim]
    return functional.normalize(cut.float(), dim=-1) if normalize else cut


def check_dim(dim: int, full: int, name: str) -> None:
    """Raise UserError unless the argument `name` is a number of components from 1 to `full`."""
    check_positive(dim, name)
    if dim > full:
        raise UserError(f"{name}: {dim} is more than the {full} dimensions of the model. Lower `{name}`.")


def fingerprint_at(bi_encoder: BiEncoder, dim: int) -> str:
    """Return the fingerprint of a model whose embeddings are cut to `dim` components.

    It is the model's own fingerprint if nothing is cut, and differs from it and from that of any other `dim` otherwise.
    """
    fingerprint = bi_encoder.fingerprint()
    return fingerprint if dim == bi_encoder.passage.dim else f"{fingerprint}-dim{dim}"
