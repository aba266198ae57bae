"""Turns queries and passages into token ids and padded batches, the same in training and in encoding.

Notation: L tokens (the longest row, rounded up).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dpr_lightning.errors import UserError, check_at_least

Tokens = dict[str, Tensor]  # input_ids [rows, L] int64, attention_mask [rows, L] int64


PAIR = "pair"


class InputTokenizer:
    """How queries and passages become token ids, the same in training and in encoding.

    A passage is title + `separator` + text in one segment, or, with `separator="pair"`, a sentence pair as in FAIR's
    DPR; without a title it is the text alone. Lengths count the special tokens. Token type ids are never used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        query_max_length: int = 32,
        passage_max_length: int = 156,
        separator: str = " ",
    ) -> None:
        """Pads on the right whatever the tokenizer's own side, since CLS pooling takes the first position.

        Raises:
            UserError: a length without room for a word, a separator that is no string, no padding token.
        """
        if not isinstance(separator, str):
            raise UserError(
                f'model.separator: {separator!r} is not a string. Set it to one, " " or "{PAIR}" for example.'
            )
        for key, length, pair in (
            ("model.query_max_length", query_max_length, False),
            ("model.passage_max_length", passage_max_length, separator == PAIR),
        ):
            check_at_least(tokenizer.num_special_tokens_to_add(pair) + 1, length, key)
        if tokenizer.pad_token_id is None:
            raise UserError(f"model.name_or_path: {tokenizer.name_or_path} has no padding token. Choose another model.")
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"
        self.query_max_length, self.passage_max_length = query_max_length, passage_max_length
        self.separator = separator

    def encode_queries(self, queries: Sequence[str]) -> list[list[int]]:
        """Token ids per query, special tokens included, at most `query_max_length`."""
        return self._encode(list(queries), None, self.query_max_length)

    def encode_passages(self, titles: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        """Token ids per passage, special tokens included, at most `passage_max_length`."""
        passages = list(zip(titles, texts, strict=True))
        if self.separator != PAIR:
            joined = [f"{title}{self.separator}{text}" if title else text for title, text in passages]
            return self._encode(joined, None, self.passage_max_length)
        titled = [title for title in titles if title]
        pairs = self._encode(titled, [text for title, text in passages if title], self.passage_max_length)
        alone = self._encode([text for title, text in passages if not title], None, self.passage_max_length)
        in_pairs, in_alone = iter(pairs), iter(alone)
        return [next(in_pairs if title else in_alone) for title in titles]

    def pad(self, ids: Sequence[Sequence[int]], *, multiple: int = 8) -> Tokens:
        """`input_ids` and `attention_mask`, both [rows, L]; L is a multiple of `multiple`."""
        lengths = np.array([len(row) for row in ids])
        mask = np.arange(-(-lengths.max() // multiple) * multiple) < lengths[:, None]
        input_ids = np.full(mask.shape, self.tokenizer.pad_token_id, dtype=np.int64)
        input_ids[mask] = np.concatenate(ids)
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}

    def _encode(self, texts: list[str], pairs: list[str] | None, max_length: int) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(
            texts,
            pairs,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids
