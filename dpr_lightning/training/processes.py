"""The processes of a training: as many as SLURM has started, and one training per run folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytorch_lightning as pl
import torch.distributed as dist
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.accelerators import CPUAccelerator

from dpr_lightning.errors import UserError
from dpr_lightning.files import atomic_write
from dpr_lightning.locks import exclusive_lock
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training.checks import check_cpu_processes


def check_processes(trainer: pl.Trainer) -> None:
    """Raise UserError for more processes than CPUs make sense of, or unless SLURM has started one task for each device.

    Lightning starts a process for each device, however many. In a job of SLURM it would train with as many processes as
    there are tasks, or several times the same.
    """
    if isinstance(trainer.accelerator, CPUAccelerator):
        check_cpu_processes(trainer.num_devices)
    wanted, tasks = trainer.num_devices * trainer.num_nodes, _slurm_tasks()
    if tasks is not None and tasks != wanted:
        raise UserError(
            f"trainer: devices={trainer.num_devices} and num_nodes={trainer.num_nodes} need {wanted} processes, but "
            f"SLURM has {tasks} for this job (SLURM_NTASKS). Set both as in --ntasks-per-node and --nodes, and start "
            "with srun."
        )
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is not None:
        try:
            environment.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
        except ValueError as error:
            raise UserError(f"trainer: {error}") from error


def _slurm_tasks() -> int | None:
    """Return the number of tasks in which SLURM runs this program; None if it does not, or another launcher does."""
    if "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    tasks = os.environ.get("SLURM_NTASKS")
    return None if tasks is None else int(tasks)


@contextlib.contextmanager
def only_training(trainer: pl.Trainer, run: RunDir, prepare: Callable[[], None]) -> Iterator[None]:
    """Keep other trainings out of a run folder until the block ends or this process dies.

    The first process takes the lock and then calls `prepare`, before any process goes on. What it raises, all raise.

    Raises:
        UserError: Another training is using the folder.
    """
    with contextlib.ExitStack() as opened:

        def begin() -> None:
            remedy = "Wait for the training to end, or choose another run_dir"
            opened.enter_context(exclusive_lock(run.model, remedy=remedy))
            prepare()

        try:
            _in_first_process(trainer, begin)
            yield
        finally:
            if dist.is_available() and dist.is_initialized():
                dist.destroy_process_group()  # the next training of a sweep forms its own


def _in_first_process(trainer: pl.Trainer, action: Callable[[], None]) -> None:
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or isinstance(environment, LightningEnvironment):
        if trainer.is_global_zero:  # Lightning starts the other processes later, from within `fit`
            action()
        return
    trainer.strategy.setup_environment()
    error: BaseException | None = None
    if trainer.is_global_zero:
        try:
            action()
        except (UserError, OSError) as caught:
            error = caught
    error = trainer.strategy.broadcast(error)
    if error is not None:
        raise error


def overwrites(run: RunDir, overwrite: bool) -> bool:
    """Return whether a training starts over: `overwrite`, but not when SLURM has queued the same job again.

    The command of such a job still says overwrite=true, and its checkpoints are to be continued.
    """
    job, restarts = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if not overwrite or job is None:
        return overwrite
    file = run.train / "overwritten_by"
    before, _, restart = file.read_text().partition(" ") if file.exists() else ("", "", "0")
    return before != job or int(restart) >= restarts


def remember_overwriting(run: RunDir) -> None:
    """Record the SLURM job that has emptied the folder, for `overwrites`."""
    if (job := os.environ.get("SLURM_JOB_ID")) is not None:
        with atomic_write(run.train / "overwritten_by") as file:
            file.write(f"{job} {os.environ.get('SLURM_RESTART_COUNT', '0')}")
