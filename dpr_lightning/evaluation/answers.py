"""Whether a passage holds an answer, by DPR's two rules.

`string`: text and answer are NFD-normalized, cut into tokens (runs of letters, digits and marks, or one other visible
character) and lower-cased; the answer's tokens must stand in the text next to one another. `regex`: the answer is a
regular expression to be found in the text, case ignored (CuratedTREC).

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

_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
_BETWEEN = "\x00"  # a control character, so never part of a token
Finder = Callable[[str], bool]


def answer_finder(answers: Sequence[str], *, rule: str, qid: str) -> Finder:
    """A test whether a text holds one of a question's answers.

    An answer without a single token is found nowhere.

    Raises:
        UserError: an unknown rule, or a regular expression that does not compile (the message names `qid`).
    """
    check_choice(rule, "data.answers", ["string", "regex"])
    if rule == "regex":
        patterns = [_compiled(answer, qid) for answer in answers]

        def matches(text: str) -> bool:
            normalized = _nfd(text)
            return any(pattern.search(normalized) for pattern in patterns)

        return matches
    wanted = [tokens for answer in answers if (tokens := _tokens(answer)) != _BETWEEN]
    return lambda text: any(tokens in _tokens(text) for tokens in wanted)


@lru_cache(maxsize=100_000)
def _tokens(text: str) -> str:
    """The lower-cased tokens, each between two separators: `\\0to\\0be\\0`; of no tokens one separator."""
    found = _TOKEN.findall(_nfd(text))
    return _BETWEEN + "".join(token.lower() + _BETWEEN for token in found)


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _compiled(answer: str, qid: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what a later Python may read otherwise
            return re.compile(_nfd(answer), re.IGNORECASE | re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"data.queries: answer {answer!r} of question {qid} is no regular expression ({error}). Correct it."
        ) from error
