"""Signals during training: stop all processes after the same step, with a checkpoint, and queue a SLURM job again.

SLURM announces the end of a job by a signal to every process of it: SIGUSR1 or what else `--signal` names, SIGUSR2
for submitit, SIGTERM for `scancel` and preemption.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from dpr_lightning.slurm import REQUEUE_SIGNALS, queue_again

SIGNALS = (signal.SIGTERM, *REQUEUE_SIGNALS, signal.SIGINT)


class StoppedBySignalError(Exception):
    """The training has stopped between two steps, and the checkpoint of the last step is written."""


class StopOnSignal(pl.Callback):
    """Stops the training after SIGTERM, SIGUSR1, SIGUSR2 or Ctrl-C; a second Ctrl-C ends it at once.

    1. The handler only records the signal.
    2. At the end of each step, the processes agree whether one of them has received a signal.
    3. `Checkpoints`, a callback after this one, then saves.
    4. Before the next step, when the step's metrics are logged, StoppedBySignalError ends the training everywhere.

    Lightning's own SIGTERM handler broadcasts within the handler, where another process may be waiting in a different
    collective for ever. It is replaced as soon as the training starts.
    """

    def __init__(self) -> None:
        """Start without a signal."""
        self.agreed: tuple[signal.Signals, ...] = ()  # what any process has received; the same in all processes
        self._received: set[int] = set()
        self._before: dict[signal.Signals, Any] = {}
        self._step = -1

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Restore the signal handlers, and kill the loaders' workers that are still running, when the block ends.

        Workers ignore SIGTERM, with which Python would end them at its exit, and would then wait for them for ever.
        """
        others = set(multiprocessing.active_children())
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()

    def queue_again(self) -> None:
        """After SIGUSR1 or SIGUSR2, queue the job again, in submitit's way if submitit handles the signal."""
        for number in REQUEUE_SIGNALS:
            if number in self.agreed and callable(handler := self._before.get(number)):
                handler(number, None)
        if any(number in self.agreed for number in REQUEUE_SIGNALS):
            queue_again()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the handlers; Lightning has installed its own just before."""
        for number in self._before:
            signal.signal(number, self._record)
        self._step = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop if the processes have agreed to.

        Raises:
            StoppedBySignalError: In all processes before the same step.
        """
        if self.agreed:
            raise StoppedBySignalError

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree at the end of an optimizer step, which may take several batches."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._agree(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Agree after a validation, which may have taken long."""
        if not trainer.sanity_checking:
            self._agree(trainer)

    def _agree(self, trainer: pl.Trainer) -> None:
        strategy = trainer.strategy
        if self.agreed or not strategy.reduce_boolean_decision(bool(self._received), all=False):
            return
        mine = torch.tensor([float(number in self._received) for number in SIGNALS], device=strategy.root_device)
        counts: Any = strategy.reduce(mine, reduce_op="sum")
        self.agreed = tuple(number for number, count in zip(SIGNALS, counts.tolist(), strict=True) if count)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._received:
            signal.default_int_handler(number, frame)
        self._received.add(number)
