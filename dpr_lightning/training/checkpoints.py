"""Checkpoints: written atomically, checked when read, bounded in number."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from dpr_lightning.errors import UserError
from dpr_lightning.files import atomic_path, atomic_write, file_hash, matching
from dpr_lightning.training.checks import check_checkpoints
from dpr_lightning.training.preemption import StopOnSignal
from dpr_lightning.training.write_errors import write_errors

_log = logging.getLogger(__name__)
LAST = "last.ckpt"


class Checkpoints(pl.Callback):
    """Writes `step-N.ckpt` every `every_n_steps` steps, at the end of each epoch, and when a signal stops the training.

    The newest `keep_last` files are kept. A file takes its name when it is complete; `step-N.xxh3` is its hash.
    `last.ckpt` is a hard link to the newest.
    """

    def __init__(self, folder: Path, stop: StopOnSignal, *, every_n_steps: int = 20_000, keep_last: int = 2) -> None:
        """Raise UserError for numbers below 1."""
        check_checkpoints(every_n_steps=every_n_steps, keep_last=keep_last)
        self.folder, self.stop, self.every_n_steps, self.keep_last = folder, stop, every_n_steps, keep_last
        self._last_step = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write checkpoints to their folder directly."""
        trainer.strategy.checkpoint_io = _CheckpointIO()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every `every_n_steps` optimizer steps, and at the step after which a signal stops the training.

        If validation is due, save after it, because Lightning would skip it on resume.
        """
        if self._is_due(trainer) and not _is_before_validation(trainer, batch_idx):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the checkpoint that was due before the validation."""
        if not trainer.sanity_checking and self._is_due(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the end of an epoch."""
        if trainer.global_step != self._last_step:
            self.save(trainer)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Return whether to save now within an epoch; the last step of an epoch is saved at its end."""
        is_new, stops = trainer.global_step != self._last_step, bool(self.stop.agreed)
        return is_new and (stops or trainer.global_step % self.every_n_steps == 0) and not trainer.is_last_batch

    def save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint now; every process must call this.

        Raises:
            UserError: The file cannot be written, for instance because the disk is full.
        """
        self._last_step = trainer.global_step
        final = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        writes = trainer.is_global_zero  # the other processes take part and write nothing
        with write_errors(final), atomic_path(final) if writes else contextlib.nullcontext(final) as temporary:
            trainer.save_checkpoint(temporary)
            if writes:
                with atomic_write(_hash_file(final)) as file:
                    file.write(file_hash(temporary))
        if writes:
            with atomic_path(self.folder / LAST) as link:
                link.hardlink_to(final)
            for old in _newest_first(self.folder)[self.keep_last :]:
                old.unlink()
                _hash_file(old).unlink(missing_ok=True)
        trainer.strategy.barrier("checkpoint")


class _CheckpointIO(TorchCheckpointIO):
    """Lightning's, except that it does not write the file to the system's temporary folder first."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        try:
            with Path(path).open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch hides the OSError of a full disk
            raise error.__context__ or error from None


def _is_before_validation(trainer: pl.Trainer, batch_idx: int) -> bool:
    every_batches, every_epochs = trainer.val_check_batch or 1, trainer.check_val_every_n_epoch or 1
    is_its_epoch = trainer.enable_validation and (trainer.current_epoch + 1) % every_epochs == 0
    return is_its_epoch and (batch_idx + 1) % every_batches == 0


def find_checkpoint(folder: Path) -> Path | None:
    """Return the newest intact checkpoint, or None if the folder has none; log a warning for each damaged newer one.

    Raises:
        UserError: All checkpoints are damaged.
    """
    damaged: list[Path] = []
    for file in _newest_first(folder):
        if _is_intact(file):
            for newer in damaged:
                _log.warning("%s is damaged (truncated, or changed after it was written): using %s", newer, file)
            return file
        damaged.append(file)
    if damaged:
        raise UserError(
            f"{folder}: each checkpoint is damaged, or its .xxh3 file is missing. Restore one with its .xxh3 file, set "
            "overwrite=true to train from the start, or choose another run_dir."
        )
    return None


def _is_intact(checkpoint: Path) -> bool:
    hash_file = _hash_file(checkpoint)
    return hash_file.exists() and hash_file.read_bytes() == file_hash(checkpoint).encode()


def step_of(checkpoint: Path | None) -> int:
    """Return the number of steps before a checkpoint; 0 without one."""
    return int(checkpoint.stem.partition("-")[2]) if checkpoint else 0


def _newest_first(folder: Path) -> list[Path]:
    return matching(folder, "step-*.ckpt")[::-1]


def _hash_file(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".xxh3")
