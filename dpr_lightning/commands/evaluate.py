"""Measure how often a ranking holds an answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dpr_lightning.config import Config
from dpr_lightning.data.readers import find_files
from dpr_lightning.errors import MissingExtraError
from dpr_lightning.guidance import command_line
from dpr_lightning.launch import command, this_call
from dpr_lightning.plan import Check, Plan
from dpr_lightning.run_dir import RunDir

if TYPE_CHECKING:
    from dpr_lightning.evaluation.stage import Evaluation

_GROUPS = ("", "data", "evaluate")
_log = logging.getLogger(__name__)


def checks(config: Config) -> Iterator[Check]:
    """Yield the checks of the settings and of the paths of ranking, qrels and data."""
    from dpr_lightning.evaluation.checks import check_inputs, check_settings

    keys = {"qrels": f"data.qrels.{config['split']}"}
    yield partial(config.call, check_settings, *_GROUPS, keys=keys)
    for key in (f"data.queries.{config['split']}", "data.corpus"):
        yield partial(find_files, config[key], name=key, hub="skip")
    yield partial(config.call, check_inputs, *_GROUPS, keys=keys, run=RunDir(Path(config["run_dir"])))


def add_plan(config: Config, plan: Plan) -> None:
    """Add questions, passages, ranking and figures to a plan."""
    from dpr_lightning.data.plan import count_rows
    from dpr_lightning.evaluation.plan import add_evaluation

    plan.add("settings", config.described(("data.answers", "data.match_title", "topk", "evaluate.measures")))
    split = config["split"]
    for key, kind in ((f"data.queries.{split}", "queries"), ("data.corpus", "corpus")):
        config.call(count_rows, "data", plan=plan, files=config[key], kind=kind, name=key)
    run, keys = RunDir(Path(config["run_dir"])), {"qrels": f"data.qrels.{split}"}
    config.call(add_evaluation, *_GROUPS, keys=keys, plan=plan, run=run)


@command(checks=checks, plan=add_plan)
def evaluate(config: Config) -> str:
    """Write the metrics of a ranking, a line per question and a report, and return the metrics as a table."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.evaluation import stage
    from dpr_lightning.evaluation.table import accuracy_table
    from dpr_lightning.run_provenance import write_run_provenance

    run, split = RunDir(Path(config["run_dir"])), config["split"]
    config.keys |= {"queries": f"data.queries.{split}", "corpus": "data.corpus"}
    queries = config.call(open_queries, "data", keys={"files": config.keys["queries"]}, name=config.keys["queries"])
    corpus = config.call(open_corpus, "data", keys={"files": "data.corpus"}, name="data.corpus")
    evaluation = config.call(
        stage.evaluate,
        *_GROUPS,
        run=run,
        queries=queries,
        corpus=corpus,
        keys={"qrels": f"data.qrels.{split}"},
        call=this_call(config),
    )
    write_run_provenance(run)
    table = config.call(accuracy_table, "data", name=_system(config), metrics=evaluation.metrics)
    return f"{table}\n{evaluation.summary}{_report(config, evaluation)}"


def _system(config: Config) -> str:
    """Return what is evaluated: the run, its folder if that has another name, the method and a given ranking."""
    folder, ranking = Path(config["run_dir"]).absolute().name, Path(config["run_file"] or "").name
    return ", ".join(dict.fromkeys(filter(None, (config["name"], folder, config["method"], ranking))))


def _report(config: Config, evaluation: Evaluation) -> str:
    """Write the report of an evaluation that has none, and return what the closing line says about it."""
    from dpr_lightning.evaluation.evaluated import evaluation_folder
    from dpr_lightning.evaluation.report.page import REPORT, write_report

    if (file := evaluation.folder / REPORT).exists():
        return ""
    name = _system(config)
    evaluations = {name: evaluation.folder}
    if against := evaluation.metrics.get("against"):
        other = against["name"] if against["name"] != name else against["run"]
        evaluations = {other: evaluation_folder(Path(against["run"]), config["split"]), **evaluations}
    again = command_line("evaluate", config, "overwrite=true")
    try:
        config.call(write_report, "data", file=file, evaluations=evaluations, command=again)
    except (MissingExtraError, OSError) as error:
        _log.info("%s is left out: %s", file, error)
        return ""
    return f"; {REPORT}"


if __name__ == "__main__":
    evaluate()
