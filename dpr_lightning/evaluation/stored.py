"""A finished evaluation that is asked for again: read it, if the same settings and files would give it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.output import read_metrics

Metrics = dict[str, Any]


def stored_evaluation(
    folder: Path, wanted: Mapping[str, Any], *, cutoffs: Sequence[int], measures: Sequence[str]
) -> Metrics:
    """Return the metrics of a finished evaluation.

    Args:
        folder: The folder of the evaluation.
        wanted: What identifies the evaluation that is asked for: values of its metrics by their names, and
            `against` and `against_xxh3`, the path and the content of the evaluation that it is compared with.
        cutoffs: The cutoffs of the accuracy.
        measures: The names of the measures of judged passages.

    Raises:
        UserError: The stored evaluation has other settings or files; the message names the first difference. Or it is
            damaged.
    """
    metrics = read_metrics(folder)
    names = [*(f"accuracy@{k}" for k in metrics["accuracy"]), *metrics.get("qrels", {}), *metrics.get("left_out", {})]
    against = metrics.get("against") or {}
    found = {**metrics, "against": against.get("run"), "against_xxh3": against.get("questions_xxh3")}
    differences = [f"{name}={found.get(name)}" for name, value in wanted.items() if found.get(name) != value]
    accuracy = {f"accuracy@{k}" for k in cutoffs}
    if not metrics.get("without_answers") and {name for name in names if name.startswith("accuracy@")} != accuracy:
        differences.append("other cutoffs (`topk`)")
    judged = set(metrics.get("measures") or (name for name in names if not name.startswith("accuracy@")))
    if judged != set(measures):
        differences.append("other measures (`measures`)")
    if differences:
        raise UserError(
            f"{folder} is finished already with {differences[0]}. Set overwrite=true to replace it, or choose another "
            "run_dir."
        )
    return metrics
