"""The weights of the best validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from safetensors.torch import load_model, save_model

from dpr_lightning.files import atomic_path
from dpr_lightning.training.checks import METRICS
from dpr_lightning.training.write_errors import write_errors


class BestWeights(pl.Callback):
    """Saves the weights of the best validation so far, and restores them at the end of training."""

    def __init__(self, file: Path, metric: str) -> None:
        """Take the file for the weights and a metric of `METRICS`."""
        self.file, self.metric = file, metric
        self.best: float | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Save the weights if they are better than those of all earlier validations."""
        if trainer.sanity_checking or not self._improves(float(trainer.callback_metrics[self.metric])):
            return
        self.best = float(trainer.callback_metrics[self.metric])
        if trainer.is_global_zero:
            with write_errors(self.file), atomic_path(self.file) as temporary:
                save_model(pl_module.bi_encoder, str(temporary))

    def _improves(self, value: float) -> bool:
        """Return whether a value is better than the best; false for NaN, also the first time."""
        best = self.best
        if METRICS[self.metric] == "max":
            return value > (float("-inf") if best is None else best)
        return value < (float("inf") if best is None else best)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Load the best weights if a validation has taken place."""
        if self.best is not None and trainer.is_global_zero:
            load_model(pl_module.bi_encoder, self.file)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the best value of the interrupted run."""
        self.best = state["best"]
