"""Ranks the passages for each query: python search.py experiment=nq split=test depth=1000"""

from pathlib import Path

from omegaconf import DictConfig

from dpr_lightning.launch import command, plain
from dpr_lightning.run_dir import RunDir


@command
def search(config: DictConfig) -> str:
    """Embedding files of the run in, ranking out."""
    from dpr_lightning.retrieval.stage import search

    keys = ("split", "depth", "shard", "num_shards", "memory", "method", "index", "ann", "format", "overwrite")
    return search(RunDir(Path(config.run_dir)), **plain(config, *keys))


if __name__ == "__main__":
    search()
