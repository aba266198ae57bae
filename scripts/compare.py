"""Compare runs on the same questions: figures with 95 % intervals, and paired differences from the first run.

    python scripts/compare.py RUN... [--split test] [--to markdown|latex|csv] [--json FILE] [--plot FILE.svg]
        [--report FILE.html]
    python scripts/compare.py --datasets SYSTEM... [--split test] [--to …] [--json FILE]

Each RUN contains `evaluation/SPLIT/`, as evaluate.py writes it; a folder of runs, such as a sweep's, stands for all of
them, and a glob for all that match. It may also be the folder of one evaluation: `runs/nq/evaluation/test.bm25`. With
--datasets, each SYSTEM has a run folder per data set, and the tables have a row per data set and the mean. A table has
the settings in which the trainings of the runs differ.

The p-values are those of the exact sign test on the questions in which two runs differ (accuracy) and of the paired
randomization test (judged measures, means over data sets; Smucker, Allan and Carterette, CIKM 2007), each corrected for
the number of runs by Holm's method.

--report writes one HTML file with figures, charts and all questions of the runs, or of one; it and --plot need the
extra `report`.
"""

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from dpr_lightning.charts import draw
from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.evaluation.comparison import compare, compare_datasets, find_runs
from dpr_lightning.evaluation.comparison_table import FORMATS, comparison_grids, notes, render
from dpr_lightning.evaluation.evaluated import evaluation_folder, run_folder
from dpr_lightning.evaluation.report.figures import accuracy_curves
from dpr_lightning.evaluation.report.page import write_report
from dpr_lightning.files import atomic_write, write_json
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training_config import differing_settings


def main() -> None:
    """Compare the runs on the command line, print the tables and write the files that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--datasets", action="store_true", help="each RUN has a run folder per data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--to", default="terminal", choices=FORMATS, help="form of the tables")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures too")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw accuracy@k over k")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a report to open in a browser")
    args = parser.parse_args()
    with report_user_errors():
        runs, skipped, hits = [], [], {}
        if args.datasets:
            result = compare_datasets(args.runs, args.split)
        else:
            runs, skipped = find_runs(args.runs, args.split)
            result, hits = compare(runs or args.runs, args.split)
            folders = {name: RunDir(run_folder(run)) for name, run in zip(hits, runs, strict=True)}
            result["settings"] = differing_settings(folders)
        curves_to = max((int(k) for k in result["systems"][result["baseline"]].get("accuracy", ())), default=0)
        if args.plot and not curves_to:
            raise UserError("--plot: there are no accuracies of one data set to draw. Leave it out.")
        if args.report and args.datasets:
            raise UserError("--report: it is of one data set. Leave out --datasets, and give runs of one data set.")
        width = max(Console().width, 80)
        print("\n\n".join(render(grid, args.to, width=width) for grid in comparison_grids(result)))
        lines = [*notes(result)]
        if skipped:
            lines.append(f"skipped, because they have no evaluation of {args.split}: {', '.join(map(str, skipped))}")
        for line in lines:
            print(line, file=sys.stdout if args.to == "terminal" else sys.stderr)
        if args.json:
            write_json(args.json, result)
        if args.plot:
            svg = draw(accuracy_curves(hits, curves_to))
            with atomic_write(args.plot) as file:
                file.write(svg)
        if args.report:
            evaluated = [evaluation_folder(run, args.split) for run in runs or args.runs]
            again = shlex.join(["python", *sys.argv])
            write_report(args.report, dict(zip(hits, evaluated, strict=True)), command=again)


if __name__ == "__main__":
    main()
