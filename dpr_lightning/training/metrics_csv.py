"""Training metrics as a CSV file that survives interruption."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from dpr_lightning.files import atomic_write
from dpr_lightning.training.write_errors import write_errors
from dpr_lightning.training_curves import METRICS_CSV


class MetricsCsv(Logger):
    """Writes `metrics.csv`, a row per logged step; a run that resumes at a step replaces the rows from that step on.

    Lightning's own CSVLogger deletes the file of an interrupted run.
    """

    def __init__(self, folder: str | Path) -> None:
        """Take the folder of the file."""
        super().__init__()
        self.file = Path(folder) / METRICS_CSV
        self._rows: list[dict[str, Any]] | None = None  # read at the first logged step
        self._columns: list[str] = []
        self._saved = 0  # number of leading rows that are unchanged in the file

    @property
    def name(self) -> str:
        """Return a name for Lightning's messages."""
        return "csv"

    @property
    def version(self) -> str:
        """Return an empty version, since there is only one."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsCsv:
        """Return the logger itself."""
        return self

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add metrics to the row of `step`."""
        step = step or 0
        if self._rows is None:
            self._rows = [row for row in self._read() if int(row["step"]) < step]
            self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        if not self._rows or int(self._rows[-1]["step"]) != step:
            self._rows.append({"step": step})
        elif self._saved == len(self._rows):
            self._saved = 0
        self._rows[-1].update(metrics)
        added = [name for name in self._rows[-1] if name not in self._columns]
        if added:
            self._columns += added
            self._saved = 0

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder has the configuration."""

    @rank_zero_only
    def save(self) -> None:
        """Append new rows; rewrite the file if a saved row or the columns changed. Called by Lightning."""
        if not self._rows or self._saved == len(self._rows):
            return
        saved, self._saved = self._saved, 0  # after an error, the next call rewrites the file
        with write_errors(self.file):
            if saved:
                with self.file.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self._columns, lineterminator="\n").writerows(self._rows[saved:])
            else:
                with atomic_write(self.file) as file:
                    writer = csv.DictWriter(file, self._columns, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(self._rows)
        self._saved = len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Save the last rows."""
        self.save()

    def _read(self) -> list[dict[str, Any]]:
        """Return the rows of an earlier run, without a last line that was cut off."""
        if not self.file.exists():
            return []
        lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = csv.DictReader(line for line in lines if line.endswith("\n"))
        return [{name: value for name, value in row.items() if value} for row in rows]


def best_logged(file: Path, *, monitor: str, mode: str) -> float | None:
    """Return the best value of a metric in a `metrics.csv`; None if it was never logged.

    Args:
        file: The metrics of a training.
        monitor: The name of the metric.
        mode: `min` or `max`, whichever is best.
    """
    if not file.exists():
        return None
    with file.open(newline="", encoding="utf-8") as opened:
        values = [float(row[monitor]) for row in csv.DictReader(opened) if row.get(monitor)]
    return (min if mode == "min" else max)(values) if values else None
