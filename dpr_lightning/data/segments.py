"""The text of a query or a passage as the tokenizer receives it: prompt, title, separator and text in segments."""

from __future__ import annotations

PAIR = "pair"
"""The separator that makes title and text a sentence pair, as in FAIR's DPR."""


def passage_segments(title: str, text: str, *, separator: str, prompt: str) -> tuple[str, str | None]:
    """Return the first and the second segment of a passage; a passage has a second one only in a sentence pair.

    Without a title, the passage is the text alone.
    """
    if not title:
        return prompt + text, None
    return (prompt + title, text) if separator == PAIR else (f"{prompt}{title}{separator}{text}", None)
