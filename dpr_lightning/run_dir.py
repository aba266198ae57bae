"""The run folder: one object names every path in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import xxhash

from dpr_lightning.errors import UserError

RANKING_ENDINGS = {"trec": ".trec", "text": ".txt"}
"""The file ending of each ranking format."""

TEXT_METHODS = ("bm25", "hybrid")
"""The search methods that read texts; their rankings have names of their own beside that of dense search."""

METHODS = ("exact", "index", *TEXT_METHODS)
"""All search methods."""


_LONGEST_NAME = 100  # characters of a folder's name


def shard_name(shard: int, num_shards: int) -> str:
    """Return the name of a shard's file without its ending, such as `05-of-20`."""
    width = max(2, len(str(num_shards)))
    return f"{shard:0{width}d}-of-{num_shards:0{width}d}"


def folder_name(settings: str) -> str:
    """Return the name of the folder of a sweep's job, which is short and not the name for other settings.

    Args:
        settings: What the job varies, such as `optimizer.lr-1e-05+seed-7`.
    """
    name = re.sub(r"[^\w.+-]+", "_", settings)
    if name == settings and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}-{xxhash.xxh3_64_hexdigest(settings.encode())[:8]}"


def _plain(split: str) -> str:
    """Return the name of a split. Raises UserError if a file of that name would be elsewhere or hidden."""
    if not split or split.startswith(".") or "/" in split or "\0" in split:
        raise UserError(f"split: {split!r} cannot be the name of a file. Give a name like test.")
    return split


def _searched(split: str, method: str | None) -> str:
    """Return the name of a split's ranking: `test`, or with a method that reads texts such as `test.bm25`."""
    return f"{_plain(split)}.{method}" if method in TEXT_METHODS else _plain(split)


@dataclass(frozen=True)
class RunDir:
    """The folder of one experiment. No other code builds a path below it."""

    path: Path

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / "model"

    @property
    def is_trained(self) -> bool:
        """Whether the model exists; an empty folder, such as the target of a link, is none."""
        return self.model.is_dir() and any(self.model.iterdir())

    @property
    def train(self) -> Path:
        """Settings, metrics and checkpoints of the training."""
        return self.path / "train"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints of the training."""
        return self.train / "checkpoints"

    @property
    def best_weights(self) -> Path:
        """The weights of the best validation so far."""
        return self.checkpoints / "best.safetensors"

    @property
    def training_config(self) -> Path:
        """The settings of the training."""
        return self.train / "config.yaml"

    @property
    def logs(self) -> Path:
        """What each command was called with and printed."""
        return self.path / "logs"

    @property
    def provenance(self) -> Path:
        """Where the results of the run come from."""
        return self.path / "provenance.json"

    def relative(self, path: Path) -> str:
        """Return a path below the run folder relative to it, and any other path as it is."""
        inner, outer = path.resolve(), self.path.resolve()
        return inner.relative_to(outer).as_posix() if inner.is_relative_to(outer) else str(path)

    @property
    def passage_shards(self) -> Path:
        """The folder of the corpus's embedding files."""
        return self.path / "embeddings" / "passage"

    def passage_shard(self, shard: int, num_shards: int) -> Path:
        """The embedding file of one shard of the corpus."""
        return self.passage_shards / f"{shard_name(shard, num_shards)}.safetensors"

    @property
    def queries(self) -> Path:
        """The folder of the embedding files of all splits' queries."""
        return self.path / "embeddings" / "query"

    def query_embeddings(self, split: str) -> Path:
        """The embedding file of a split's queries."""
        return self.queries / f"{_plain(split)}.safetensors"

    @property
    def rankings(self) -> Path:
        """The folder of all rankings."""
        return self.path / "rankings"

    def ranking(self, split: str, format: str = "trec", method: str | None = None) -> Path:
        """The ranking of a split over the whole corpus."""
        return self.rankings / f"{_searched(split, method)}{RANKING_ENDINGS[format]}"

    def shard_rankings(self, split: str) -> Path:
        """The folder of a split's rankings over single shards."""
        return self.rankings / _plain(split)

    def shard_ranking(self, split: str, shard: int, num_shards: int, format: str = "trec") -> Path:
        """The ranking of a split over one shard."""
        return self.shard_rankings(split) / f"{shard_name(shard, num_shards)}{RANKING_ENDINGS[format]}"

    def index(self, factory: str) -> Path:
        """The folder of an approximate index, named after its FAISS factory string."""
        return self.path / "index" / re.sub(r"\W+", "-", factory).strip("-")

    @property
    def evaluations(self) -> Path:
        """The folder of all splits' evaluations."""
        return self.path / "evaluation"

    def evaluation(self, split: str, method: str | None = None) -> Path:
        """The folder of the metrics and per-question results of a split's ranking."""
        return self.evaluations / _searched(split, method)

    def exported(self, name: str) -> Path:
        """A file of embeddings for other programs."""
        return self.path / "export" / name
