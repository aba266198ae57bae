"""Seeding of each step, and what is reported during training."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from dpr_lightning.data.collate import Batch


class SeededSteps(pl.Callback):
    """Seeds each step's random numbers by (seed, epoch, batch, process).

    Every process then has the same dropout whether or not the run was interrupted, and checkpoints need no random
    states.
    """

    def __init__(self, seed: int) -> None:
        """Take the seed of the run."""
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed CPU and devices."""
        step = [self.seed, trainer.current_epoch, batch_idx, trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1)[0]))


class StepReport(pl.Callback):
    """Logs the learning rate, the speed since the last logged step, and the share of padding, with each logged step.

    `train/examples_per_s` counts questions, `train/tokens_per_s` the tokens of questions and passages without padding,
    both over all processes. `train/padding_share` is the share of padding among all tokens of the batches.
    """

    def __init__(self) -> None:
        """Count from the start of training."""
        self._tokens = torch.zeros((), dtype=torch.int64)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._begin()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch, and log whenever Lightning does."""
        self._questions += len(batch.targets)
        for tokens in (batch.queries, batch.passages):
            self._tokens = self._tokens.to(pl_module.device) + tokens["attention_mask"].sum()
            self._padded_tokens += tokens["attention_mask"].numel()
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        seconds = time.perf_counter() - self._start
        values = {
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "examples_per_s": self._questions * trainer.world_size / seconds,
            "tokens_per_s": float(self._tokens) * trainer.world_size / seconds,
            "padding_share": 1 - float(self._tokens) / self._padded_tokens,
        }
        for name, value in values.items():
            pl_module.log(f"train/{name}", value, batch_size=len(batch.targets))
        self._begin()

    def _begin(self) -> None:
        self._start, self._questions, self._padded_tokens = time.perf_counter(), 0, 0
        self._tokens = torch.zeros((), dtype=torch.int64)
