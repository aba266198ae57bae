"""An evaluation against an earlier one of the same questions: paired differences, and the questions won and lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import Difference, paired_difference
from dpr_lightning.evaluation.evaluated import Evaluated, evaluation_folder, read_evaluated
from dpr_lightning.evaluation.output import QUESTIONS
from dpr_lightning.evaluation.resampling import paired_mean_difference
from dpr_lightning.files import file_hash


def open_against(against: Path, split: str, folder: Path) -> Evaluated:
    """Return the evaluation that the one in `folder` is compared with.

    Args:
        against: A run folder, which stands for its evaluation of the split, or the folder of an evaluation.
        split: The name of the questions.
        folder: The folder of the evaluation that is compared.

    Raises:
        UserError: Both are one evaluation; or as `read_evaluated`.
    """
    if evaluation_folder(against, split).resolve() == folder.resolve():
        raise UserError(f"against: {against} has this evaluation itself. Give another run, or leave `against` out.")
    return read_evaluated(against, split)


def identify_against(against: Path, other: Evaluated) -> dict[str, str]:
    """Return the path, the name and the content of an evaluation to compare with."""
    is_run = other.folder != against
    run, split = other.folder.resolve().parents[1], other.folder.name
    name = against.resolve().name if is_run else f"{run.name}/{split}"
    return {"run": str(against), "name": name, "questions_xxh3": file_hash(other.folder / QUESTIONS)}


def compare_against(own: Evaluated, other: Evaluated) -> dict[str, Any]:
    """Return the differences of two evaluations, this one minus the other.

    Returns:
        `accuracy`: by cutoff that both have, the difference, its 95 % interval, the p-value of the sign test, and the
        ids of the questions that only this evaluation answers (`won`) and that only the other does (`lost`).
        `measures`: the difference of each judged measure that both have; its p-value is of the randomization test.

    Raises:
        UserError: The evaluations are of other questions, answers or judgments, or have no figure in common.
    """
    own.check_comparable(other)
    qids = list(own.rows)
    accuracy, ours, theirs = {}, own.first_hits(qids), other.first_hits(qids)
    for k in sorted(own.cutoffs & other.cutoffs):
        hit, other_hit = (own.values(f"accuracy@{k}", qids), other.values(f"accuracy@{k}", qids))
        won = [qid for qid, change in zip(qids, hit - other_hit, strict=True) if change > 0]
        lost = [qid for qid, change in zip(qids, hit - other_hit, strict=True) if change < 0]
        accuracy[str(k)] = {**_described(paired_difference(ours, theirs, k)), "won": won, "lost": lost}
    measures = {
        name: _described(paired_mean_difference([own.values(name, qids)], [other.values(name, qids)]))
        for name in own.measures
        if name in other.measures
    }
    if not accuracy and not measures:
        raise UserError(
            f"against: {other.folder} has no cutoff and no measure of this evaluation. Use the same `topk`."
        )
    return {"accuracy": accuracy, "measures": measures}


def _described(difference: Difference) -> dict[str, Any]:
    return {
        "difference": difference.value,
        "interval": [difference.low, difference.high],
        "p": difference.p_value,
    }
