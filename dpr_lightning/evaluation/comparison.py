"""Evaluations of the same questions compared: accuracy@k of each, and paired differences from the first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import FirstHits, accuracy_at, paired_difference
from dpr_lightning.evaluation.output import read_metrics, read_questions
from dpr_lightning.files import file_hash


def compare(folders: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, FirstHits]]:
    """Compare evaluations with the first one.

    Args:
        folders: The folders that `evaluate` wrote, by the name of each system.

    Returns:
        The figures at the cutoffs that all evaluations have, as plain data, and each system's first hits.

    Raises:
        UserError: The evaluations are not of the same questions, answers and rules, have no common cutoff, or are
            older than their ranking.
    """
    questions = {name: {row["qid"]: row for row in read_questions(folder)} for name, folder in folders.items()}
    metrics = {name: read_metrics(folder) for name, folder in folders.items()}
    baseline = next(iter(folders))
    for name, folder in folders.items():
        pair = f"{folder} and {folders[baseline]}"
        _check_same_questions(pair, questions[name], questions[baseline])
        if any(metrics[name].get(key) != metrics[baseline].get(key) for key in ("answers", "match_title")):
            raise UserError(f"{pair} match answers by different rules. Evaluate both by the same rule.")
        _check_ranking(folder, metrics[name])
    cutoffs = [set(map(int, figures["accuracy"])) for figures in metrics.values()]
    topk = sorted(set.intersection(*cutoffs))
    if not topk:
        raise UserError(
            f"{', '.join(map(str, folders.values()))}: no common cutoff. Evaluate with answers and the same `topk`."
        )
    qids = list(questions[baseline])
    hits = {name: np.array([rows[qid]["first_hit"] or 0 for qid in qids]) for name, rows in questions.items()}
    systems: dict[str, Any] = {}
    for name, ranks in hits.items():
        systems[name] = {"accuracy": {str(k): accuracy_at(ranks, k)._asdict() for k in topk}}
        if name != baseline:
            differences = {str(k): paired_difference(ranks, hits[baseline], k)._asdict() for k in topk}
            systems[name]["difference"] = differences
    result = {
        "questions": len(qids),
        "baseline": baseline,
        "systems": systems,
        "left_out": sorted(set.union(*cutoffs).difference(topk)),
        "corpora": len({figures.get("corpus_fingerprint") for figures in metrics.values()} - {None}),
    }
    return result, hits


def _check_same_questions(pair: str, rows: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    if unshared := rows.keys() ^ first.keys():
        raise UserError(f"{pair} differ in question {min(unshared)}. Evaluate the same questions.")
    for qid, row in rows.items():
        if row.get("answers") != first[qid].get("answers"):
            raise UserError(f"{pair} have different answers to question {qid}. Evaluate with the same answers.")


def _check_ranking(folder: Path, figures: Mapping[str, Any]) -> None:
    """Raise UserError if the ranking still exists and has changed since it was evaluated."""
    ranking = Path(figures.get("run_file", ""))
    if "run_file_xxh3" in figures and ranking.is_file() and file_hash(ranking) != figures["run_file_xxh3"]:
        raise UserError(f"{folder} is older than {ranking}, which has changed since. Run evaluate.py again.")
