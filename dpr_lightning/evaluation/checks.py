"""Checks of an evaluation that read neither questions nor passages: its settings, and whether its inputs exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpr_lightning.errors import UserError, check_choice, check_positive
from dpr_lightning.evaluation.judged import LARGEST_CUTOFF, parse_measures
from dpr_lightning.evaluation.qrels import find_qrels
from dpr_lightning.retrieval.rankings import check_ranking_exists
from dpr_lightning.run_dir import METHODS, RANKING_ENDINGS, RunDir


def check_settings(
    *,
    method: str | None = None,
    format: str = "trec",
    answers: str = "string",
    topk: Sequence[int] = (1, 5, 20, 100),
    qrels: Path | str | Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
) -> list[int]:
    """Return the cutoffs in ascending order, each once, if all these settings of `evaluate` are possible.

    Raises:
        UserError: One of them is not.
    """
    check_choice(answers, "answers", ["string", "regex"])
    check_choice(format, "format", list(RANKING_ENDINGS))
    check_choice(method, "method", [None, *METHODS])
    if not isinstance(topk, Sequence) or not topk:
        raise UserError(f"topk: {topk!r} is not a list of cutoffs. Set it like `topk`=[1,5,20].")
    for k in topk:
        check_positive(k, "topk")
        if k > LARGEST_CUTOFF:
            raise UserError(f"topk: {k:,} is more than {LARGEST_CUTOFF:,}. Lower `topk`.")
    cutoffs = sorted(set(topk))
    parse_measures(measures, cutoffs)
    if measures is not None and qrels is None:
        raise UserError("measures: they need judged passages. Set `qrels`, or leave `measures` out.")
    return cutoffs


def check_inputs(
    run: RunDir,
    *,
    split: str = "test",
    run_file: Path | str | None = None,
    method: str | None = None,
    format: str = "trec",
    qrels: Path | str | Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Raise UserError if the ranking or the qrels do not exist, unless a finished evaluation needs no ranking."""
    if qrels is not None:
        find_qrels(qrels)
    if overwrite or not run.evaluation(split, method).exists():
        check_ranking_exists(Path(run_file or run.ranking(split, format, method)))
