"""Measure how often a ranking holds an answer."""

from pathlib import Path

from dpr_lightning.launch import Config, command, this_call
from dpr_lightning.run_dir import RunDir


@command
def evaluate(config: Config) -> str:
    """Write the metrics of a ranking and a line per question, and return them as a table."""
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
        "",
        "data",
        "evaluate",
        run=run,
        queries=queries,
        corpus=corpus,
        keys={"qrels": f"data.qrels.{split}"},
        call=this_call(config),
    )
    write_run_provenance(run)
    table = config.call(accuracy_table, "data", name=config["name"], metrics=evaluation.metrics)
    return f"{table}\n{evaluation.summary}"


if __name__ == "__main__":
    evaluate()
