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
from collections.abc import Callable, Iterable, Sequence
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


def answer_spans(answers: Sequence[str], text: str, *, rule: str) -> list[tuple[int, int]]:
    """Return where answers match in a text: start and end of each stretch, in order; stretches that touch are joined.

    Answers that can never match are ignored. A match of length zero has no stretch.

    Args:
        answers: A question's answers.
        text: The text.
        rule: `string` or `regex`.
    """
    normalized, spans = _nfd(text), []
    if rule == "string":
        tokens = list(_TOKEN.finditer(normalized))
        joined = _joined(token[0] for token in tokens)
        for wanted in {_tokens(answer) for answer in answers} - {_BETWEEN}:
            start = joined.find(wanted)
            while start >= 0:
                first = joined.count(_BETWEEN, 0, start)
                last = first + wanted.count(_BETWEEN) - 2
                spans.append((tokens[first].start(), tokens[last].end()))
                start = joined.find(wanted, start + 1)
    else:
        patterns = [_compile(answer) for answer in answers if not answer_problem(answer, rule=rule)]
        spans = [match.span() for pattern in patterns for match in pattern.finditer(normalized)]
    origin = _origins(text, normalized)
    united: list[tuple[int, int]] = []
    for start, end in sorted((origin[start], origin[end - 1] + 1) for start, end in spans if start < end):
        if united and start <= united[-1][1]:
            united[-1] = united[-1][0], max(end, united[-1][1])
        else:
            united.append((start, end))
    return united


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
    return _joined(_TOKEN.findall(_nfd(text)))


def _joined(tokens: Iterable[str]) -> str:
    return _BETWEEN + "".join(token.lower() + _BETWEEN for token in tokens)


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _origins(text: str, normalized: str) -> Sequence[int]:
    """Return the offset in `text` of the character that each character of its NFD form comes from.

    NFD also sorts marks that follow one another, but only within one token.
    """
    if text == normalized:
        return range(len(text))
    return [i for i, character in enumerate(text) for _ in _nfd(character)]


def _compile(answer: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about patterns that a later Python may interpret differently
        return re.compile(_nfd(answer), re.IGNORECASE | re.MULTILINE)
