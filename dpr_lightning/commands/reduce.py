"""Merge the rankings of all shards."""

from collections.abc import Iterator
from pathlib import Path

from dpr_lightning.config import Config
from dpr_lightning.launch import command
from dpr_lightning.plan import Check, Plan
from dpr_lightning.run_dir import RunDir


def checks(config: Config) -> Iterator[Check]:
    """Yield the checks of settings and shards."""
    from dpr_lightning.retrieval.checks import rankings_of_shards

    yield lambda: config.call(rankings_of_shards, "", run=RunDir(Path(config["run_dir"])))


def add_plan(config: Config, plan: Plan) -> None:
    """Add what is merged, and its space, to a plan."""
    from dpr_lightning.retrieval.plan import add_reduce

    plan.add("settings", config.described(("depth", "format")))
    config.call(add_reduce, "", plan=plan, run=RunDir(Path(config["run_dir"])))


@command(checks=checks, plan=add_plan)
def reduce(config: Config) -> str:
    """Merge the rankings of all shards into the ranking of a split."""
    from dpr_lightning.retrieval import stage

    return config.call(stage.reduce, "", run=RunDir(Path(config["run_dir"])))


if __name__ == "__main__":
    reduce()
