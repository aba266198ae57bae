"""Compare runs on the same questions: accuracy@k with 95 % intervals, and paired differences to the first run.

    python scripts/compare.py RUN... [--split test] [--json FILE] [--plot FILE.svg]

Each RUN contains `evaluation/SPLIT/`, as evaluate.py writes it. The p-values are those of the exact sign test on the
questions in which two runs differ.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpr_lightning.errors import UserError, report_user_errors
from dpr_lightning.evaluation.accuracy import accuracy_at, paired_difference
from dpr_lightning.evaluation.output import read_metrics, read_questions
from dpr_lightning.evaluation.plot import accuracy_curves
from dpr_lightning.files import atomic_write, write_json
from dpr_lightning.retrieval.provenance import file_hash
from dpr_lightning.run_dir import RunDir


def compare(runs: list[Path], split: str) -> tuple[dict, dict]:
    """Return accuracies and differences at the cutoffs that all runs have, and each run's first hits, both by name."""
    names = [run.name if [other.name for other in runs].count(run.name) == 1 else str(run) for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=names.count)} is given twice. Give each run once.")
    folders = [RunDir(run).evaluation(split) for run in runs]
    questions = [{row["qid"]: row for row in read_questions(folder)} for folder in folders]
    metrics = [read_metrics(folder) for folder in folders]
    for folder, own, figures in zip(folders, questions, metrics, strict=True):
        check_same_questions(folder, own, folders[0], questions[0])
        if any(figures.get(key) != metrics[0].get(key) for key in ("answers", "match_title")):
            raise UserError(f"{folder} and {folders[0]} look for answers by different rules. Evaluate them alike.")
        check_ranking(folder, figures)
    cutoffs = [set(map(int, figures["accuracy"])) for figures in metrics]
    topk = sorted(set.intersection(*cutoffs))
    if not topk:
        raise UserError(f"{', '.join(map(str, folders))}: no cutoff in common. Evaluate with answers and equal topk.")
    hits = {
        name: np.array([own[qid]["first_hit"] or 0 for qid in questions[0]])
        for name, own in zip(names, questions, strict=True)
    }
    first, systems = hits[names[0]], {}
    for name, own in hits.items():
        systems[name] = {"accuracy": {str(k): accuracy_at(own, k)._asdict() for k in topk}}
        if own is not first:
            systems[name]["difference"] = {str(k): paired_difference(own, first, k)._asdict() for k in topk}
    result = {"split": split, "questions": len(first), "baseline": names[0], "systems": systems}
    result["left_out"] = sorted(set.union(*cutoffs).difference(topk))
    result["corpora"] = len({figures.get("corpus_fingerprint") for figures in metrics} - {None})
    return result, hits


def check_same_questions(folder: Path, own: dict, first_folder: Path, first: dict) -> None:
    """Raise UserError unless two evaluations are of the same questions with the same answers."""
    if apart := own.keys() ^ first.keys():
        raise UserError(f"{folder} and {first_folder} differ in question {min(apart)}. Evaluate the same questions.")
    for qid, row in own.items():
        if row.get("answers") != first[qid].get("answers"):
            raise UserError(
                f"{folder} and {first_folder} have different answers to question {qid}. Evaluate them alike."
            )


def check_ranking(folder: Path, figures: dict) -> None:
    """Raise UserError if the ranking has changed since it was evaluated, where it still exists."""
    ranking = Path(figures.get("run_file", ""))
    if "run_file_xxh3" in figures and ranking.is_file() and file_hash(ranking) != figures["run_file_xxh3"]:
        raise UserError(f"{folder} is older than {ranking}, which has changed since. Run evaluate.py again.")


def print_comparison(result: dict, console: Console) -> None:
    """Print the runs one below the other for each cutoff."""
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
    """Compare the runs on the command line, print the table and write the files that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures too")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw accuracy@k over k")
    args = parser.parse_args()
    with report_user_errors():
        result, hits = compare(args.runs, args.split)
        print_comparison(result, Console(width=max(Console().width, 120)))
        if args.json:
            write_json(args.json, result)
        if args.plot:
            most = max(int(k) for k in result["systems"][result["baseline"]]["accuracy"])
            curves = {name: [accuracy_at(own, k).value for k in range(1, most + 1)] for name, own in hits.items()}
            with atomic_write(args.plot) as file:
                file.write(accuracy_curves(curves))


if __name__ == "__main__":
    main()
