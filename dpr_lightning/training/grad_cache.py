"""Gradient cache: the exact gradient of a loss over a batch of any size, in the memory of one chunk.

1. Embed all inputs chunk by chunk without a graph, keeping the random state before each chunk.
2. Compute the loss of all embeddings, and its gradient with respect to them.
3. Embed each chunk again from its kept random state (so with the same dropout), this time with a graph, and send the
   gradient of its embeddings back through it.

Shapes: [rows, L] token ids, [rows, dim] embeddings.
Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv:2101.06983.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dpr_lightning.data.tokenizer import Tokens

Embed = Callable[..., Tensor]  # embed(input_ids, attention_mask) -> embeddings


class Side(NamedTuple):
    """One side's encoder, its token ids, and how many rows it embeds at once."""

    embed: Embed
    tokens: Tokens
    chunk_size: int


def cached_backward(
    sides: tuple[Side, Side], loss: Callable[[Tensor, Tensor], Tensor], backward: Callable[[Tensor], None]
) -> Tensor:
    """Adds the gradient of `loss(query embeddings, passage embeddings)` to the encoders' parameters.

    Args:
        sides: queries and passages.
        loss: of all embeddings, in the order of the rows.
        backward: `loss.backward()`, scaled where the precision wants that.

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
    torch.clear_autocast_cache()  # weights cast without a graph must not serve the second pass
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
    """Rows and token ids of each chunk; rows of like length share a chunk, which is cut to its longest row."""
    lengths = side.tokens["attention_mask"].sum(-1)
    chunks = []
    for rows in torch.argsort(lengths, descending=True, stable=True).split(side.chunk_size):
        longest = int(lengths[rows[0]])
        chunks.append((rows, {name: values[rows, : -(-longest // 8) * 8] for name, values in side.tokens.items()}))
    return chunks


class _RandomState:
    """The random state of the CPU, and of the device that some tensors are on, as it was when this was made."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = [(device, torch.cuda.get_rng_state(device))] if device.type == "cuda" else []

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Random numbers start from this state; afterwards they go on as if the block had not been."""
        with torch.random.fork_rng([device for device, _ in self._cuda]):
            torch.set_rng_state(self._cpu)
            for device, state in self._cuda:
                torch.cuda.set_rng_state(state, device)
            yield
