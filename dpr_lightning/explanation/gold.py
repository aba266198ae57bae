"""The gold passages of a question: those that were named, those that were judged relevant, or those with an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dpr_lightning.data.sources import Source
from dpr_lightning.evaluation.answers import Finder
from dpr_lightning.evaluation.passages import corpus_rows

_SCANNED = 100_000  # passages; the answer rule takes about 0.1 ms for each
_ROWS_AT_ONCE = 1000


class Gold(NamedTuple):
    """The corpus rows of gold passages, those of them that the corpus lacks, and how they were determined."""

    rows: list[int]
    absent: list[str]
    how: str


class Matcher(NamedTuple):
    """Tells whether a passage contains an answer; `match_title` searches its title too."""

    has_answer: Finder
    match_title: bool

    def matches(self, title: str, text: str) -> bool:
        """Return whether a passage contains an answer."""
        return self.has_answer(f"{title} {text}" if self.match_title else text)


def find_gold(
    corpus: Source,
    matcher: Matcher,
    *,
    named: Sequence[str] = (),
    judgments: Mapping[str, int] | None = None,
    ranked: Sequence[str] = (),
) -> Gold:
    """Return the gold passages by the first of these ways that gives some.

    1. The passages that the user names.
    2. The passages that were judged relevant to the question.
    3. The passages that contain an answer: of the corpus, or if it is large, of the ranking.

    Args:
        corpus: The passages, as `open_corpus` returns them.
        matcher: The answers of the question.
        named: Docids of the user.
        judgments: The judgments of the question; None without qrels.
        ranked: The docids of the question's ranking.
    """
    if named:
        return _of_docids(named, corpus, "named by the user")
    if relevant := [docid for docid, grade in (judgments or {}).items() if grade > 0]:
        return _of_docids(relevant, corpus, "judged relevant")
    unjudged = "" if judgments is None else "; the question has no relevant judgment"
    if len(corpus.rows) <= _SCANNED:
        return Gold(_matching_rows(corpus, matcher), [], f"passages of the corpus with an answer{unjudged}")
    rows = sorted(corpus_rows(ranked, corpus).values())
    found = [row for row in rows if matcher.matches(corpus.rows[row]["title"], corpus.rows[row]["text"])]
    return Gold(found, [], f"ranked passages with an answer, since the corpus is too large to search{unjudged}")


def _of_docids(docids: Sequence[str], corpus: Source, how: str) -> Gold:
    rows = corpus_rows(docids, corpus)
    return Gold(sorted(rows.values()), [docid for docid in docids if docid not in rows], how)


def _matching_rows(corpus: Source, matcher: Matcher) -> list[int]:
    found = []
    for first in range(0, len(corpus.rows), _ROWS_AT_ONCE):
        part = corpus.rows[first : first + _ROWS_AT_ONCE]
        passages = zip(part["title"], part["text"], strict=True)
        found += [first + i for i, (title, text) in enumerate(passages) if matcher.matches(title, text)]
    return found
