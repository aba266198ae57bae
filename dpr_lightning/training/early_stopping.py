"""Early stopping and best weights, both decided by validation."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from dpr_lightning.errors import UserError, check_choice, check_positive, error_prefix
from dpr_lightning.training.best_weights import MODES, BestWeights


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
    callbacks: list[pl.Callback] = []
    if patience is not None:
        with error_prefix("early_stopping"):
            check_positive(patience, "patience")
            check_choice(monitor, "monitor", list(MODES))
            check_choice(mode, "mode", ["min", "max"])
        callbacks.append(_EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=False))
    if best is not None:
        check_choice(best, "best", list(MODES))
        callbacks.append(BestWeights(weights_file, best))
    if callbacks and not validates:
        name = "best" if patience is None else "early_stopping.patience"
        raise UserError(f"{name}: is decided by validation, and `dev` is not set. Set `dev`, or leave `{name}` out.")
    return callbacks


class _EarlyStopping(EarlyStopping):
    """Lightning's, except that after a resume it remembers that training had stopped."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
