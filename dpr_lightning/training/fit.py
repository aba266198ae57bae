"""Training from the first step, or from the last resume point, to the exported model."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.errors import UserError
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.model.bi_encoder import BiEncoder
from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.training.callbacks import SeededSteps, StepReport
from dpr_lightning.training.checkpoints import Checkpoints, find_checkpoint
from dpr_lightning.training.early_stopping import validation_callbacks
from dpr_lightning.training.module import GradCacheModule, RetrieverModule


def prepare_run(run_dir: Path, *, overwrite: bool) -> None:
    """Makes the run folder where it is not there; with `overwrite`, removes training and model of an earlier run.

    Raises:
        UserError: it holds a finished model, and `overwrite` is not set.
    """
    refuse_overwrite(run_dir / "model", overwrite)
    if overwrite and getattr(rank_zero_only, "rank", 0) == 0:  # the others start when training is under way
        for folder in ("model", "train"):
            shutil.rmtree(run_dir / folder, ignore_errors=True)
    (run_dir / "train").mkdir(parents=True, exist_ok=True)


def make_module(
    bi_encoder: BiEncoder,
    *,
    query_chunk_size: int | None = None,
    passage_chunk_size: int | None = None,
    gradient_clip_val: float | None = None,
    **parts: Any,
) -> RetrieverModule:
    """The Lightning module: with gradient cache where both chunk sizes are given, plain where none is.

    `parts` are loss, optimizer and scheduler as `RetrieverModule` takes them.

    Raises:
        UserError: one chunk size alone, or no norm to clip to (a negative one would be none to Lightning).
    """
    if gradient_clip_val is not None and not (isinstance(gradient_clip_val, int | float) and gradient_clip_val >= 0):
        raise UserError(
            f"trainer.gradient_clip_val: {gradient_clip_val!r} is no norm of at least 0. Set one, or null for no limit."
        )
    if query_chunk_size is None and passage_chunk_size is None:
        return RetrieverModule(bi_encoder, **parts)
    if query_chunk_size is None or passage_chunk_size is None:
        raise UserError(
            "grad_cache: only one chunk size is set. Set grad_cache.query_chunk_size and passage_chunk_size, or none."
        )
    return GradCacheModule(
        bi_encoder,
        **parts,
        query_chunk_size=query_chunk_size,
        passage_chunk_size=passage_chunk_size,
        gradient_clip_val=gradient_clip_val,
    )


def make_trainer(
    configured: Callable[..., pl.Trainer],
    module: RetrieverModule,
    data: RetrievalDataModule,
    *,
    run_dir: Path,
    loggers: Sequence[Logger] = (),
    every_n_steps: int = 20_000,
    keep_last: int = 2,
    best: str | None = None,
    early_stopping: Mapping[str, Any],
    seed: int = 42,
) -> pl.Trainer:
    """The Trainer with the callbacks of our training. Writes nothing yet.

    Args:
        configured: makes the Trainer; called with loggers, callbacks and what the module and data demand.
        module: what to train.
        data: on what.
        run_dir: for `train/checkpoints`.
        loggers: where metrics go.
        every_n_steps: steps between resume points; see `Checkpoints`.
        keep_last: resume points kept.
        best: the metric whose best weights are exported; see `validation_callbacks`.
        early_stopping: patience, monitor and mode; see there.
        seed: of the random numbers in the steps, that is of dropout.

    Raises:
        UserError: the data is not what loss or callbacks need, or the trainer does not fit this machine.
    """
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    module.loss.check_rows(data.train_examples.rows)
    checkpoints = Checkpoints(run_dir / "train" / "checkpoints", every_n_steps=every_n_steps, keep_last=keep_last)
    validates = data.dev_examples is not None
    deciding = validation_callbacks(checkpoints.folder, validates=validates, best=best, **early_stopping)
    demanded: dict[str, Any] = {} if validates else {"limit_val_batches": 0}
    if not module.automatic_optimization:
        demanded["gradient_clip_val"] = None  # the module clips
    with _trainer_problems():
        return configured(
            logger=list(loggers),
            callbacks=[SeededSteps(seed), StepReport(), *deciding, checkpoints],
            enable_checkpointing=False,
            **demanded,
        )


def fit(trainer: pl.Trainer, module: RetrieverModule, data: RetrievalDataModule, *, run_dir: Path) -> str:
    """Trains, resuming where an earlier run was cut off, and writes `run_dir/model`.

    Returns:
        One line: what was written, how much was trained, how fast; nothing in processes other than the first.

    Raises:
        UserError: the trainer does not fit this machine.
        KeyboardInterrupt: on Ctrl-C, after Lightning has shut down.
        SystemExit: on SIGTERM or SIGUSR1, after a resume point was written.
    """
    start = time.perf_counter()
    resume_point = find_checkpoint(run_dir / "train" / "checkpoints")
    try:
        with _trainer_problems():
            trainer.fit(module, data, ckpt_path=resume_point, weights_only=True)
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()  # the next training of a sweep forms its own
    if not trainer.is_global_zero:
        return ""
    save_bi_encoder(module.bi_encoder, run_dir / "model")
    seconds = time.perf_counter() - start
    return f"{run_dir / 'model'}: trained {trainer.global_step:,} steps in {seconds:,.0f} s{_resumed(resume_point)}"


@contextlib.contextmanager
def _trainer_problems() -> Iterator[None]:
    try:
        yield
    except MisconfigurationException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"trainer: {reason} Choose trainer=cpu, gpu or ddp, or correct trainer.*.") from error


def _resumed(resume_point: Path | None) -> str:
    return f", resumed from {resume_point}" if resume_point else ""
