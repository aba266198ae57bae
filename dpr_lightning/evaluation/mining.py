"""Mines hard negatives: passages of a ranking that training should score below the question's positive.

The candidates of a question are the passages at some ranks of its ranking. One filter after another drops candidates
that may be relevant; each dropped candidate is counted once, under the first filter that applies.

Source: the margins to the positive's score are those of Moreira et al., NV-Retriever, arXiv:2407.15831.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from dpr_lightning.data.sources import Source
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.answers import answer_finder
from dpr_lightning.evaluation.passages import passage_rows
from dpr_lightning.evaluation.qrels import Qrels
from dpr_lightning.retrieval.ranking_formats import recognize
from dpr_lightning.retrieval.rankings import Ranking

Passage = Mapping[str, Any]
Teacher = Callable[[str, Sequence[Passage]], Sequence[float]]
"""Returns the scores of passages for a question; a higher score means a more relevant passage."""
REASONS = ("positives or copies of one", "judged relevant", "with an answer", "too close to the positive's score")
_POSITIVE, _JUDGED, _ANSWER, _CLOSE = REASONS
_QUESTIONS_AT_ONCE = 5000


@dataclass(frozen=True)
class Margin:
    """How far below its question's positive a negative must score.

    Attributes:
        share: The highest score of a negative as a share of the positive's, at most 1; None for no limit. If the
            positive's score s is negative, the limit is (2 - share) * s, which is as far below s.
        distance: The least difference from the positive's score, at least 0; None for no limit.
    """

    share: float | None = None
    distance: float | None = None

    def __post_init__(self) -> None:
        """Check both numbers.

        Raises:
            UserError: A number is out of its range.
        """
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(f"--share: {self.share} is not above 0 and at most 1. Correct it.")
        if self.distance is not None and not 0 <= self.distance < math.inf:
            raise UserError(f"--margin: {self.distance} is not a number of at least 0. Correct it.")

    def limit(self, positive: float) -> float:
        """Return the highest score that a negative may have."""
        share, distance = (1.0 if self.share is None else self.share), self.distance or 0.0
        limit = min(positive - (1 - share) * abs(positive), positive - distance)
        return math.inf if self == Margin() else limit


class Filters(NamedTuple):
    """What becomes a negative.

    Attributes:
        ranks: The first and the last rank of candidates, from 1.
        negatives: The most negatives of a question.
        answers: The rule by which answers match, `string` or `regex`; None admits passages with an answer.
        match_title: Search titles for answers as well.
        qrels: Judgments; passages with a relevance above 0 are never negatives.
        margin: The distance to the highest score of the question's positives.
        teacher: Scores that the margin compares instead of those of the ranking, and that are written.
    """

    ranks: tuple[int, int]
    negatives: int
    answers: str | None = "string"
    match_title: bool = False
    qrels: Qrels | None = None
    margin: Margin = Margin()
    teacher: Teacher | None = None


class Counts:
    """What was mined, and what each filter dropped."""

    def __init__(self) -> None:
        """Start at 0."""
        self.questions = 0  # with at least one negative
        self.without_negatives = 0
        self.negatives = 0
        self.without_positive = 0  # in the ranking, although the margin needs its score
        self.longest_ranking = 0
        self.dropped: Counter[str] = Counter()  # candidates, by reason

    def lines(self, filters: Filters, *, corpus_rows: int) -> list[str]:
        """Return what was mined and what was dropped as lines of text."""
        first, last = filters.ranks
        each = f"{self.negatives:,} negatives ({self.negatives / max(self.questions, 1):.1f} each)"
        lines = [f"{self.questions:,} questions with {each}, {self.without_negatives:,} without negatives"]
        if dropped := [f"{count:,} {reason}" for reason in REASONS if (count := self.dropped[reason])]:
            lines.append(f"passages dropped at ranks {first} to {last}: {', '.join(dropped)}")
        if self.without_positive:
            lines.append(f"{self.without_positive:,} questions lose all passages to the margin: no positive is ranked")
        if self.longest_ranking < min(last, corpus_rows):
            lines.append(f"rankings end after {self.longest_ranking}, not {last}")
        return lines


def mined_rows(
    rankings: Iterable[Ranking], train: Source, corpus: Source, filters: Filters, counts: Counts, *, run_file: Path
) -> Iterator[dict[str, Any]]:
    """Yield the training rows of all ranked questions with mined negatives, possibly none, in the rankings' order.

    A row has `query_id, query, answers, positive_passages, negative_passages`, and with a teacher `scores`. Holds the
    rankings of 5,000 questions at a time.

    Args:
        rankings: The rankings of training questions.
        train: The training data.
        corpus: The passages that were searched.
        filters: What becomes a negative.
        counts: Is updated with each row.
        run_file: The file of the rankings, for messages.

    Raises:
        UserError: A question is not in `train`, a passage is not in `corpus`, or a question has no answers although
            passages with an answer are to be dropped, or the margin needs scores and the file has only ranks.
    """
    if filters.margin != Margin() and not filters.teacher and recognize(run_file) == "msmarco":
        raise UserError(f"{run_file} has ranks and no scores to compare. Give --teacher, or no --share and --margin.")
    first, last = filters.ranks
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, qid in enumerate(train.rows["query_id"]):
        numbers[qid].append(number)
    remaining = iter(rankings)
    while block := list(islice(remaining, _QUESTIONS_AT_ONCE)):
        docids = (docid for ranking in block for docid in ranking.docids[first - 1 : last])
        row_of = passage_rows(docids, corpus, run_file=run_file)
        for ranking in block:
            if ranking.qid not in numbers:
                raise UserError(f"{run_file}: question {ranking.qid} is not in --train. Add it.")
            counts.longest_ranking = max(counts.longest_ranking, len(ranking.docids))
            for number in numbers[ranking.qid]:
                candidates = (corpus.rows[row_of[docid]] for docid in ranking.docids[first - 1 : last])
                yield _mined_row(train.rows[number], ranking, candidates, filters, counts)


def _mined_row(
    row: Mapping[str, Any], ranking: Ranking, candidates: Iterable[Passage], filters: Filters, counts: Counts
) -> dict[str, Any]:
    """Return a training row with the first candidates that pass all filters."""
    positives = [{key: passage[key] for key in ("docid", "title", "text")} for passage in row["positives"]]
    score, positive_scores = _scorer(row, positives, ranking, filters.teacher)
    if positive_scores:
        limit = filters.margin.limit(max(positive_scores))
    else:  # every candidate scores at least as high as a positive that the ranking does not reach
        limit = math.inf if filters.margin == Margin() else -math.inf
        counts.without_positive += limit < 0
    admissible = _admissible(row, candidates, filters, counts)
    negatives: list[Passage] = []
    scores: list[float] = []
    while batch := list(islice(admissible, filters.negatives - len(negatives))):
        for passage, value in zip(batch, score(batch), strict=True):
            if value > limit:
                counts.dropped[_CLOSE] += 1
            else:
                negatives.append(passage)
                scores.append(value)
    counts.negatives += len(negatives)
    counts.questions += bool(negatives)
    counts.without_negatives += not negatives
    mined = {key: row[key] for key in ("query_id", "query", "answers")}
    mined |= {"positive_passages": positives, "negative_passages": negatives}
    return mined | {"scores": [*positive_scores, *scores]} if filters.teacher else mined


def _scorer(
    row: Mapping[str, Any], positives: Sequence[Passage], ranking: Ranking, teacher: Teacher | None
) -> tuple[Callable[[Sequence[Passage]], Sequence[float]], Sequence[float]]:
    """Return the scores of candidates as a function, and those of the positives that have one."""
    if teacher:
        return lambda passages: teacher(row["query"], passages), teacher(row["query"], positives)
    ranked = dict(zip(ranking.docids, ranking.scores.tolist(), strict=True))
    found = [ranked[passage["docid"]] for passage in positives if passage["docid"] in ranked]
    return lambda passages: [ranked[passage["docid"]] for passage in passages], found


def _admissible(
    row: Mapping[str, Any], candidates: Iterable[Passage], filters: Filters, counts: Counts
) -> Iterator[Passage]:
    """Yield the candidates that are not known to be relevant.

    Raises:
        UserError: The question has no answers, although passages with an answer are to be dropped.
    """
    qid = row["query_id"]
    if not row["answers"] and filters.answers:
        raise UserError(f"--train: question {qid} has no answers. Add them, or give --keep-answers.")
    has_answer = answer_finder(row["answers"] if filters.answers else [], rule=filters.answers or "string", qid=qid)
    docids = {passage["docid"] for passage in row["positives"]}
    texts = {passage["text"] for passage in row["positives"]}
    judged = (filters.qrels or {}).get(qid, {})
    for passage in candidates:
        searched = f"{passage['title']} {passage['text']}" if filters.match_title else passage["text"]
        if passage["docid"] in docids or passage["text"] in texts:
            counts.dropped[_POSITIVE] += 1
        elif judged.get(passage["docid"], 0) > 0:
            counts.dropped[_JUDGED] += 1
        elif has_answer(searched):
            counts.dropped[_ANSWER] += 1
        else:
            yield passage
