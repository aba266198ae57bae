"""Rank the passages for each query."""

from pathlib import Path

from dpr_lightning.launch import Config, command
from dpr_lightning.run_dir import RunDir


@command
def search(config: Config) -> str:
    """Rank the passages of the corpus, or of one shard, for each query of a split."""
    from dpr_lightning.retrieval import stage

    return config.call(stage.search, "", run=RunDir(Path(config["run_dir"])))


if __name__ == "__main__":
    search()
