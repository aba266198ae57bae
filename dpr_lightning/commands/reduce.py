"""Merge the rankings of all shards."""

from pathlib import Path

from dpr_lightning.launch import Config, command
from dpr_lightning.run_dir import RunDir


@command
def reduce(config: Config) -> str:
    """Merge the rankings of all shards into the ranking of a split."""
    from dpr_lightning.retrieval import stage

    return config.call(stage.reduce, "", run=RunDir(Path(config["run_dir"])))


if __name__ == "__main__":
    reduce()
