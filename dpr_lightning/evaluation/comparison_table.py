"""Comparisons as tables: for the terminal, in at most 80 columns if names allow it, and as Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

FORMATS = ("terminal", "markdown", "latex", "csv")
_KINDS = {"accuracy": "difference", "measures": "measure_difference"}
_LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"})
_SIGNIFICANT = 0.05


class Grid(NamedTuple):
    """A table: its title, the heads of its columns, and rows in sections."""

    title: str
    heads: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]
    folds: bool = False  # whether any column may be folded to fit the terminal


def comparison_grids(result: Mapping[str, Any]) -> Iterator[Grid]:
    """Yield the tables of a comparison: settings that differ, each data set by system, if several, then all figures."""
    if settings := result.get("settings"):
        yield _settings_grid(settings)
    where = f"{result['split']}, {result['questions']:,} questions"
    if datasets := result.get("datasets"):
        for figure in result["systems"][result["baseline"]]["measures"]:
            yield _datasets_grid(result, figure)
        where += f", mean of {len(datasets)} data sets"
    for kind, head, title in (("accuracy", "top-k", "answer accuracy"), ("measures", "measure", "judged passages")):
        figures = result["systems"][result["baseline"]].get(kind, {})
        if figures:
            title = "all figures" if datasets else title
            heads = (head, "system", "mean", "95 %", "diff.", "95 %", "p")
            yield Grid(f"{title}, {where}", heads, [_rows(result, kind, figure) for figure in figures])


def render(grid: Grid, format: str, *, width: int = 80) -> str:
    """Return a table as text in one of `FORMATS`; `width` is the number of columns of the terminal."""
    rows = [row for section in grid.sections for row in section]
    if format == "csv":
        output = io.StringIO()
        csv.writer(output, lineterminator="\n").writerows([grid.heads, *rows])
        return output.getvalue().rstrip()
    if format == "markdown":
        align = "|".join("---" if i < 2 else "---:" for i in range(len(grid.heads)))
        lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (grid.heads, *rows)]
        return "\n".join([f"**{grid.title}**", "", f"| {lines[0]} |", f"|{align}|", *(f"| {x} |" for x in lines[1:])])
    if format == "latex":
        body = [[" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in part] for part in grid.sections]
        parts = ["\n".join(part) for part in body]
        head = " & ".join(cell.translate(_LATEX) for cell in grid.heads)
        columns = "ll" + "r" * (len(grid.heads) - 2)
        top = [f"% {grid.title}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rf"{head} \\", r"\midrule"]
        return "\n".join([*top, "\n\\midrule\n".join(parts), r"\bottomrule", r"\end{tabular}"])
    console = Console(file=io.StringIO(), width=width)
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for i, head in enumerate(grid.heads):
        table.add_column(
            Text(head), justify="left" if i < 2 else "right", overflow="fold", no_wrap=i > 1 and not grid.folds
        )
    for section in grid.sections:
        for row in section:
            table.add_row(*map(Text, row))
        table.add_section()
    console.print(grid.title, soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined,no-any-return]


def notes(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines below the tables: what differences and p-values are, and what was left out."""
    compared = len(result["systems"]) - 1
    if compared:
        corrected = f", corrected for {compared} comparisons (Holm)" if compared > 1 else ""
        tests = [] if result.get("datasets") else ["sign test (accuracy)"] if _has(result, "accuracy") else []
        tests += ["randomization test" + (" (judged)" if tests else "")] if _has(result, "measures") else []
        yield f"differences from {result['baseline']}; p: {', '.join(tests)}{corrected}"
    if result["left_out"]:
        names = ", ".join(f"top-{k}" if isinstance(k, int) else k for k in result["left_out"])
        yield f"left out, because not every run has them: {names}"
    if result.get("corpora", 0) > 1:
        yield "the runs were evaluated on different corpora"


def _has(result: Mapping[str, Any], kind: str) -> bool:
    return bool(result["systems"][result["baseline"]].get(kind))


def _rows(result: Mapping[str, Any], kind: str, figure: str) -> list[list[str]]:
    rows = []
    for name, system in result["systems"].items():
        cells = [figure, name, *_cells(system[kind][figure], "")]
        if (differences := system.get(_KINDS[kind])) is not None:
            cells += [*_cells(differences[figure], "+"), f"{system['p_holm'][figure]:.2g}"]
        rows.append([*cells, *[""] * (7 - len(cells))])
    return rows


def _settings_grid(settings: Mapping[str, Mapping[str, Any]]) -> Grid:
    """Return a table with a row per system and a column per setting, which is named shortly where this is clear."""
    keys = list(next(iter(settings.values())))
    last = [key.rpartition(".")[2] for key in keys]
    heads = [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]
    rows = [[name, *(_setting(values[key]) for key in keys)] for name, values in settings.items()]
    return Grid("settings that differ", ["system", *heads], [rows], folds=True)


def _setting(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def _datasets_grid(result: Mapping[str, Any], figure: str) -> Grid:
    """Return a table with a row per data set and a column per system; a star marks a significant difference."""
    kind, key = ("accuracy", figure.partition("@")[2]) if figure.startswith("accuracy@") else ("measures", figure)
    rows = [
        [name, str(one["questions"]), *(_starred(system, kind, key) for system in one["systems"].values())]
        for name, one in result["datasets"].items()
    ]
    mean = ["mean", str(result["questions"]), *(_starred(s, "measures", figure) for s in result["systems"].values())]
    title = f"{figure}, {result['split']} (* differs from {result['baseline']}, p < {_SIGNIFICANT})"
    return Grid(title, ["data set", "questions", *result["systems"]], [rows, [mean]])


def _starred(system: Mapping[str, Any], kind: str, figure: str) -> str:
    return f"{system[kind][figure]['value']:.3f}{'*' if system.get('p_holm', {}).get(figure, 1) < _SIGNIFICANT else ''}"


def _cells(figures: Mapping[str, float], sign: str) -> list[str]:
    return [f"{figures['value']:{sign}.3f}", f"[{figures['low']:{sign}.3f}, {figures['high']:{sign}.3f}]"]
