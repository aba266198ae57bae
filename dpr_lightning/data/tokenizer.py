"""Turns queries and passages into token ids and padded batches, the same way in training and in encoding.

Notation: N rows, L tokens of the longest row, rounded up.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dpr_lightning.data.segments import PAIR, passage_segments
from dpr_lightning.errors import UserError, check_at_least

Tokens = dict[str, Tensor]  # input_ids and attention_mask, both [N, L] int64
MULTIPLE = 8
"""Batches are padded to a multiple of this number of tokens."""
_TEXTS_AT_ONCE = 1024  # that are tokenized; what a tokenizer returns takes about ten times as much memory as the ids


class InputTokenizer:
    """A tokenizer with the lengths, the separator and the prompts of a model.

    A passage is title + `separator` + text in one segment, or, with `separator="pair"`, a sentence pair as in FAIR's
    DPR. Without a title it is the text alone. A prompt comes before all of it. Lengths include the prompt and special
    tokens. Token type ids are never used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        query_max_length: int,
        passage_max_length: int,
        separator: str,
        query_prompt: str = "",
        passage_prompt: str = "",
    ) -> None:
        """Set the tokenizer to pad on the right, since CLS pooling takes the first position.

        Raises:
            UserError: A length leaves no room for a word, or the tokenizer has no padding token.
        """
        for name, length, pair, prompt in (
            ("query_max_length", query_max_length, False, query_prompt),
            ("passage_max_length", passage_max_length, separator == PAIR, passage_prompt),
        ):
            prompt_length = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else 0
            check_at_least(tokenizer.num_special_tokens_to_add(pair) + prompt_length + 1, length, name)
        if tokenizer.pad_token_id is None:
            raise UserError(f"name_or_path: {tokenizer.name_or_path} has no padding token. Choose another model.")
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"
        self.query_max_length, self.passage_max_length = query_max_length, passage_max_length
        self.separator, self.query_prompt, self.passage_prompt = separator, query_prompt, passage_prompt
        self.most_positions = sys.maxsize  # of the encoders; a BiEncoder sets it

    def encode_queries(self, queries: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each query, special tokens included, at most `query_max_length`."""
        return self._encode([self.query_prompt + query for query in queries], None, self.query_max_length)

    def encode_passages(self, titles: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each passage, special tokens included, at most `passage_max_length`."""
        segments = [
            passage_segments(title, text, separator=self.separator, prompt=self.passage_prompt)
            for title, text in zip(titles, texts, strict=True)
        ]
        paired = [(one, other) for one, other in segments if other is not None]
        firsts, seconds = [one for one, _ in paired], [other for _, other in paired]
        pairs = iter(self._encode(firsts, seconds, self.passage_max_length))
        alone = iter(self._encode([one for one, other in segments if other is None], None, self.passage_max_length))
        return [next(alone if other is None else pairs) for _, other in segments]

    def pad(self, ids: Sequence[Sequence[int]], *, multiple: int = MULTIPLE) -> Tokens:
        """Return `input_ids` and `attention_mask`, both [N, L]. L is a multiple of `multiple`, or all positions."""
        lengths = np.array([len(row) for row in ids])
        longest = min(-(-lengths.max() // multiple) * multiple, max(lengths.max(), self.most_positions))
        mask = np.arange(longest) < lengths[:, None]
        input_ids = np.full(mask.shape, self.tokenizer.pad_token_id, dtype=np.int64)
        input_ids[mask] = np.concatenate(ids)
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}

    def _encode(self, texts: list[str], pairs: list[str] | None, max_length: int) -> list[list[int]]:
        ids: list[list[int]] = []
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            part = slice(first, first + _TEXTS_AT_ONCE)
            encoded = self.tokenizer(
                texts[part],
                pairs[part] if pairs is not None else None,
                truncation=True,
                max_length=max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            ids += encoded["input_ids"]
        return ids
