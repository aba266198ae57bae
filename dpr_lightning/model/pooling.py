"""Pooling: how the hidden states of a text's tokens become one vector.

A new mode is one more entry in `POOLING`, and its name in `settings.POOLING_MODES`.
Each mode has two forms that give the same vectors: for a padded batch, and for sequences packed end to end.
Shapes: N sequences, L positions of the longest, T tokens in total, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Pooling(NamedTuple):
    """A pooling mode.

    `padded` takes hidden states [N, L, H] and the attention mask [N, L]; `packed` takes hidden states [T, H] and the
    offsets [N + 1] at which the sequences begin, followed by T. Both return [N, H]. `exported_as` is the mode's name in
    sentence-transformers.
    """

    padded: Callable[[Tensor, Tensor], Tensor]
    packed: Callable[[Tensor, Tensor], Tensor]
    exported_as: str


def _cls_padded(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the hidden states of the first position."""
    return hidden[:, 0]


def _cls_packed(hidden: Tensor, offsets: Tensor) -> Tensor:
    return hidden[offsets[:-1]]


def _mean_padded(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the average over the positions that are not padding."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def _mean_packed(hidden: Tensor, offsets: Tensor) -> Tensor:
    tokens = torch.arange(len(hidden), dtype=offsets.dtype, device=offsets.device)
    return functional.embedding_bag(tokens, hidden, offsets[:-1], mode="mean")


def _last_padded(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the hidden states of the last position that is not padding, whichever side is padded."""
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def _last_packed(hidden: Tensor, offsets: Tensor) -> Tensor:
    return hidden[offsets[1:] - 1]


POOLING = {
    "cls": Pooling(_cls_padded, _cls_packed, exported_as="cls"),
    "mean": Pooling(_mean_padded, _mean_packed, exported_as="mean"),
    "last": Pooling(_last_padded, _last_packed, exported_as="lasttoken"),
}
