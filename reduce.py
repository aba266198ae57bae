"""Merges the rankings of all shards: python reduce.py experiment=nq split=test"""

from pathlib import Path

from omegaconf import DictConfig

from dpr_lightning.launch import command, plain
from dpr_lightning.run_dir import RunDir


@command
def reduce(config: DictConfig) -> str:
    """The shards' rankings of the run in, one ranking out."""
    from dpr_lightning.retrieval.stage import reduce

    return reduce(RunDir(Path(config.run_dir)), **plain(config, "split", "depth", "format", "overwrite"))


if __name__ == "__main__":
    reduce()
