"""Training from the first step, or from the last resume point, to the exported model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.errors import UserError
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.training.checkpoints import find_resume_point
from dpr_lightning.training.module import RetrieverModule


def prepare_run(run_dir: str | Path, *, overwrite: bool) -> Path:
    """The run folder, made where it is not there; with `overwrite`, less the training and model of an earlier run.

    Raises:
        UserError: it holds a finished model, and `overwrite` is not set.
    """
    run_dir = Path(run_dir)
    refuse_overwrite(run_dir / "model", overwrite)
    if overwrite:
        for folder in ("model", "train"):
            shutil.rmtree(run_dir / folder, ignore_errors=True)
    (run_dir / "train").mkdir(parents=True, exist_ok=True)
    return run_dir


def fit(
    make_trainer: Callable[[], pl.Trainer], module: RetrieverModule, data: RetrievalDataModule, *, run_dir: Path
) -> str:
    """Trains, resuming where an earlier run was cut off, and writes `run_dir/model`.

    Returns:
        One line: what was written, how much was trained, how fast.

    Raises:
        UserError: the trainer does not fit this machine.
        KeyboardInterrupt: on Ctrl-C, after Lightning has shut down.
    """
    start = time.perf_counter()
    resume_point = find_resume_point(run_dir / "train" / "checkpoints")
    try:
        trainer = make_trainer()
        trainer.fit(module, data, ckpt_path=resume_point)
    except MisconfigurationException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"trainer: {reason} Choose trainer=cpu, gpu or ddp, or correct trainer.*.") from error
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if trainer.is_global_zero:
        save_bi_encoder(module.bi_encoder, run_dir / "model")
    seconds = time.perf_counter() - start
    return f"{run_dir / 'model'}: trained {trainer.global_step:,} steps in {seconds:,.0f} s{_resumed(resume_point)}"


def _resumed(resume_point: Path | None) -> str:
    return f", resumed from {resume_point}" if resume_point else ""
