"""What validation decides: when training stops, and which weights are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from safetensors.torch import load_model, save_model

from dpr_lightning.errors import UserError, check_choice, check_positive
from dpr_lightning.files import flush_to_disk

MODES = {"val/mrr": "max", "val/accuracy": "max", "val/mean_rank": "min"}


def validation_callbacks(
    folder: Path, *, validates: bool, best: str | None, patience: int | None, monitor: str, mode: str
) -> list[pl.Callback]:
    """The callbacks for what is set.

    Args:
        folder: for the best weights.
        validates: whether there is validation data.
        best: the metric whose best weights are exported; None for the last weights.
        patience: stop after so many validations without a better `monitor`; None for never.
        monitor: the metric of `patience`.
        mode: whether its `min` or `max` is best.

    Raises:
        UserError: an unknown metric or mode, a patience below 1, or no validation data to measure on.
    """
    callbacks: list[pl.Callback] = []
    if patience is not None:
        check_positive(patience, "early_stopping.patience")
        check_choice(monitor, "early_stopping.monitor", list(MODES))
        check_choice(mode, "early_stopping.mode", ["min", "max"])
        callbacks.append(_EarlyStopping(monitor, mode=mode, patience=patience, check_on_train_epoch_end=False))
    if best is not None:
        check_choice(best, "checkpoint.best", list(MODES))
        callbacks.append(BestWeights(folder / "best.safetensors", best))
    if callbacks and not validates:
        key = "checkpoint.best" if patience is None else "early_stopping.patience"
        raise UserError(f"{key}: is decided by validation, and data.dev is not set. Set data.dev, or leave {key} out.")
    return callbacks


class _EarlyStopping(EarlyStopping):
    """Lightning's, which also remembers after a resume that it was time to stop."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class BestWeights(pl.Callback):
    """Keeps the weights at the best validation so far in a file, and puts them back at the end of training."""

    def __init__(self, file: Path, metric: str) -> None:
        """Takes a metric of `MODES`."""
        self.file, self.metric = file, metric
        self.best: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Writes the weights if they are better than those of all validations before."""
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.metric])
        if self.best is not None and not (value > self.best if MODES[self.metric] == "max" else value < self.best):
            return
        self.best = value
        if trainer.is_global_zero:
            temporary = self.file.with_suffix(".tmp")
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_model(pl_module.bi_encoder, str(temporary))
            with temporary.open("rb+") as written:
                flush_to_disk(written)
            temporary.replace(self.file)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Loads the best weights, where there was a validation."""
        if self.best is not None and trainer.is_global_zero:
            load_model(pl_module.bi_encoder, self.file)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the best value of the interrupted run."""
        self.best = state["best"]
