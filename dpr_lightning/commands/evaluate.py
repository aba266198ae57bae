"""Measure how often a ranking holds an answer."""

import logging
from pathlib import Path

from dpr_lightning.errors import MissingExtraError
from dpr_lightning.guidance import command_line
from dpr_lightning.launch import Config, command
from dpr_lightning.run_dir import RunDir

_log = logging.getLogger(__name__)


@command
def evaluate(config: Config) -> str:
    """Write the metrics of a ranking, a line per question and a report, and return the metrics as a table."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.evaluation import stage
    from dpr_lightning.evaluation.table import accuracy_table

    run, split = RunDir(Path(config["run_dir"])), config["split"]
    config.keys |= {"queries": f"data.queries.{split}", "corpus": "data.corpus"}
    queries = config.call(open_queries, "data", keys={"files": config.keys["queries"]}, name=config.keys["queries"])
    corpus = config.call(open_corpus, "data", keys={"files": "data.corpus"}, name="data.corpus")
    evaluation = config.call(
        stage.evaluate,
        "",
        "data",
        "evaluate",
        run=run,
        queries=queries,
        corpus=corpus,
        keys={"qrels": f"data.qrels.{split}"},
    )
    table = config.call(accuracy_table, "data", name=config["name"], metrics=evaluation.metrics)
    return f"{table}\n{evaluation.summary}{_report(config, evaluation.folder)}"


def _report(config: Config, folder: Path) -> str:
    """Write the report of an evaluation that has none, and return what the closing line says about it."""
    from dpr_lightning.evaluation.report.page import REPORT, write_report

    if (file := folder / REPORT).exists():
        return ""
    again = command_line("evaluate", config, "overwrite=true")
    try:
        config.call(write_report, "data", file=file, evaluations={config["name"]: folder}, command=again)
    except (MissingExtraError, OSError) as error:
        _log.info("%s is left out: %s", file, error)
        return ""
    return f"; {REPORT}"


if __name__ == "__main__":
    evaluate()
