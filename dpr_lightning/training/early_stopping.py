"""Early stopping and best weights, both decided by validation."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from dpr_lightning.training.best_weights import BestWeights
from dpr_lightning.training.checks import check_validation


def validation_callbacks(
    weights_file: Path,
    *,
    validates: bool,
    best: str | None = None,
    patience: int | None = None,
    monitor: str = "val/mrr",
    mode: str = "max",
) -> list[pl.Callback]:
    """Return the callbacks that the settings ask for.

    Args:
        weights_file: The file for the best weights.
        validates: Whether there is validation data.
        best: The metric whose best weights are exported; None exports the last weights.
        patience: The number of validations without a better `monitor` after which training stops; None for never.
        monitor: The metric of early stopping.
        mode: `min` or `max`, whichever is best for `monitor`.

    Raises:
        UserError: A metric or mode is unknown, `patience` is below 1, or no validation data is given.
    """
    check_validation(validates=validates, best=best, patience=patience, monitor=monitor, mode=mode)
    callbacks: list[pl.Callback] = []
    if patience is not None:
        callbacks.append(_EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=False))
    if best is not None:
        callbacks.append(BestWeights(weights_file, best))
    return callbacks


class _EarlyStopping(EarlyStopping):
    """Lightning's, except that after a resume it remembers that training had stopped."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
