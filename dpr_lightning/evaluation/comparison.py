"""Several runs on the same questions: accuracies, and paired differences to the first run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import FirstHits, accuracy_at, paired_difference
from dpr_lightning.evaluation.output import read_metrics, read_questions
from dpr_lightning.files import file_hash
from dpr_lightning.run_dir import RunDir

Rows = Mapping[str, Mapping[str, Any]]  # qid -> line of questions.jsonl


def compare(runs: Sequence[Path], split: str) -> tuple[dict[str, Any], dict[str, FirstHits]]:
    """Return accuracies and differences at the cutoffs that all runs have, and each run's first hits, both by name.

    Args:
        runs: Run folders; the first is the baseline.
        split: Name of the questions.

    Raises:
        UserError: The runs were evaluated on different questions or answers, by different rules or at different
            cutoffs, or a ranking has changed since.
    """
    names = [run.name if [other.name for other in runs].count(run.name) == 1 else str(run) for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=names.count)} is given twice. Give each run once.")
    folders = [RunDir(run).evaluation(split) for run in runs]
    questions = [{row["qid"]: row for row in read_questions(folder)} for folder in folders]
    metrics = [read_metrics(folder) for folder in folders]
    for folder, own, figures in zip(folders, questions, metrics, strict=True):
        _check_same_questions(folder, own, folders[0], questions[0])
        if any(figures.get(key) != metrics[0].get(key) for key in ("answers", "match_title")):
            raise UserError(f"{folder} and {folders[0]} look for answers by different rules. Evaluate them alike.")
        _check_ranking(folder, figures)
    cutoffs = [set(map(int, figures["accuracy"])) for figures in metrics]
    topk = sorted(set.intersection(*cutoffs))
    if not topk:
        raise UserError(f"{', '.join(map(str, folders))}: no cutoff in common. Evaluate with answers and equal topk.")
    hits = {
        name: np.array([own[qid]["first_hit"] or 0 for qid in questions[0]])
        for name, own in zip(names, questions, strict=True)
    }
    first = hits[names[0]]
    systems: dict[str, dict[str, Any]] = {}
    for name, ranks in hits.items():
        systems[name] = {"accuracy": {str(k): accuracy_at(ranks, k)._asdict() for k in topk}}
        if ranks is not first:
            systems[name]["difference"] = {str(k): paired_difference(ranks, first, k)._asdict() for k in topk}
    result: dict[str, Any] = {"split": split, "questions": len(first), "baseline": names[0], "systems": systems}
    result["left_out"] = sorted(set.union(*cutoffs).difference(topk))
    result["corpora"] = len({figures.get("corpus_fingerprint") for figures in metrics} - {None})
    return result, hits


def _check_same_questions(folder: Path, own: Rows, first_folder: Path, first: Rows) -> None:
    """Raise UserError unless two evaluations are of the same questions with the same answers."""
    if apart := own.keys() ^ first.keys():
        raise UserError(f"{folder} and {first_folder} differ in question {min(apart)}. Evaluate the same questions.")
    for qid, row in own.items():
        if row.get("answers") != first[qid].get("answers"):
            raise UserError(
                f"{folder} and {first_folder} have different answers to question {qid}. Evaluate them alike."
            )


def _check_ranking(folder: Path, figures: Mapping[str, Any]) -> None:
    """Raise UserError if the ranking has changed since it was evaluated, where it still exists."""
    ranking = Path(figures.get("run_file", ""))
    if "run_file_xxh3" in figures and ranking.is_file() and file_hash(ranking) != figures["run_file_xxh3"]:
        raise UserError(f"{folder} is older than {ranking}, which has changed since. Run evaluate.py again.")
