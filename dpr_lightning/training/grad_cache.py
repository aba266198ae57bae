"""Gradient cache: the exact gradient of a loss over a batch of any size, in the memory of one chunk.

1. Embed all inputs chunk by chunk without a graph. Save the random state before each chunk.
2. Compute the loss of all embeddings and its gradient with respect to them.
3. Embed each chunk again from its saved random state (so with the same dropout), this time with a graph, and
   backpropagate the gradient of its embeddings.

Shapes: [rows, L] token ids, [rows, dim] embeddings.
Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv:2101.06983.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dpr_lightning.data.tokenizer import Tokens
from dpr_lightning.training.checks import check_grad_cache

Embed = Callable[..., Tensor]  # embed(input_ids, attention_mask) -> embeddings


@dataclass(frozen=True)
class GradCache:
    """The chunk sizes of a training with gradient cache: how many queries and passages are embedded at once."""

    query_chunk_size: int
    passage_chunk_size: int

    def __post_init__(self) -> None:
        """Raise UserError for a size below 1."""
        check_grad_cache(query_chunk_size=self.query_chunk_size, passage_chunk_size=self.passage_chunk_size)


def make_grad_cache(*, query_chunk_size: int | None = None, passage_chunk_size: int | None = None) -> GradCache | None:
    """Return the gradient cache of two chunk sizes, or None if both are None.

    Raises:
        UserError: Only one size is set, or a size is below 1.
    """
    check_grad_cache(query_chunk_size=query_chunk_size, passage_chunk_size=passage_chunk_size)
    if query_chunk_size is None or passage_chunk_size is None:
        return None
    return GradCache(query_chunk_size, passage_chunk_size)


class Side(NamedTuple):
    """One side's encoder, its token ids, and the number of rows to embed at once."""

    embed: Embed
    tokens: Tokens
    chunk_size: int


def cached_backward(
    sides: tuple[Side, Side], loss: Callable[[Tensor, Tensor], Tensor], backward: Callable[[Tensor], None]
) -> Tensor:
    """Add the gradient of `loss(query embeddings, passage embeddings)` to the parameters of encoders and loss.

    Args:
        sides: Queries and passages.
        loss: Takes all embeddings, in the order of the rows.
        backward: Calls `loss.backward()`, with the loss scaled if the precision needs that.

    Returns:
        The loss, a detached scalar.
    """
    chunks = [_chunks(side) for side in sides]
    states: list[list[_RandomState]] = []
    embeddings: list[Tensor] = []
    with torch.no_grad():
        for side, parts in zip(sides, chunks, strict=True):
            side_states, side_embeddings = [], []
            for rows, tokens in parts:
                side_states.append(_RandomState(rows.device))
                side_embeddings.append(side.embed(**tokens))
            states.append(side_states)
            in_length_order = torch.cat(side_embeddings)
            order = torch.cat([rows for rows, _ in parts])
            embeddings.append(torch.empty_like(in_length_order).index_copy_(0, order, in_length_order).requires_grad_())
    torch.clear_autocast_cache()  # the second pass must not reuse weights that were cast without a graph
    value = loss(*embeddings)
    backward(value)
    for side, parts, side_states, embedded in zip(sides, chunks, states, embeddings, strict=True):
        gradients = embedded.grad
        assert gradients is not None
        for (rows, tokens), state in zip(parts, side_states, strict=True):
            with state.restored():
                again = side.embed(**tokens)
            again.backward(gradients[rows].to(again.dtype))
    return value.detach()


def _chunks(side: Side) -> list[tuple[Tensor, Tokens]]:
    """Return rows and token ids of each chunk. Rows of similar length share a chunk, cut to its longest row."""
    lengths = side.tokens["attention_mask"].sum(-1)
    order = torch.argsort(lengths, descending=True, stable=True)
    longest = lengths[order[:: side.chunk_size]].tolist()  # one wait for the GPU, instead of one per chunk
    return [
        (rows, {name: values[rows, : -(-length // 8) * 8] for name, values in side.tokens.items()})
        for rows, length in zip(order.split(side.chunk_size), longest, strict=True)
    ]


class _RandomState:
    """The current random state of the CPU and of `device`."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = [(device, torch.cuda.get_rng_state(device))] if device.type == "cuda" else []

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Use this state in the block; afterwards, random numbers continue as if the block had not run."""
        with torch.random.fork_rng([device for device, _ in self._cuda]):
            torch.set_rng_state(self._cpu)
            for device, state in self._cuda:
                torch.cuda.set_rng_state(state, device)
            yield
