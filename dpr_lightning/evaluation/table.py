"""Accuracy as a table in the terminal, beside published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Figures = Mapping[str, Mapping[int, float]]  # system -> cutoff -> accuracy


def print_accuracy(name: str, metrics: Mapping[str, Any], published: Figures, console: Console | None = None) -> None:
    """Prints this run's accuracy with 95 % intervals, the published figures, and the measures from qrels.

    Args:
        name: of the run.
        metrics: as `evaluate` returns them.
        published: figures of others on the same questions and corpus.
        console: where to print, standard output by default.
    """
    console = console or Console()
    if metrics["accuracy"]:
        topk = [int(k) for k in metrics["accuracy"]]
        table = _table(f"answer accuracy, {metrics['questions']:,} questions", topk)
        intervals = metrics["interval"]
        cells = [
            f"{value:.3f} [{intervals[k][0]:.3f}, {intervals[k][1]:.3f}]" for k, value in metrics["accuracy"].items()
        ]
        table.add_row(Text(f"{name} (measured)"), *cells)
        for system, figures in published.items():
            table.add_row(Text(f"{system} (published)"), *(f"{figures[k]:g}" if k in figures else "" for k in topk))
        console.print(table)
    if metrics.get("qrels"):
        console.print(
            "judged passages: " + ", ".join(f"{measure} {value:.3f}" for measure, value in metrics["qrels"].items())
        )
    if metrics["missing"]:
        console.print(f"{metrics['missing']:,} questions are not in the ranking and count as misses")


def _table(title: str, topk: Sequence[int]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("system")
    for k in topk:
        table.add_column(f"top-{k}", justify="right")
    return table
