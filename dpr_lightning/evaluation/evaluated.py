"""A finished evaluation that is read back for a comparison: its metrics, and the line of each question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import FirstHits
from dpr_lightning.evaluation.output import METRICS, read_metrics, read_questions
from dpr_lightning.evaluation.resampling import Values
from dpr_lightning.files import file_hash
from dpr_lightning.run_dir import RunDir

Rows = Mapping[str, Mapping[str, Any]]  # qid -> line of questions.jsonl


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: its folder, its metrics, and the line of each question."""

    folder: Path
    metrics: Mapping[str, Any]
    rows: Rows

    @property
    def cutoffs(self) -> set[int]:
        """The cutoffs of the accuracy."""
        return set(map(int, self.metrics["accuracy"]))

    @property
    def measures(self) -> list[str]:
        """The names of the judged measures that have an interval; earlier versions wrote none."""
        return [name for name in self.metrics.get("qrels", {}) if name in self.metrics.get("qrels_interval", {})]

    def first_hits(self, qids: Iterable[str]) -> FirstHits:
        """Return the rank of each question's first hit, 0 without one: [questions]."""
        return np.array([self.rows[qid]["first_hit"] or 0 for qid in qids], np.int64)

    def values(self, figure: str, qids: Iterable[str]) -> Values:
        """Return a figure, `accuracy@k` or a judged measure, of each question that has it."""
        if figure.startswith("accuracy@"):
            hits = self.first_hits(qids)
            return ((hits > 0) & (hits <= int(figure.partition("@")[2]))).astype(float)
        own = (self.rows[qid].get("measures", {}) for qid in qids)
        return np.array([values[figure] for values in own if figure in values])

    def check_comparable(self, other: Evaluated) -> None:
        """Raise UserError unless both have the same questions, answers, rule and judgments.

        Judgments are compared only if both evaluations have some.
        """
        folders = f"{self.folder} and {other.folder}"
        if apart := self.rows.keys() ^ other.rows.keys():
            raise UserError(f"{folders} differ in question {min(apart)}. Evaluate the same questions.")
        for qid, row in self.rows.items():
            if row.get("answers") != other.rows[qid].get("answers"):
                raise UserError(f"{folders} have different answers to question {qid}. Evaluate them alike.")
        if any(self.metrics.get(key) != other.metrics.get(key) for key in ("answers", "match_title")):
            raise UserError(f"{folders} match answers by different rules. Evaluate both by the same rule.")
        if len({one.metrics.get("qrels_fingerprint") for one in (self, other)} - {None}) > 1:
            raise UserError(f"{folders} have different judgments. Evaluate with the same qrels.")

    def check_current(self) -> None:
        """Raise UserError if the ranking has changed since it was evaluated, where it still exists."""
        ranking = Path(self.metrics.get("run_file", ""))
        known = self.metrics.get("run_file_xxh3")
        if known is not None and ranking.is_file() and file_hash(ranking) != known:
            raise UserError(f"{self.folder} is older than {ranking}, which has changed since. Run evaluate.py again.")


def read_evaluated(run: Path, split: str) -> Evaluated:
    """Return the evaluation of a run folder's split, or the one in `run` itself.

    Raises:
        UserError: It does not exist or is damaged, or its ranking has changed since.
    """
    folder = evaluation_folder(run, split)
    metrics = read_metrics(folder)
    evaluated = Evaluated(folder, metrics, {row["qid"]: row for row in read_questions(folder, metrics)})
    evaluated.check_current()
    return evaluated


def run_folder(run: Path) -> Path:
    """Return the run folder of what `evaluation_folder` takes."""
    return run.resolve().parents[1] if (run / METRICS).is_file() else run


def evaluation_folder(run: Path, split: str) -> Path:
    """Return the folder of a run's evaluation, or `run` itself if it is one."""
    return run if (run / METRICS).is_file() else RunDir(run).evaluation(split)
