"""The curves of a training: loss and validation measures over its steps, from its `metrics.csv`."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from dpr_lightning.charts import Lines, draw
from dpr_lightning.files import atomic_write

METRICS_CSV, CURVES = "metrics.csv", "curves.svg"
_MOST_POINTS = 400  # of a line; more do not show
_LOSS, _VALIDATION = "train/loss", "val/"
Curve = tuple[list[float], list[float]]


def read_curves(file: Path) -> dict[str, Curve]:
    """Return steps and values of the training loss and of each validation measure, by the name of the column.

    Values that are missing, not finite or cut off at the end of the file are left out, and so is a column without any.
    """
    curves: dict[str, Curve] = {}
    with file.open(newline="", encoding="utf-8", errors="replace") as opened:
        for row in csv.DictReader(opened):
            for name, value in row.items():
                if not isinstance(name, str) or not (name == _LOSS or name.startswith(_VALIDATION)):
                    continue
                try:
                    step, number = int(row["step"]), float(value)
                except (TypeError, ValueError):
                    continue
                if math.isfinite(number):
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(step)
                    values.append(number)
    return curves


def training_panels(file: Path) -> list[Lines]:
    """Return a chart of the loss, one of the validation measures between 0 and 1, and one of each other measure."""
    curves = read_curves(file)
    loss, per_point = _thinned(curves.pop(_LOSS)) if _LOSS in curves else (None, 1)
    shares = {name: curve for name, curve in curves.items() if all(0 <= value <= 1 for value in curve[1])}
    others = [{name: curve} for name, curve in curves.items() if name not in shares]
    label = f"{_LOSS}, mean of {per_point:,} logged steps" if per_point > 1 else _LOSS
    panels = [Lines({_LOSS: loss}, x="step", y=label, is_whole=True)] if loss else []
    for group in [shares, *others] if shares else others:
        lines = {name: _thinned(curve)[0] for name, curve in group.items()}
        name = next(iter(lines)) if len(lines) == 1 else "validation"
        panels.append(Lines(lines, x="step", y=name, is_whole=True))
    return panels


def write_training_curves(folder: Path) -> None:
    """Draw `curves.svg` from the `metrics.csv` in the folder of a training; do nothing before the first logged step.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    file = folder / METRICS_CSV
    if file.exists() and (panels := training_panels(file)):
        svg = draw(*panels)
        with atomic_write(folder / CURVES) as opened:
            opened.write(svg)


def _thinned(curve: Curve) -> tuple[Curve, int]:
    """Return a curve of at most `_MOST_POINTS` points, and of how many points each is the mean."""
    steps, values = curve
    size = math.ceil(len(steps) / _MOST_POINTS)
    starts = range(0, len(steps), size)
    return ([_mean(steps[i : i + size]) for i in starts], [_mean(values[i : i + size]) for i in starts]), size


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
