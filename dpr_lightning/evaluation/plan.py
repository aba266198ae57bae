"""The plan of an evaluation: its ranking and its judgments, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpr_lightning.evaluation.judged import parse_measures
from dpr_lightning.evaluation.qrels import read_qrels
from dpr_lightning.plan import Plan
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.run_dir import RunDir


def add_evaluation(
    plan: Plan,
    run: RunDir,
    *,
    split: str = "test",
    run_file: Path | str | None = None,
    method: str | None = None,
    format: str = "trec",
    topk: Sequence[int] = (1, 5, 20, 100),
    qrels: Path | str | Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
) -> None:
    """Add ranking, judgments, figures and output to a plan; the arguments are those of `evaluate`."""
    with plan.collected():
        path = Path(run_file or run.ranking(split, format, method))
        depths = [len(ranking.docids) for ranking in read_rankings(path)]
        plan.add("ranking", f"{path}: {len(depths):,} questions, {max(depths):,} passages per question at most")
    if qrels is not None:
        with plan.collected():
            plan.add("qrels", f"{len(read_qrels(qrels)):,} judged questions")
    with plan.collected():
        figures = [f"top-{k}" for k in sorted(set(topk))]
        figures += map(str, parse_measures(measures, sorted(set(topk)))) if qrels is not None else []
        plan.add("figures", ", ".join(figures))
        folder = run.evaluation(split, method)
        plan.add(
            "output", f"{folder}{'; it exists, and is read if it is of the same files' if folder.exists() else ''}"
        )
