"""The page of a report: what the template shows, and the file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpr_lightning.charts import COLORS, draw, extra_needed, for_page
from dpr_lightning.evaluation import comparison_table, table
from dpr_lightning.evaluation.comparison import compare
from dpr_lightning.evaluation.report.data import ReportedEvaluation, read_evaluations
from dpr_lightning.evaluation.report.figures import describe_hit, figures
from dpr_lightning.evaluation.report.snippets import browser_data, script_json
from dpr_lightning.files import atomic_write

REPORT = "report.html"
_FOLDER = Path(__file__).parent
_DIFFERENCES = {"accuracy": "difference", "measures": "measure_difference"}
_FACTS = {
    "answers": "answers match by",
    "match_title": "titles are searched",
    "depth": "passages per question",
    "run_file": "ranking",
    "run_file_xxh3": "hash of the ranking",
    "model_fingerprint": "model",
    "corpus_fingerprint": "corpus",
    "queries_fingerprint": "questions",
    "qrels_fingerprint": "judgments",
}


def write_report(
    file: Path, evaluations: Mapping[str, Path], *, published: table.Figures | None = None, command: str = ""
) -> None:
    """Write one HTML file about one evaluation or several of the same questions, which needs no network.

    Everything is read from the folders of the evaluations and of the runs that they are in.

    Args:
        file: The file to write.
        evaluations: The folder of each evaluation by the name to show. Differences are from the first one.
        published: Figures that others published for the test questions of this data set.
        command: The command line that writes the report.

    Raises:
        MissingExtraError: The extra `report` is not installed.
        UserError: The evaluations cannot be compared, or a file of one does not exist or is damaged.
    """
    with extra_needed():
        from jinja2 import Environment, FileSystemLoader
        from markupsafe import Markup
    names, folders = list(evaluations), list(evaluations.values())
    read, passages = read_evaluations(folders)
    split = read[0].metrics.get("split", folders[0].name)
    result, _ = compare(folders, split, names)
    charts = [(one, Markup(for_page(draw(one.panel), one.title))) for one in figures(names, read, passages)]
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    values = {
        "title": f"{' and '.join(names) if len(names) < 3 else f'{len(names)} runs'} on {split}",
        "result": result,
        "hit": describe_hit(read[0]),
        "tables": list(_tables(result, table.comparable(published or {}, split))),
        "notes": list(_notes(result, names, read)),
        "charts": charts,
        "runs": [_facts(name, one) for name, one in zip(names, read, strict=True)],
        "colors": COLORS,
        "command": command,
        "style": Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "data": Markup(script_json(browser_data(names, read, passages))),
    }
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html.j2").render(values)
    with atomic_write(file) as opened:
        opened.write(page)


def _tables(result: Mapping[str, Any], published: table.Figures) -> Iterator[dict[str, Any]]:
    """Yield the tables of answer accuracy and of judged measures: heads, and a row of cells per system."""
    for kind, title in (("accuracy", "Answer accuracy"), ("measures", "Judged passages")):
        heads = list(result["systems"][result["baseline"]].get(kind, {}))
        if not heads:
            continue
        rows = [
            {"name": name, "cells": [_cell(system, kind, head) for head in heads]}
            for name, system in result["systems"].items()
        ]
        if kind == "accuracy":
            rows += [
                {"name": name, "published": True, "cells": [{"value": _published(own, int(k))} for k in heads]}
                for name, own in published.items()
            ]
        yield {"title": title, "heads": [f"top-{head}" if kind == "accuracy" else head for head in heads], "rows": rows}


def _published(figures: Mapping[int, float], k: int) -> str:
    return f"{figures[k]:g}" if k in figures else ""


def _cell(system: Mapping[str, Any], kind: str, figure: str) -> dict[str, str]:
    own = system[kind][figure]
    cell = {"value": f"{own['value']:.3f}", "interval": f"[{own['low']:.3f}, {own['high']:.3f}]"}
    if difference := system.get(_DIFFERENCES[kind], {}).get(figure):
        cell["difference"] = f"{difference['value']:+.3f}"
        cell["about"] = f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
        cell["p"] = f"{system['p_holm'][figure]:.2g}"
    return cell


def _notes(result: Mapping[str, Any], names: Sequence[str], evaluations: Sequence[ReportedEvaluation]) -> Iterator[str]:
    """Yield the sentences below the tables."""
    yield "Brackets: bootstrap 95 % intervals."
    yield from (_sentence(note) for note in comparison_table.notes(result))
    for name, one in zip(names, evaluations, strict=True):
        for note in table.notes(one.metrics):
            yield _sentence(f"{name}: {note}" if len(names) > 1 else note)


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:]}."


def _facts(name: str, one: ReportedEvaluation) -> dict[str, Any]:
    """Return what identifies an evaluation, and how it was made as far as its files tell."""
    known = {label: one.metrics[key] for key, label in _FACTS.items() if one.metrics.get(key) not in (None, "")}
    facts = {label: ("no", "yes")[value] if isinstance(value, bool) else value for label, value in known.items()}
    return {"name": name, "folder": str(one.folder), "facts": facts, "provenance": _provenance(one)}


def _provenance(one: ReportedEvaluation) -> str:
    """Return the provenance as indented JSON; an empty string if there is none."""
    value = one.metrics.get("provenance")
    if not value and one.run and (file := one.run.path / "provenance.json").is_file():
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:  # written just now, or damaged; the figures do not depend on it
            value = None
    return json.dumps(value, indent=2, ensure_ascii=False) if value else ""
