"""How much disk space a training takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpr_lightning.machine import check_free_space
from dpr_lightning.run_dir import RunDir

_STATE_BYTES = 8  # per trained parameter: the two float32 moments of Adam


class Length(NamedTuple):
    """How long a training is: optimizer steps per epoch, all its steps and its epochs, infinite without a limit."""

    per_epoch: int
    steps: float
    epochs: float


def count_steps(trainer: Mapping[str, Any], batches: int) -> Length:
    """Return how long a training is.

    Args:
        trainer: The settings of the Trainer.
        batches: The batches per process and epoch.
    """
    limit, per_step = trainer["limit_train_batches"], trainer["accumulate_grad_batches"]
    used = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    per_epoch = max(1, math.ceil(used / max(1, per_step)))
    epochs, most = trainer["max_epochs"], trainer["max_steps"]
    by_epochs = per_epoch * epochs if epochs is not None and epochs >= 0 else math.inf
    steps = min(by_epochs, most if most >= 0 else math.inf)
    return Length(per_epoch, steps, math.ceil(steps / per_epoch) if steps < math.inf else math.inf)


class TrainingSpace(NamedTuple):
    """The bytes that a training writes.

    Attributes:
        model: The size of the model.
        checkpoint: The size of a checkpoint, with the optimizer's state.
        kept: The number of checkpoints that are on the disk at the same time.
        best: The size of the best weights, while they are replaced.
        freed: The size of what is in the run folder already and is replaced.
    """

    model: int
    checkpoint: int
    kept: int
    best: int
    freed: int

    @property
    def needed(self) -> int:
        """The free space that the training takes."""
        return max(0, self.model + self.checkpoint * self.kept + self.best - self.freed)


def training_space(
    module: Any,
    run: RunDir,
    length: Length | None,
    *,
    every_n_steps: int,
    keep_last: int,
    best: str | None = None,
) -> TrainingSpace:
    """Return what a training of a module writes; with another optimizer than AdamW it may be less.

    Args:
        module: The torch module that is trained.
        run: The run folder.
        length: How long it is trained; None if unknown.
        every_n_steps: The number of steps between checkpoints.
        keep_last: The number of checkpoints to keep.
        best: The metric whose best weights are kept, or None.
    """
    parameters = list(module.parameters())
    model = sum(one.numel() * one.element_size() for one in parameters)
    checkpoint = model + sum(_STATE_BYTES * one.numel() for one in parameters if one.requires_grad)
    written = length.steps // every_n_steps + length.epochs if length else math.inf  # of the whole training
    kept = int(min(keep_last + 1, max(1, written)))  # an old one is deleted after a new one is complete
    freed = _bytes_of(run.checkpoints.glob("*")) + _bytes_of(run.model.rglob("*"))
    return TrainingSpace(model, checkpoint, kept, 2 * model if best else 0, freed)


def check_training_space(space: TrainingSpace, run: RunDir, *, free: int | None = None) -> None:
    """Raise UserError if the disk has too little space for a training.

    Args:
        space: What it writes.
        run: The run folder.
        free: The free bytes; None asks the file system.
    """
    what, remedy = (
        f"a training with {space.kept:,} checkpoints at a time",
        "lower `keep_last`, or choose another run_dir",
    )
    check_free_space(run.checkpoints, space.needed, what=what, remedy=remedy, free=free)


def _bytes_of(files: Iterable[Path]) -> int:
    sizes = {(stat := file.stat()).st_ino: stat.st_size for file in files if file.is_file()}  # `last.ckpt` is a link
    return sum(sizes.values())
