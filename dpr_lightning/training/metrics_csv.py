"""Training metrics as a CSV file that survives interruption."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from dpr_lightning.files import atomic_write


class MetricsCsv(Logger):
    """`metrics.csv`: a row per logged step; a run that resumes at a step replaces the rows from that step on.

    Lightning's own CSVLogger deletes the file of an interrupted run.
    """

    def __init__(self, folder: str | Path) -> None:
        """Writes `folder/metrics.csv`."""
        super().__init__()
        self.file = Path(folder) / "metrics.csv"
        self._rows: list[dict[str, Any]] | None = None  # read at the first logged step
        self._columns: list[str] = []
        self._saved = 0  # rows that stand in the file as they are

    @property
    def name(self) -> str:
        """A name for Lightning's messages."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one version."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsCsv:
        """The logger itself."""
        return self

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds metrics to the row of `step`."""
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
        """Nothing: the configuration stands in the run folder."""

    @rank_zero_only
    def save(self) -> None:
        """Appends the new rows, or writes all anew where an old row or the columns changed; Lightning calls it."""
        if not self._rows or self._saved == len(self._rows):
            return
        if self._saved:
            with self.file.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerows(self._rows[self._saved :])
        else:
            with atomic_write(self.file) as file:
                writer = csv.DictWriter(file, self._columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self._rows)
        self._saved = len(self._rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is left."""
        self.save()

    def _read(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        with self.file.open(newline="", encoding="utf-8") as file:
            return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
