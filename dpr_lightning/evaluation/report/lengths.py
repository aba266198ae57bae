"""Lengths of questions and passages: in tokens of the evaluated model if its folder is known, else in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpr_lightning.data.segments import passage_segments

_MOST_TEXTS = 10_000  # whose tokens are counted
_AT_ONCE = 1000


class Lengths(NamedTuple):
    """The length of each text, in `words` or `tokens`, and the number of tokens that the model reads of one."""

    values: list[int]
    unit: str
    limit: int | None = None


class Counter:
    """Counts tokens as the model does: with prompts, with the separator of title and text, with special tokens.

    It reads the tokenizer's file without torch and transformers. Without a model folder it counts words.
    """

    def __init__(self, model: Path | None) -> None:
        """Take the folder of a model of ours."""
        self._tokenizer: Any = None
        self._settings: dict[str, Any] = {}
        files = (model / "tokenizer.json", model / "dpr_lightning.json") if model else ()
        if files and all(file.is_file() for file in files):
            try:
                from tokenizers import Tokenizer

                self._settings = json.loads(files[1].read_text(encoding="utf-8"))
                self._tokenizer = Tokenizer.from_file(str(files[0]))
                self._tokenizer.no_truncation()
                self._tokenizer.no_padding()
            except Exception:  # damaged, or of a newer version: tokenizers raises no narrower class
                self._tokenizer = None

    def questions(self, texts: Sequence[str]) -> Lengths:
        """Return the lengths of questions."""
        prompt = self._settings.get("query_prompt", "")
        return self._lengths(texts, [prompt + text for text in _some(texts)], "query_max_length")

    def passages(self, texts: Sequence[str]) -> Lengths:
        """Return the lengths of passages, whose first line is the title."""
        prompt, separator = self._settings.get("passage_prompt", ""), self._settings.get("separator", " ")
        split = (full.partition("\n") for full in _some(texts))
        segments = [passage_segments(title, text, separator=separator, prompt=prompt) for title, _, text in split]
        inputs = [first if second is None else (first, second) for first, second in segments]
        return self._lengths(texts, inputs, "passage_max_length")

    def _lengths(self, texts: Sequence[str], inputs: Sequence[Any], limit: str) -> Lengths:
        if self._tokenizer is None:
            return Lengths([len(text.split()) for text in texts], "words")
        counts: list[int] = []
        for start in range(0, len(inputs), _AT_ONCE):
            counts += [len(one.ids) for one in self._tokenizer.encode_batch_fast(inputs[start : start + _AT_ONCE])]
        return Lengths(counts, "tokens", self._settings.get(limit))


def _some(texts: Sequence[str]) -> Sequence[str]:
    """Return at most `_MOST_TEXTS` texts, evenly spaced."""
    return texts[:: -(-len(texts) // _MOST_TEXTS) or 1]
