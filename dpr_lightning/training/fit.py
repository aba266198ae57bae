"""Training from the first step, or from the last checkpoint, to the exported model."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.errors import FinishedError, UserError
from dpr_lightning.files import create_parent, empty_folder
from dpr_lightning.model.card import Origin
from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training.callbacks import SeededSteps, StepReport
from dpr_lightning.training.checkpoints import Checkpoints, find_checkpoint, step_of
from dpr_lightning.training.divergence import StopOnDivergence, refuse_diverged
from dpr_lightning.training.early_stopping import validation_callbacks
from dpr_lightning.training.module import RetrieverModule
from dpr_lightning.training.preemption import StopOnSignal, StoppedBySignalError
from dpr_lightning.training.processes import check_processes, overwrites, remember_overwriting
from dpr_lightning.training.report import TrainingReport
from dpr_lightning.training.trainer_errors import trainer_errors
from dpr_lightning.training.write_errors import write_errors
from dpr_lightning.training_curves import CURVES, write_training_curves

_log = logging.getLogger(__name__)


def prepare_run(run: RunDir, *, overwrite: bool) -> None:
    """Make the run folder; with `overwrite`, empty training and model of an earlier run, also behind symbolic links.

    The first process calls this while it holds the folder's lock.

    Raises:
        FinishedError: The folder has a finished model and `overwrite` is not set.
        UserError: The model could not be written there at the end.
        OSError: A folder cannot be made or emptied.
    """
    model, overwrite = run.model.resolve(), overwrites(run, overwrite)
    if model.exists() and not (model.is_dir() and not any(model.iterdir())) and not overwrite:
        raise FinishedError(run.model)
    create_parent(model)
    if os.path.ismount(model) or model.is_file() or not os.access(model.parent, os.W_OK):
        raise UserError(
            f"{run.model} cannot be replaced by the trained model: it is a file or a mount point, or {model.parent} is "
            "read-only. Remove it, or choose another run_dir."
        )
    if overwrite:
        empty_folder(run.train)
        empty_folder(model)
        if model.exists():
            model.rmdir()  # to `-e` and `exists`, a link to nothing does not exist
    run.train.resolve().mkdir(parents=True, exist_ok=True)
    if overwrite:
        remember_overwriting(run)


def make_trainer(
    configured: Callable[..., pl.Trainer],
    module: RetrieverModule,
    data: RetrievalDataModule,
    *,
    run: RunDir,
    loggers: Sequence[Logger] = (),
    every_n_steps: int = 20_000,
    keep_last: int = 2,
    best: str | None = None,
    early_stopping: Mapping[str, Any] | None = None,
    seed: int = 42,
    precision: str | int | None = None,
) -> pl.Trainer:
    """Return the Trainer with the callbacks of our training. Writes nothing yet.

    Args:
        configured: Makes the Trainer; called with loggers, callbacks and what the module and the data require.
        module: What is trained.
        data: What it is trained on.
        run: The run folder, for checkpoints.
        loggers: Loggers of metrics.
        every_n_steps: Number of steps between checkpoints; see `Checkpoints`.
        keep_last: Number of checkpoints to keep.
        best: The metric whose best weights are exported; see `validation_callbacks`.
        early_stopping: `patience`, `monitor` and `mode`; see `validation_callbacks`.
        seed: Seed of the random numbers in the steps, that is of dropout.
        precision: The precision that `configured` asks for, which Lightning must not replace.

    Raises:
        UserError: The data lacks what loss or callbacks need, or the trainer does not fit module or machine.
    """
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    _check_scores(module, data)
    stop = StopOnSignal()
    checkpoints = Checkpoints(run.checkpoints, stop, every_n_steps=every_n_steps, keep_last=keep_last)
    report = TrainingReport(run, every_n_steps=every_n_steps)
    validates = data.dev_examples is not None
    deciding = validation_callbacks(run.best_weights, validates=validates, best=best, **(early_stopping or {}))
    required: dict[str, Any] = {} if validates else {"limit_val_batches": 0}
    if module.grad_cache is not None:
        required["gradient_clip_val"] = None  # the module clips
    with trainer_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*AMP with fp16 is not supported on CPU")  # refused below
        trainer = configured(
            logger=list(loggers),
            callbacks=[SeededSteps(seed), StepReport(), report, StopOnDivergence(), *deciding, stop, checkpoints],
            enable_checkpointing=False,
            **required,
        )
    check_processes(trainer)
    if trainer.precision == "bf16-mixed" and str(precision) in ("16", "16-mixed"):
        raise UserError(
            f"precision: {precision} is not possible on a CPU; Lightning would use bf16-mixed. "
            "Set `precision` to 32-true or bf16-mixed."
        )
    if module.grad_cache is not None and trainer.accumulate_grad_batches != 1:
        raise UserError(
            "accumulate_grad_batches: has no use with gradient cache, whose batch can be of any size. "
            "Set `accumulate_grad_batches` to 1 and raise `batch_size`."
        )
    return trainer


def fit(trainer: pl.Trainer, module: RetrieverModule, data: RetrievalDataModule, *, run: RunDir) -> str:
    """Train, from the last checkpoint if there is one, and write the model into the run folder.

    Returns:
        One line: what was written, how much was trained and how fast. Empty in processes other than the first.

    Raises:
        UserError: The trainer does not fit this machine, the training has diverged, or a file cannot be written.
        KeyboardInterrupt: On Ctrl-C; the message is where the same command continues.
        SystemExit: On SIGTERM, SIGUSR1 or SIGUSR2, after a checkpoint was written and the job was queued again.
    """
    start = time.perf_counter()
    checkpoint = find_checkpoint(run.checkpoints)
    (stop,) = [callback for callback in trainer.callbacks if isinstance(callback, StopOnSignal)]  # type: ignore[attr-defined]
    with _curves_at_the_end(trainer, run), stop.handling():
        try:
            with trainer_errors():
                trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        except StoppedBySignalError:
            _end_after(stop, trainer)
        except SIGTERMException:  # arrived before the first step
            raise SystemExit(128 + signal.SIGTERM) from None
        except SystemExit:
            if trainer.interrupted:
                raise KeyboardInterrupt(f"from step {step_of(find_checkpoint(run.checkpoints)):,}") from None
            raise
    if not trainer.is_global_zero:
        return ""
    refuse_diverged(trainer, module.bi_encoder)
    with write_errors(run.model):
        save_bi_encoder(module.bi_encoder, run.model, origin=_origin(trainer, module, data, run))
    seconds = time.perf_counter() - start
    (report,) = [callback for callback in trainer.callbacks if isinstance(callback, TrainingReport)]  # type: ignore[attr-defined]
    result = f"trained {trainer.global_step:,} steps in {seconds:,.0f} s{report.result(trainer)}"
    return f"{run.model}: {result}{_resumed(checkpoint)}"


@contextlib.contextmanager
def _curves_at_the_end(trainer: pl.Trainer, run: RunDir) -> Iterator[None]:
    """Draw the training curves when the block ends, however it ends. A failure is a line in the log."""
    try:
        yield
    finally:
        if trainer.is_global_zero:
            try:
                write_training_curves(run.train)
            except Exception as error:  # of matplotlib, or of the disk: it must not change how a training ends
                _log.info("%s is left out: %s", run.train / CURVES, error)


def _origin(trainer: pl.Trainer, module: RetrieverModule, data: RetrievalDataModule, run: RunDir) -> Origin:
    base = module.bi_encoder.passage.transformer.config.name_or_path
    rows = {name: f"{count:,} rows, fingerprint {hashed}" for name, (count, hashed) in data.fingerprints.items()}
    config = run.training_config.read_text(encoding="utf-8") if run.training_config.exists() else ""
    return Origin(f"Trained from {base} for {trainer.global_step:,} steps.", rows, config)


def _end_after(stop: StopOnSignal, trainer: pl.Trainer) -> NoReturn:
    """End this process after signals; the first queues the job again and has the exit code that others see.

    Lightning and `srun --kill-on-bad-exit` kill the first process if another one fails before it.
    """
    if not trainer.is_global_zero:
        raise SystemExit(0)
    where = f"from step {trainer.global_step:,}"
    if stop.agreed == (signal.SIGINT,):
        raise KeyboardInterrupt(where) from None
    names = " and ".join(number.name for number in stop.agreed)
    _log.warning("stopped by %s; the same command continues %s", names, where)
    stop.queue_again()
    raise SystemExit(128 + signal.SIGTERM) from None


def _check_scores(module: RetrieverModule, data: RetrievalDataModule) -> None:
    if getattr(module.loss, "needs_scores", False) and not any(
        row["positives"][0]["score"] is not None for row in data.train_examples.rows
    ):
        raise UserError(
            "loss: learns from a teacher's scores, and no row of `train` has scores. Add them, or choose another loss."
        )


def _resumed(checkpoint: Path | None) -> str:
    return f", resumed from {checkpoint}" if checkpoint else ""
