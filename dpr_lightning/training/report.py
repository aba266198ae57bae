"""What a training says at its start, after its first steps and at its end."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import pytorch_lightning as pl
import torch

from dpr_lightning.locks import describe_holder
from dpr_lightning.run_dir import RunDir

_log = logging.getLogger(__name__)
_TIMED_STEPS = 20
_FEW_STEPS = 100
_BEST = "val/mrr"


class TrainingReport(pl.Callback):
    """Logs device, data and checkpoints at the start and the time left after some steps, and knows the best validation.

    Its state is the best validation so far, which a resumed training continues from.
    """

    def __init__(self, run: RunDir, *, every_n_steps: int) -> None:
        """Take the run folder and the number of steps between checkpoints."""
        self.run, self.every_n_steps = run, every_n_steps
        self._best: float | None = None
        self._best_step = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation so far and its step."""
        return {"best": self._best, "step": self._best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the best validation of the interrupted run."""
        self._best, self._best_step = state_dict["best"], state_dict["step"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what is trained, on what, and where it is saved."""
        self._start, self._first_step, self._has_estimated = time.perf_counter(), trainer.global_step, False
        if trainer.is_global_zero:
            for line in self._lines(trainer, pl_module):
                _log.info(line)
            steps = trainer.estimated_stepping_batches
            known = {"steps": int(steps)} if steps < math.inf else {}
            describe_holder(self.run.model, step_at_start=self._first_step, **known)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Log the time left, once."""
        done = trainer.global_step - self._first_step
        if self._has_estimated or done < _TIMED_STEPS:
            return
        self._has_estimated, left = True, trainer.estimated_stepping_batches - trainer.global_step
        if trainer.is_global_zero and 0 < left < math.inf:
            speed = done / (time.perf_counter() - self._start)
            _log.info("%.1f steps/s, about %s min left", speed, f"{math.ceil(left / speed / 60):,}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the best validation."""
        value = trainer.callback_metrics.get(_BEST)
        if value is not None and not trainer.sanity_checking and (self._best is None or float(value) > self._best):
            self._best, self._best_step = float(value), trainer.global_step

    def result(self, trainer: pl.Trainer) -> str:
        """Return the last logged loss and the best validation, as the end of a line."""
        loss = trainer.callback_metrics.get("train/loss")
        parts = [] if loss is None else [f"last train/loss {float(loss):.3f}"]
        if self._best is not None:
            parts.append(f"best {_BEST} {self._best:.3f} at step {self._best_step:,}")
        return "".join(f", {part}" for part in parts)

    def _lines(self, trainer: pl.Trainer, module: Any) -> list[str]:
        device = trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        steps = trainer.estimated_stepping_batches
        total = f"{int(steps):,} steps" if steps < math.inf else "no limit of steps"
        dev = data.dev_examples
        validation = f"validation on {len(dev):,} questions" if dev is not None else "no validation"
        batches = f"{int(trainer.num_training_batches):,} batches per epoch"
        return [
            f"training on {trainer.world_size} x {device.type} ({name}), precision {trainer.precision}, "
            f"{sum(parameter.numel() for parameter in parameters):,} trained parameters",
            f"{len(data.train_examples):,} questions, {batches}, {total}; "
            f"{validation}; "
            f"a checkpoint every {self.every_n_steps:,} steps and when interrupted, in {self.run.checkpoints}",
            *_advice(module, steps),
        ]


def _advice(module: Any, steps: float) -> list[str]:
    """Return lines about settings with which a training hardly learns."""
    lines = []
    if steps < _FEW_STEPS:
        lines.append(
            f"{int(steps)} steps are few: more trainer.max_epochs, a smaller data.batch_size or a higher optimizer.lr "
            "let the model learn more"
        )
    is_fixed = not list(module.loss.parameters())
    if module.bi_encoder.settings.normalize and is_fixed and getattr(module.loss, "temperature", None) == 1:
        lines.append(
            "scores of normalized embeddings lie between -1 and 1, so the loss hardly tells passages apart with "
            "loss.temperature=1; 0.05 is usual"
        )
    return lines
