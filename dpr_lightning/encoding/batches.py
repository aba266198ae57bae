"""Embed texts in batches such that an embedding depends on its text alone, whatever else is in the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpr_lightning.data.tokenizer import MULTIPLE, InputTokenizer
from dpr_lightning.model.encoder import Encoder
from dpr_lightning.model.packed import PackedEncoder


class Embedded(NamedTuple):
    """One batch: its rows, their embeddings [rows, dim] on the device, and its tokens with padding."""

    rows: NDArray[np.int64]
    embeddings: Tensor
    tokens: int


def default_tokens_per_batch(device: torch.device, precision: str) -> int:
    """Return the tokens of a batch that encode fastest: few on a CPU, whose caches are small."""
    if device.type != "cpu":
        return 65_536
    return 512 if precision == "int8" else 2048  # int8 waits for memory more often, because it computes faster


def embed_batches(
    encoder: Encoder | PackedEncoder, inputs: InputTokenizer, token_ids: Sequence[list[int]], tokens_per_batch: int
) -> Iterator[Embedded]:
    """Yield the embeddings of all rows, batch by batch. On a GPU this only queues the work.

    Args:
        encoder: The encoder in evaluation mode, on its device and in its precision.
        inputs: Pads the batches, unless the encoder packs them.
        token_ids: The token ids of each row.
        tokens_per_batch: The most tokens of a batch, padding included; packed batches are filled up to it.
    """
    device = next(encoder.parameters()).device
    multiple: int | None = None
    batch_of: Callable[[list[list[int]]], dict[str, Any]]
    if isinstance(encoder, PackedEncoder):
        batch_of = functools.partial(encoder.pack, fill_to=tokens_per_batch)
    else:
        multiple, batch_of = MULTIPLE, inputs.pad
    for rows in length_batches([len(row) for row in token_ids], tokens_per_batch, multiple):
        batch = batch_of([token_ids[row] for row in rows])
        embeddings = encoder(**_to_device(batch, device))[: len(rows)]  # without those of the filling
        yield Embedded(rows, embeddings, batch["input_ids"].numel())


def length_batches(lengths: Sequence[int], tokens_per_batch: int, multiple: int | None) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch, from long rows to short ones (equal lengths in row order), within the budget.

    A packed batch (`multiple` is None) has the sum of its lengths in tokens. A padded one has rows of one length, after
    rounding up to a multiple of `multiple`. On a CPU, an embedding then depends on its text alone, bit for bit:
    attention over a text always has the same shape, and products have no remainder that is summed in another order.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    sorted_lengths = np.asarray(lengths)[order]
    ends = np.cumsum(sorted_lengths)
    start = 0
    while start < len(order):
        if multiple is None:
            stop = int(np.searchsorted(ends, ends[start] - sorted_lengths[start] + tokens_per_batch, "right"))
        else:
            rounded = -(-sorted_lengths[start] // multiple) * multiple
            same = int(np.searchsorted(-sorted_lengths, multiple - rounded, "left"))  # ends before the next length
            stop = min(start + tokens_per_batch // rounded, same)
        yield order[start : max(stop, start + 1)]
        start = max(stop, start + 1)


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":  # only pinned memory is copied while the GPU computes
        batch = {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in batch.items()}
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
