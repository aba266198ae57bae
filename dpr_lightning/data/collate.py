"""Makes batches of tensors from training examples.

Notation: B questions, P passages, M known positives.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from dpr_lightning.data.examples import Example
from dpr_lightning.data.tokenizer import InputTokenizer, Tokens

NO_DOCID = -1


class Batch(NamedTuple):
    """A batch for the bi-encoder.

    Attributes:
        queries: The questions' tokens.
        passages: The passages' tokens.
        targets: [B] int64, the row of each question's positive among the P passages.
        docids: [P] int64, hashed docids.
        positive_docids: [B, M] int64, hashed docids of each question's known positives, padded with -1.
        scores: [P] float32, a teacher's score of each passage for its own question, or NaN.
    """

    queries: Tokens
    passages: Tokens
    targets: Tensor
    docids: Tensor
    positive_docids: Tensor
    scores: Tensor


class Collator:
    """Makes a `Batch` of examples. The passages are grouped by question, in order, each group's positive first."""

    def __init__(self, inputs: InputTokenizer) -> None:
        """Store the tokenizer of the model that the batches are for."""
        self.inputs = inputs

    def __call__(self, examples: list[Example]) -> Batch:
        """Return the batch of at least one example."""
        passages = [passage for example in examples for passage in example.passages]
        groups = np.array([len(example.passages) for example in examples])
        most = max(len(example.positive_docids) for example in examples)
        positives = [[*map(_hash, e.positive_docids), *[NO_DOCID] * (most - len(e.positive_docids))] for e in examples]
        return Batch(
            queries=self.inputs.pad(self.inputs.encode_queries([example.query for example in examples])),
            passages=self.inputs.pad(self.inputs.encode_passages(_field(passages, "title"), _field(passages, "text"))),
            targets=torch.from_numpy(np.cumsum(groups) - groups),
            docids=torch.tensor([_hash(passage["docid"]) for passage in passages]),
            positive_docids=torch.tensor(positives),
            scores=torch.tensor([math.nan if p.get("score") is None else p["score"] for p in passages]),
        )


def _field(passages: list[dict[str, Any]], name: str) -> list[str]:
    return [passage[name] for passage in passages]


def _hash(docid: str) -> int:
    return xxhash.xxh3_64_intdigest(docid.encode()) >> 1  # 63 bits: never negative, so never NO_DOCID
