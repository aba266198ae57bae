"""The figures of an evaluation as a table in the terminal, beside published figures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

Figures = Mapping[str, Mapping[int, float]]  # system -> cutoff -> accuracy
_PUBLISHED_SPLIT = "test"


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
        title = f"answer accuracy, {metrics['questions']:,} questions"
        console.print(title, style="italic", soft_wrap=True, highlight=False)
        console.print(_accuracy_table(metrics, name, published))
    if metrics.get("qrels"):
        without = metrics["judged_without_relevant"]
        extra = f", {without:,} of them without a relevant passage" if without else ""
        title = f"judged passages, {metrics['judged']:,} of {metrics['questions']:,} questions{extra}"
        console.print(title, style="italic", soft_wrap=True, highlight=False)
        console.print(_judged_table(metrics))
    for note in (*_against(metrics), *notes(metrics)):
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    return output.getvalue().rstrip()


def _accuracy_table(metrics: Mapping[str, Any], name: str, published: Figures) -> Table:
    """Return a row for each cutoff of the run, and below it those of the published figures at this cutoff."""
    table = _table("cutoff", "system", "mean", "95 %")
    others = comparable(published, metrics["split"])
    for k, mean in metrics["accuracy"].items():
        table.add_row(f"top-{k}", Text(f"{name} (measured)"), f"{mean:.3f}", _interval(metrics["interval"][k]))
        for system, figures in others.items():
            if int(k) in figures:
                table.add_row(f"top-{k}", Text(f"{system} (published)"), f"{figures[int(k)]:<5g}", "")
        if others:
            table.add_section()
    return table


def comparable(published: Figures, split: str) -> Figures:
    """Return the published figures that a split can be compared with; they are of the test questions."""
    return published if split == _PUBLISHED_SPLIT else {}


def _judged_table(metrics: Mapping[str, Any]) -> Table:
    table = _table("measure", "mean", "95 %")
    for measure, value in metrics["qrels"].items():
        table.add_row(Text(measure), f"{value:.3f}", _interval(metrics["qrels_interval"][measure]))
    return table


def _table(*heads: str) -> Table:
    """Return a table whose last two columns have figures, which do not break; names do if the terminal is narrow."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for head in heads:
        is_figure = head in heads[-2:]
        justify: JustifyMethod = "right" if is_figure else "left"
        table.add_column(head, justify=justify, overflow="fold", no_wrap=is_figure or head == "cutoff")
    return table


def _interval(ends: Sequence[float]) -> str:
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]"


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
