"""The answers of the questions that a run was evaluated on."""

from __future__ import annotations

from typing import NamedTuple

from dpr_lightning.evaluation.output import METRICS, read_metrics, read_questions
from dpr_lightning.run_dir import RunDir


class KnownAnswers(NamedTuple):
    """A question's answers and the rule by which they match, `string` or `regex`."""

    answers: list[str]
    rule: str


def known_answers(run: RunDir) -> dict[str, KnownAnswers]:
    """Return what the evaluations in a run folder know: answers by the text of the question.

    Raises:
        UserError: An evaluation is damaged; the message names it.
    """
    known: dict[str, KnownAnswers] = {}
    for file in sorted(run.evaluations.glob(f"*/{METRICS}")):
        metrics = read_metrics(file.parent)
        for row in read_questions(file.parent, metrics):
            if row.get("answers") and "answers" in metrics:
                known[row.get("question", "")] = KnownAnswers(row["answers"], metrics["answers"])
    return known
