"""Compare runs on the same questions: accuracy@k with 95 % intervals, and paired differences from the first run.

    python scripts/compare.py RUN... [--split test] [--json FILE] [--plot FILE.svg]

Each RUN is a run folder with `evaluation/SPLIT/`, as evaluate.py writes it. The p-value is that of an exact sign test
on the questions on which two runs differ.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.evaluation.accuracy import accuracy_at, paired_difference
from dpr_lightning.evaluation.plot import accuracy_curves
from dpr_lightning.evaluation.stage import read_first_hits
from dpr_lightning.files import atomic_write, write_json


def compare(runs: list[Path], split: str) -> tuple[dict, dict]:
    """Return accuracies and differences at the cutoffs that all runs share, and the first hits of each run by name."""
    names = [run.name if [other.name for other in runs].count(run.name) == 1 else str(run) for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=names.count)} is given twice. Name each run once.")
    folders = [run / "evaluation" / split for run in runs]
    hits = {}
    for name, folder in zip(names, folders, strict=True):
        qids, first_hits = read_first_hits(folder)
        hits[name] = dict(zip(qids, first_hits.tolist(), strict=True))
        if unshared := set(hits[name]) ^ set(hits[names[0]]):
            raise UserError(
                f"{folder} and {folders[0]} differ in question {min(unshared)}. Evaluate the same questions."
            )
    metrics = [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in folders]
    for folder, figures in zip(folders, metrics, strict=True):
        if any(figures.get(key) != metrics[0].get(key) for key in ("answers", "match_title")):
            raise UserError(
                f"{folder} and {folders[0]} match answers by different rules. Evaluate both by the same rule."
            )
    topk = sorted(set.intersection(*(set(map(int, figures["accuracy"])) for figures in metrics)))
    if not topk:
        raise UserError(f"{', '.join(map(str, folders))}: no common cutoff. Evaluate with answers and the same topk.")
    ordered = {name: np.array([hits[name][qid] for qid in hits[names[0]]]) for name in names}
    first, systems = ordered[names[0]], {}
    for name, ranks in ordered.items():
        systems[name] = {"accuracy": {str(k): accuracy_at(ranks, k)._asdict() for k in topk}}
        if ranks is not first:
            systems[name]["difference"] = {str(k): paired_difference(ranks, first, k)._asdict() for k in topk}
    return {"split": split, "questions": len(first), "baseline": names[0], "systems": systems}, ordered


def print_comparison(result: dict, console: Console) -> None:
    """Print a table with a section per cutoff and a row per run."""
    table = Table(title=f"answer accuracy, {result['split']}, {result['questions']:,} questions", title_justify="left")
    for column in ("top-k", "system", "accuracy", "95 %", f"less {result['baseline']}", "95 %", "p"):
        table.add_column(Text(column), justify="left" if column == "system" else "right")
    for k in result["systems"][result["baseline"]]["accuracy"]:
        for name, system in result["systems"].items():
            cells = [Text(name), *_cells(system["accuracy"][k], "")]
            if "difference" in system:
                cells += [*_cells(system["difference"][k], "+"), f"{system['difference'][k]['p_value']:.2g}"]
            table.add_row(k, *cells)
        table.add_section()
    console.print(table)


def _cells(figures: dict, sign: str) -> list[str]:
    return [f"{figures['value']:{sign}.3f}", f"[{figures['low']:{sign}.3f}, {figures['high']:{sign}.3f}]"]


def main() -> None:
    """Read the command line, compare, print the table and write the requested files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="plot accuracy@k over k")
    args = parser.parse_args()
    with report_user_errors():
        result, hits = compare(args.runs, args.split)
        print_comparison(result, Console(width=max(Console().width, 120)))
        if args.json:
            write_json(args.json, result)
        if args.plot:
            most = max(int(k) for k in result["systems"][result["baseline"]]["accuracy"])
            curves = {name: [accuracy_at(ranks, k).value for k in range(1, most + 1)] for name, ranks in hits.items()}
            with atomic_write(args.plot) as file:
                file.write(accuracy_curves(curves))


if __name__ == "__main__":
    main()
