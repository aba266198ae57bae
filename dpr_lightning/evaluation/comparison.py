"""Several systems on the same questions of one data set or several: figures, and paired differences from the first.

Answer accuracies are tested with the exact sign test, judged measures and means over data sets with the randomization
test of `resampling.py`; the p-values of all systems at one figure are also corrected by Holm's method (`p_holm`).
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import FirstHits, accuracy_at, paired_difference
from dpr_lightning.evaluation.evaluated import Evaluated, evaluation_folder, read_evaluated
from dpr_lightning.evaluation.output import METRICS
from dpr_lightning.evaluation.resampling import holm, mean_with_interval, paired_mean_difference
from dpr_lightning.files import matching

Systems = dict[str, dict[str, Any]]
_RUN_FOLDERS = ("evaluation", "model", "rankings", "train")


def find_runs(paths: Sequence[Path], split: str) -> tuple[list[Path], list[Path]]:
    """Return the run folders with an evaluation of a split, and those without.

    Args:
        paths: Run folders, folders of run folders such as a sweep's, folders of evaluations, and globs of all these.
        split: Name of the questions.
    """
    runs: list[Path] = []
    skipped: list[Path] = []
    for path in paths:
        matches = [path] if path.exists() else sorted(map(Path, glob.glob(str(path))))  # noqa: PTH207
        for folder in matches or [path]:
            inner = [sub for sub in matching(folder, "*") if _is_run(sub) and sub.name != "logs"]
            for run in [folder] if _is_run(folder) else inner or [folder]:
                (runs if _is_evaluated(run, split) else skipped).append(run)
    return runs, skipped


def compare(
    runs: Sequence[Path], split: str, names: Sequence[str] | None = None
) -> tuple[dict[str, Any], dict[str, FirstHits]]:
    """Return the figures that all runs have, with differences from the first run, and each run's first hits, by name.

    Args:
        runs: Run folders or folders of evaluations; the first is the baseline.
        split: Name of the questions.
        names: Names of the runs, by default those of the folders.

    Raises:
        UserError: The runs were evaluated on different questions, answers or judgments, by different rules or at
            different cutoffs, or a ranking has changed since.
    """
    names = names or _names(runs)
    evaluated = _read(runs, split)
    first = evaluated[0]
    topk = sorted(set.intersection(*(one.cutoffs for one in evaluated)))
    measures = [name for name in first.measures if all(name in one.measures for one in evaluated)]
    if not topk and not measures:
        folders = ", ".join(str(one.folder) for one in evaluated)
        raise UserError(
            f"{folders}: no common cutoff and no common measure. Evaluate with answers and the same `topk`."
        )
    hits = {name: one.first_hits(first.rows) for name, one in zip(names, evaluated, strict=True)}
    systems: Systems = {}
    for name, one in zip(names, evaluated, strict=True):
        systems[name] = {"accuracy": {str(k): accuracy_at(hits[name], k)._asdict() for k in topk}}
        if measures:
            systems[name]["measures"] = {
                measure: dict(zip(("value", "low", "high"), (one.metrics["qrels"][measure], *interval), strict=True))
                for measure in measures
                for interval in [one.metrics["qrels_interval"][measure]]
            }
        if one is first:
            continue
        own, base = hits[name], hits[names[0]]
        systems[name]["difference"] = {str(k): paired_difference(own, base, k)._asdict() for k in topk}
        if measures:
            systems[name]["measure_difference"] = {
                measure: paired_mean_difference(*([run.values(measure, first.rows)] for run in (one, first)))._asdict()
                for measure in measures
            }
    _correct(systems)
    result: dict[str, Any] = {"split": split, "questions": len(first.rows), "baseline": names[0], "systems": systems}
    result["left_out"] = sorted(set.union(*(one.cutoffs for one in evaluated)).difference(topk))
    result["corpora"] = len({one.metrics.get("corpus_fingerprint") for one in evaluated} - {None})
    return result, hits


def compare_datasets(folders: Sequence[Path], split: str) -> dict[str, Any]:
    """Return the comparison of each data set, and of the means over the data sets that all systems were evaluated on.

    Args:
        folders: A folder per system with a run folder per data set, named alike; the first is the baseline.
        split: Name of the questions.

    Raises:
        UserError: No common data set, no common figure, or as `compare`.
    """
    names = _names(folders)
    own = [[run.name for run in matching(folder, "*") if _is_evaluated(run, split)] for folder in folders]
    sets = [name for name in own[0] if all(name in others for others in own)]
    if not sets:
        listed = ", ".join(map(str, folders))
        raise UserError(f"{listed}: no common data set. Give folders that have a run folder for each data set.")
    evaluated = {name: _read([folder / name for folder in folders], split) for name in sets}
    runs = [one for some in evaluated.values() for one in some]
    cutoffs = [f"accuracy@{k}" for k in sorted(set.intersection(*(one.cutoffs for one in runs)))]
    figures = [*cutoffs, *(name for name in runs[0].measures if all(name in one.measures for one in runs))]
    if not figures:
        raise UserError(f"{', '.join(sets)}: no common figure. Evaluate them with equal `topk` and measures.")
    systems: Systems = {}
    for i, name in enumerate(names):
        values = {
            figure: [[some[j].values(figure, some[0].rows) for some in evaluated.values()] for j in (i, 0)]
            for figure in figures
        }
        means = {figure: mean_with_interval(mine) for figure, (mine, _) in values.items()}
        systems[name] = {
            "measures": {
                figure: dict(zip(("value", "low", "high"), mean, strict=True)) for figure, mean in means.items()
            }
        }
        if i:
            systems[name]["measure_difference"] = {
                figure: paired_mean_difference(mine, base)._asdict() for figure, (mine, base) in values.items()
            }
    _correct(systems)
    return {
        "split": split,
        "questions": sum(len(some[0].rows) for some in evaluated.values()),
        "baseline": names[0],
        "systems": systems,
        "datasets": {name: compare([folder / name for folder in folders], split, names)[0] for name in sets},
        "left_out": sorted(set().union(*own).difference(sets)),
    }


def _names(runs: Sequence[Path]) -> list[str]:
    """Return for each run the shortest end of its path that no other run has, without the folder `evaluation`."""
    names = []
    paths = [run.parts[:-2] + run.parts[-1:] if run.parent.name == "evaluation" else run.parts for run in runs]
    for run, parts in zip(runs, paths, strict=True):
        lengths = range(1, max(map(len, paths)) + 1)
        length = next((n for n in lengths if [other[-n:] for other in paths].count(parts[-n:]) == 1), None)
        if length is None:
            raise UserError(f"{run} is given twice. Give each run once.")
        names.append(str(Path(*parts[-length:])))
    return names


def _is_evaluated(run: Path, split: str) -> bool:
    return (evaluation_folder(run, split) / METRICS).is_file()


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _RUN_FOLDERS)


def _read(runs: Sequence[Path], split: str) -> list[Evaluated]:
    """Return the evaluations of runs, after checking that they can be compared."""
    evaluated = [read_evaluated(run, split) for run in runs]
    for one in evaluated:
        one.check_comparable(evaluated[0])
    return evaluated


def _correct(systems: Systems) -> None:
    """Add `p_holm` to every system but the first: p-values corrected for the number of systems at each figure."""
    compared = {
        name: system for name, system in systems.items() if {"difference", "measure_difference"} & system.keys()
    }
    for kind in ("difference", "measure_difference"):
        for figure in next(iter(compared.values()), {}).get(kind, {}):
            corrected = holm({name: system[kind][figure]["p_value"] for name, system in compared.items()})
            for name, p_value in corrected.items():
                systems[name].setdefault("p_holm", {})[figure] = p_value
