"""The figures of an evaluation as a table in the terminal, beside published figures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Figures = Mapping[str, Mapping[int, float]]  # system -> cutoff -> accuracy
_PUBLISHED_SPLIT = "test"
_NARROW_COLUMN = 17  # columns of the terminal that an interval takes with its borders
_NO_LIMIT = 10_000


def accuracy_table(name: str, metrics: Mapping[str, Any], published: Figures, width: int | None = None) -> str:
    """Return the run's accuracy with 95 % intervals, published figures, measures of judged passages, and notes.

    Args:
        name: Name of the run.
        metrics: Metrics as `evaluate` returns them.
        published: Figures that others published for the test questions of this data set; not shown for another split.
        width: Columns of the table at most, by default those of the terminal.
    """
    output = io.StringIO()
    console = Console(file=output, width=width or Console().width)
    if metrics["accuracy"]:
        for table in _accuracy_tables(name, metrics, published, console.width):
            console.print(table)
    if metrics.get("qrels"):
        without = metrics["judged_without_relevant"]
        extra = f", {without:,} of them without a relevant passage" if without else ""
        title = f"judged passages, {metrics['judged']:,} of {metrics['questions']:,} questions{extra}"
        console.print(title, style="italic", soft_wrap=True, highlight=False)
        console.print(_judged_table(metrics))
    for note in (*_against(metrics), *notes(metrics)):
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    return output.getvalue().rstrip()


def _accuracy_tables(name: str, metrics: Mapping[str, Any], published: Figures, width: int) -> list[Table]:
    """Return one table, or if it is wider than `width`, tables of fewer cutoffs with the intervals below the means."""
    cutoffs = [int(k) for k in metrics["accuracy"]]
    whole = _accuracy_table(name, metrics, published, cutoffs)
    if Console(width=_NO_LIMIT).measure(whole).maximum <= width:
        return [whole]
    at_once = max(1, (width - _NARROW_COLUMN - 1) // _NARROW_COLUMN)  # one column is for the names
    parts = [cutoffs[start : start + at_once] for start in range(0, len(cutoffs), at_once)]
    return [_accuracy_table(name, metrics, published, part, separator="\n") for part in parts]


def _accuracy_table(
    name: str, metrics: Mapping[str, Any], published: Figures, topk: Sequence[int], separator: str = " "
) -> Table:
    means, intervals = metrics["accuracy"], metrics["interval"]
    table = Table(title=f"answer accuracy, {metrics['questions']:,} questions", title_justify="left")
    table.add_column("system", overflow="fold")
    for k in topk:
        table.add_column(f"top-{k}", justify="right", no_wrap=True)
    cells = [f"{means[k]:.3f}{separator}[{intervals[k][0]:.3f}, {intervals[k][1]:.3f}]" for k in [str(k) for k in topk]]
    table.add_row(Text(f"{name} (measured)"), *cells)
    for system, figures in comparable(published, metrics["split"]).items():
        table.add_row(Text(f"{system} (published)"), *(f"{figures[k]:g}" if k in figures else "" for k in topk))
    return table


def comparable(published: Figures, split: str) -> Figures:
    """Return the published figures that a split can be compared with; they are of the test questions."""
    return published if split == _PUBLISHED_SPLIT else {}


def _judged_table(metrics: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column("measure")
    table.add_column("mean", justify="right")
    table.add_column("95 %", justify="right")
    for measure, value in metrics["qrels"].items():
        low, high = metrics["qrels_interval"][measure]
        table.add_row(Text(measure), f"{value:.3f}", f"[{low:.3f}, {high:.3f}]")
    return table


def _against(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each figure that is compared with another evaluation."""
    if not (against := metrics.get("against")):
        return
    yield f"compared with {against['name']} (difference, 95 %, p-value, questions won and lost)"
    figures = {f"top-{k}": one for k, one in against["accuracy"].items()} | against["measures"]
    for name, one in figures.items():
        low, high = one["interval"]
        line = f"{name:<11} {one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]  p {one['p']:.2g}"
        counts = f"  {len(one['won']):,} won, {len(one['lost']):,} lost" if "won" in one else ""
        yield f"{line:<43}{counts}".rstrip()


def notes(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines below the tables: what was left out, what the means run over."""
    if metrics["without_answers"]:
        yield f"{metrics['without_answers']:,} questions without answers: answer accuracy is not measured"
    if metrics["skipped"]:
        yield f"{metrics['skipped']:,} invalid questions were skipped and do not count"
    if metrics["missing"]:
        yield f"{metrics['missing']:,} questions are not in the ranking and count as misses"
    if left_out := metrics["left_out"]:
        parts = [f"{_title(name)} (between {low:.3f} and {high:.3f})" for name, (low, high) in left_out.items()]
        yield f"left out, because the rankings end before the cutoff: {', '.join(parts)}"
    if tolerated := {name: count for name, count in metrics["undecided"].items() if name not in left_out}:
        parts = [f"{_title(name)} ({count:,} questions)" for name, count in tolerated.items()]
        yield f"counted as misses, because their rankings end before the cutoff: {', '.join(parts)}"


def _title(measure: str) -> str:
    return measure.replace("accuracy@", "top-")
