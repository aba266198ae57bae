"""Encodes sequences packed end to end, so that nothing is computed for padding.

Only attention lets tokens see one another, and it is given the offsets of the sequences so as to stay within each.
Notation: N sequences, T tokens in total, H hidden units.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from dpr_lightning.model.encoder import Encoder, position_ids
from dpr_lightning.model.pooling import POOLING

ARCHITECTURES = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")  # absolute positions
_log = logging.getLogger(__name__)


class PackedEncoder(nn.Module):
    """An encoder of packed sequences. Its embeddings equal those of padded batches up to rounding."""

    def __init__(self, encoder: Encoder) -> None:
        """Switch the encoder's transformer to packed sequences for good.

        Args:
            encoder: An encoder of one of `ARCHITECTURES`, in half precision if it is on a GPU.
        """
        super().__init__()
        self.encoder, self.dim = encoder, encoder.dim
        encoder.transformer.set_attn_implementation("packed")
        absolute = position_ids(encoder.transformer)
        self._first_position = absolute.start if absolute else 0

    def pack(self, ids: Sequence[Sequence[int]], *, fill_to: int = 0) -> dict[str, Any]:
        """Return the arguments of `forward` for the token ids of N sequences, and of more if they are to be filled up.

        Args:
            ids: The token ids of each sequence.
            fill_to: Further sequences, as long as the longest, are appended until there are this many tokens. A GPU
                chooses how it sums by the size of a product, so batches of one size give a text the same bits.
        """
        longest = max(map(len, ids))
        missing = max(fill_to - sum(map(len, ids)), 0)
        filling = [[0] * min(longest, missing - start) for start in range(0, missing, longest)]
        ids = [*ids, *filling]
        offsets = np.cumsum([0, *map(len, ids)])
        lengths = np.diff(offsets)
        position_ids = self._first_position + np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return {
            "input_ids": torch.from_numpy(np.concatenate(ids))[None],
            "position_ids": torch.from_numpy(position_ids)[None],
            "offsets": torch.from_numpy(offsets.astype(np.int32)),
            "max_length": int(lengths.max()),
        }

    def forward(self, input_ids: Tensor, position_ids: Tensor, offsets: Tensor, max_length: int) -> Tensor:
        """Return embeddings [N, dim].

        Args:
            input_ids: [1, T] int64.
            position_ids: [1, T] int64; each sequence starts again with the first position.
            offsets: [N + 1] int32; the offsets at which the sequences begin, then T.
            max_length: The number of tokens of the longest sequence.
        """
        output = self.encoder.transformer(
            input_ids=input_ids, position_ids=position_ids, cu_seq_lens_q=offsets, max_length_q=max_length
        )
        hidden = output.last_hidden_state[0]  # [T, H]
        return self.encoder.project(POOLING[self.encoder.pooling].packed(hidden, offsets))


def packed_if_supported(encoder: Encoder) -> Encoder | PackedEncoder:
    """Return the encoder for packed sequences, or unchanged if it is on a CPU or cannot pack; then the log says why."""
    if next(encoder.parameters()).device.type == "cpu":
        return encoder  # a CPU gains nothing from packing
    reason = _obstacle(encoder)
    if reason is None:
        return PackedEncoder(encoder)
    _notice(reason)
    return encoder


def _obstacle(encoder: Encoder) -> str | None:
    weight, config = next(encoder.parameters()), encoder.transformer.config
    if weight.device.type != "cuda":
        return f"packing needs a GPU, this is {weight.device.type}"
    if weight.dtype not in (torch.bfloat16, torch.float16):
        return f"packing needs bf16 or 16 as precision, this is {weight.dtype}"
    if (
        torch.cuda.get_device_capability(weight.device) < (8, 0)
        or not torch.backends.cuda.is_flash_attention_available()
    ):
        return "this GPU or this build of torch has no flash attention"
    if config.model_type not in ARCHITECTURES or getattr(config, "is_decoder", False):
        return f"packing supports {', '.join(ARCHITECTURES)}, not {config.model_type}"
    head = config.hidden_size // config.num_attention_heads
    return f"{head} units per attention head are not a multiple of 8 up to 256" if head % 8 or head > 256 else None


@functools.cache
def _notice(reason: str) -> None:
    _log.info("batches are padded: %s", reason)


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return attention within each sequence, [1, T, heads, H / heads], of states that are [1, heads, T, H / heads]."""
    if query.is_cuda:
        q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
        attended = varlen_attn(q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        return cast(Tensor, attended)[None], None  # a tuple only if auxiliary results are requested
    parts = [
        functional.scaled_dot_product_attention(query[:, :, part], key[:, :, part], value[:, :, part])
        for part in itertools.starmap(slice, itertools.pairwise(cu_seq_lens_q.tolist()))
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register("packed", _packed_attention)
