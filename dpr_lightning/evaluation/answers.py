"""Whether a text contains an answer, by DPR's two rules.

`string`: text and answer are NFD-normalized, split into tokens (a run of letters, digits and marks, or one other
visible character) and lower-cased. The answer matches if its tokens occur in the text one after another. `regex`: the
answer is a regular expression that is searched in the NFD-normalized text, ignoring case (CuratedTREC).

Source: the rules as described for the retrieval evaluation of Karpukhin et al., arXiv:2004.04906.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

import regex

from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.text_files import excerpt

_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
_BETWEEN = "\x00"  # a control character, so never part of a token
Finder = Callable[[str], bool]


def answer_finder(answers: Sequence[str], *, rule: str, qid: str) -> Finder:
    """Return a function that tells whether a text contains one of a question's answers.

    Args:
        answers: The question's answers.
        rule: `string` or `regex`.
        qid: The question, for messages.

    Raises:
        UserError: The rule is unknown, or an answer can never match because its regular expression is invalid.
    """
    check_choice(rule, "answers", ["string", "regex"])
    if rule == "string":
        wanted = [tokens for answer in answers if (tokens := _tokens(answer)) != _BETWEEN]
        return lambda text: any(tokens in _tokens(text) for tokens in wanted)
    for answer in answers:
        if problem := answer_problem(answer, rule=rule):
            raise UserError(f"answer {excerpt(answer)} of question {qid} is {problem}. Correct it.")
    patterns = [_compile(answer) for answer in answers]

    def matches(text: str) -> bool:
        normalized = _nfd(text)
        return any(pattern.search(normalized) for pattern in patterns)

    return matches


def answer_problem(answer: str, *, rule: str) -> str | None:
    """Return why an answer can match no text at all by `rule`, as in "is …"; None if it can match."""
    if rule == "string":
        return "without a letter, digit or other visible character" if _tokens(answer) == _BETWEEN else None
    try:
        _compile(answer)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        return f"not a regular expression ({error})"
    return None


@lru_cache(maxsize=100_000)
def _tokens(text: str) -> str:
    """Return the lower-cased tokens, each between two separators: `\\0to\\0be\\0`; one separator if there are none."""
    tokens = _TOKEN.findall(_nfd(text))
    return _BETWEEN + "".join(token.lower() + _BETWEEN for token in tokens)


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _compile(answer: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about patterns that a later Python may interpret differently
        return re.compile(_nfd(answer), re.IGNORECASE | re.MULTILINE)
