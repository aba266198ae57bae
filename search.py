"""Ranks the passages for each query: python search.py experiment=nq split=test depth=1000"""

from pathlib import Path

from omegaconf import DictConfig

from dpr_lightning.launch import command, plain


@command
def search(config: DictConfig) -> str:
    """Embedding files of the run in, ranking out."""
    from dpr_lightning.retrieval.stage import search

    run_dir = Path(config.run_dir)
    return search(
        run_dir / "embeddings" / "query" / f"{config.split}.safetensors",
        run_dir / "embeddings" / "passage",
        run_dir / "rankings",
        **plain(config, "split", "depth", "shard", "num_shards", "memory", "index", "ann", "format", "overwrite"),
    )


if __name__ == "__main__":
    search()
