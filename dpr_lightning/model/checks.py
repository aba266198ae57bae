"""Checks that model and tokenizer fit each other and that the model can embed; loading makes them once."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dpr_lightning.errors import UserError
from dpr_lightning.model.encoder import Encoder
from dpr_lightning.model.pretrained import errors_about


def check_vocabulary(encoder: Encoder, tokenizer: PreTrainedTokenizerBase, name_or_path: str) -> None:
    """Raise UserError if the tokenizer has ids for which the model has no embedding."""
    with errors_about(name_or_path, "tokenizer.json and config.json"):
        rows = len(_token_embeddings(encoder))
        ids = max(tokenizer.get_vocab().values()) + 1
    if ids > rows:
        raise UserError(
            f"name_or_path: the tokenizer of {name_or_path} has {ids:,} ids, but its embeddings have {rows:,} rows. "
            "Use model and tokenizer of one training."
        )


def check_pooling(encoder: Encoder, name_or_path: str) -> None:
    """Raise UserError unless the model embeds two texts, and tells them apart by their last token.

    A causal decoder does not, if the first token is pooled: that token sees no other.
    """
    with errors_about(name_or_path, "config.json and model.safetensors"), torch.no_grad():
        column = _token_embeddings(encoder)[:, 0]
        one, other = int(column.argmin()), int(column.argmax())  # tokens with different embeddings
        ids = torch.tensor([[one, one, one], [one, one, other]])
        first, second = encoder.eval().pool(ids, torch.ones_like(ids))
        same = bool((first - second).abs().max() <= 1e-5 * first.abs().max())  # decoders differ by rounding at most
        encoder.train()
    if same and one != other:
        kind = encoder.transformer.config.model_type
        raise UserError(
            f"pooling: with {encoder.pooling!r}, {name_or_path} ignores all tokens but the first, because it is a "
            f"causal decoder ({kind}). Set another `pooling`, or choose another model."
        )


def _token_embeddings(encoder: Encoder) -> Tensor:
    """Return the embedding matrix [ids, H]."""
    return cast(Tensor, encoder.transformer.get_input_embeddings().weight)
