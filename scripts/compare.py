"""Compare runs on the same questions: accuracy@k with 95 % intervals, and paired differences from the first run.

    python scripts/compare.py RUN... [--split test] [--json FILE] [--plot FILE.svg]

Each RUN is a run folder with `evaluation/SPLIT/`, as evaluate.py writes it. The p-values are those of the exact sign
test on the questions in which two runs differ.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.evaluation.accuracy import accuracy_at
from dpr_lightning.evaluation.comparison import compare
from dpr_lightning.evaluation.plot import accuracy_curves
from dpr_lightning.files import atomic_write, write_json
from dpr_lightning.run_dir import RunDir


def evaluations(runs: list[Path], split: str) -> dict[str, Path]:
    """Return the evaluation folders by the name of the run, or by its path if two runs share the name."""
    names = [run.name if [other.name for other in runs].count(run.name) == 1 else str(run) for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=names.count)} is given twice. Give each run once.")
    return {name: RunDir(run).evaluation(split) for name, run in zip(names, runs, strict=True)}


def print_comparison(result: dict, console: Console) -> None:
    """Print a table with a section for each cutoff and a row for each run."""
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
    if result["left_out"]:
        cutoffs = ", ".join(f"top-{k}" for k in result["left_out"])
        console.print(f"left out, because not every run has them: {cutoffs}", soft_wrap=True, highlight=False)
    if result["corpora"] > 1:
        console.print("the runs were evaluated on different corpora", soft_wrap=True)


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
        figures, hits = compare(evaluations(args.runs, args.split))
        result = {"split": args.split, **figures}
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
