"""Resume points: written whole, checked when read, bounded in number."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import xxhash
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dpr_lightning.errors import check_positive
from dpr_lightning.files import flush_to_disk

_log = logging.getLogger(__name__)
LAST = "last.ckpt"


class Checkpoints(pl.Callback):
    """Writes `step-N.ckpt` every `every_n_steps` steps and at the end of each epoch, and keeps the newest few.

    A file gets its name when it is complete; beside it stands its hash. `last.ckpt` is another name of the newest.
    """

    def __init__(self, folder: str | Path, *, every_n_steps: int = 20_000, keep_last: int = 2) -> None:
        """Raises UserError for numbers below 1."""
        check_positive(every_n_steps, "checkpoint.every_n_steps")
        check_positive(keep_last, "checkpoint.keep_last")
        self.folder, self.every_n_steps, self.keep_last = Path(folder), every_n_steps, keep_last
        self._last_step = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when `every_n_steps` optimizer steps have passed; where a validation follows, after it.

        Resumed from a point before its validation, Lightning would leave the validation out.
        """
        if self._is_due(trainer) and not _is_before_validation(trainer, batch_idx):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves what was put off until after the validation."""
        if not trainer.sanity_checking and self._is_due(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves at the end of an epoch."""
        if trainer.global_step != self._last_step:
            self.save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Saves when SIGTERM ends the training, which Lightning lets happen between two steps."""
        if isinstance(exception, SIGTERMException) and trainer.global_step != self._last_step:
            self.save(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Treats SIGUSR1, by which SLURM announces the time limit, as SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Whether to save at this step within an epoch; its last step is saved when the epoch has ended."""
        is_new = trainer.global_step != self._last_step
        return is_new and trainer.global_step % self.every_n_steps == 0 and not trainer.is_last_batch

    def save(self, trainer: pl.Trainer) -> None:
        """Writes a resume point now; every process must call it."""
        self._last_step = trainer.global_step
        final = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        temporary = final.with_suffix(".tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            with temporary.open("rb+") as file:
                flush_to_disk(file)
            _hash_file(final).write_text(_hash(temporary))
            temporary.replace(final)
            link = self.folder / f"{LAST}.tmp"
            link.unlink(missing_ok=True)
            os.link(final, link)
            link.replace(self.folder / LAST)
            for old in _newest_first(self.folder)[self.keep_last :]:
                old.unlink()
                _hash_file(old).unlink(missing_ok=True)
        trainer.strategy.barrier("resume point")


def _is_before_validation(trainer: pl.Trainer, batch_idx: int) -> bool:
    every_batches, every_epochs = trainer.val_check_batch or 1, trainer.check_val_every_n_epoch or 1
    is_its_epoch = trainer.enable_validation and (trainer.current_epoch + 1) % every_epochs == 0
    return is_its_epoch and (batch_idx + 1) % every_batches == 0


def find_checkpoint(folder: Path) -> Path | None:
    """The newest intact resume point, or None where there is none; damaged ones are reported and passed over."""
    for file in _newest_first(folder):
        hash_file = _hash_file(file)
        if hash_file.exists() and hash_file.read_text() == _hash(file):
            return file
        _log.warning("%s is damaged (cut short, or changed since it was written): trying the one before", file)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def _hash_file(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".xxh3")


def _hash(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while block := opened.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
