"""What is reported during training."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from dpr_lightning.data.collate import Batch


class SeededSteps(pl.Callback):
    """Seeds the random numbers of each step by (seed, epoch, batch, process).

    So dropout is the same in a run that was interrupted and in one that was not, in every process, without keeping
    random states in checkpoints.
    """

    def __init__(self, seed: int) -> None:
        """Takes the seed of the run."""
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seeds CPU and devices."""
        place = [self.seed, trainer.current_epoch, batch_idx, trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))


class StepReport(pl.Callback):
    """Logs with each logged step the learning rate, speed since the step logged before, and the share of padding.

    `train/examples_per_s` and `train/tokens_per_s` count questions and their passages' and own tokens over all
    processes, padding left out; `train/padding_share` is padding ÷ all token positions of the batches.
    """

    def __init__(self) -> None:
        """Counts from the start of training."""
        self._tokens = torch.zeros((), dtype=torch.int64)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._begin()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Counts the batch and logs when Lightning does."""
        self._questions += len(batch.targets)
        for tokens in (batch.queries, batch.passages):
            self._tokens = self._tokens.to(pl_module.device) + tokens["attention_mask"].sum()
            self._positions += tokens["attention_mask"].numel()
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        seconds = time.perf_counter() - self._start
        values = {
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "examples_per_s": self._questions * trainer.world_size / seconds,
            "tokens_per_s": float(self._tokens) * trainer.world_size / seconds,
            "padding_share": 1 - float(self._tokens) / self._positions,
        }
        for name, value in values.items():
            pl_module.log(f"train/{name}", value, batch_size=len(batch.targets))
        self._begin()

    def _begin(self) -> None:
        self._start, self._questions, self._positions = time.perf_counter(), 0, 0
        self._tokens = torch.zeros((), dtype=torch.int64)
