"""What a report shows of each question, read from the folders of evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.evaluation.accuracy import FirstHits
from dpr_lightning.evaluation.output import read_contexts, read_metrics, read_questions
from dpr_lightning.run_dir import RunDir

_SHOWN = 20  # passages of a question
_MOST_SHOWN = 150_000  # passages of all questions and runs, which bounds the size of the page


class Ranked(NamedTuple):
    """A passage of a ranking: its row in `Passages`, and whether it counts as a hit."""

    passage: int
    rank: int
    score: float
    is_hit: bool


@dataclass
class Passages:
    """The passages of all rankings, each once: docid and text, whose first line is the title."""

    rows: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, docid: str, text: str) -> int:
        """Return the row of a passage."""
        return self.rows.setdefault((docid, text), len(self.rows))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class ReportedEvaluation:
    """One evaluation.

    Attributes:
        folder: The folder of its files.
        metrics: Its metrics.
        questions: The lines of its `questions.jsonl`.
        first_hits: The rank of each question's first hit, 0 without one: [questions]. A hit contains an answer, or is
            judged relevant if the questions have no answers.
        top_scores: The score of each question's first passage, NaN without one: [questions].
        rankings: The passages to show of each question.
    """

    folder: Path
    metrics: Mapping[str, Any]
    questions: Sequence[Mapping[str, Any]]
    first_hits: FirstHits
    top_scores: NDArray[np.float64]
    rankings: Sequence[Sequence[Ranked]]

    @property
    def has_answers(self) -> bool:
        """Whether answers decide what is a hit."""
        return not self.metrics.get("without_answers")

    @property
    def model_is_known(self) -> bool:
        """Whether the ranking is known to be of a model, as dense search makes it."""
        return bool(self.metrics.get("model_fingerprint"))

    @property
    def run(self) -> RunDir | None:
        """The run folder that the evaluation is in."""
        run = RunDir(self.folder.parent.parent)
        return run if run.evaluations == self.folder.parent else None


def read_evaluations(folders: Sequence[Path]) -> tuple[list[ReportedEvaluation], Passages]:
    """Return evaluations of the same questions, all in the order of the first one, and the passages that they show.

    Each question has its first 20 passages, fewer if all runs have very many questions, and besides these its first hit
    and the relevant passages that the evaluation has reached.

    Raises:
        UserError: A file does not exist or is damaged.
    """
    passages, evaluated = Passages(), []
    order: dict[str, int] = {}
    for folder in folders:
        metrics = read_metrics(folder)
        questions = read_questions(folder, metrics)
        order = order or {row["qid"]: i for i, row in enumerate(questions)}
        shown = min(_SHOWN, max(1, _MOST_SHOWN // (len(order) * len(folders))))
        by_relevance = bool(metrics.get("without_answers"))
        read = [
            (row, *_ranking(row, entry["contexts"], passages, shown=shown, by_relevance=by_relevance))
            for row, entry in zip(questions, read_contexts(folder, metrics), strict=True)
        ]
        read.sort(key=lambda one: order[one[0]["qid"]])
        rows, first_hits, top_scores, rankings = zip(*read, strict=True)
        evaluated.append(
            ReportedEvaluation(folder, metrics, rows, np.array(first_hits), np.array(top_scores), rankings)
        )
    return evaluated, passages


def _ranking(
    row: Mapping[str, Any], contexts: Sequence[Mapping[str, Any]], passages: Passages, *, shown: int, by_relevance: bool
) -> tuple[int, float, list[Ranked]]:
    """Return the rank of the first hit, the score of the first passage, and the passages to show."""
    relevant = {docid: rank for docid, rank in row.get("relevant", {}).items() if rank}
    first = min(relevant.values(), default=0) if by_relevance else row["first_hit"] or 0
    top = float(contexts[0]["score"]) if contexts else float("nan")
    ranked = [
        Ranked(
            passages.add(context["docid"], context["text"]),
            rank,
            float(context["score"]),
            context["docid"] in relevant if by_relevance else context["has_answer"],
        )
        for rank, context in enumerate(contexts, 1)
        if rank <= shown or rank == first or context["docid"] in relevant
    ]
    return first, top, ranked
