"""Checks of a training that need neither the model nor the data nor torch."""

from __future__ import annotations

import os

from dpr_lightning.errors import UserError, check_choice, check_positive, error_prefix
from dpr_lightning.machine import may_have_gpus

METRICS = {"val/mrr": "max", "val/accuracy": "max", "val/mean_rank": "min"}
"""The metrics of validation, and whether `min` or `max` is best."""
_CPU_PROCESSES = 16  # allowed on a CPU with fewer cores, to try out a training of several processes


def check_devices(*, accelerator: object, devices: object) -> None:
    """Raise UserError if this machine certainly lacks the devices that a Trainer is to use; other values pass."""
    if accelerator in ("gpu", "cuda") and not may_have_gpus():
        raise UserError(
            f"trainer: accelerator={accelerator}, but this machine has no GPU. Choose trainer=cpu, or trainer=auto."
        )
    if accelerator == "cpu" and type(devices) is int:
        check_cpu_processes(devices)


def check_cpu_processes(devices: int) -> None:
    """Raise UserError for more processes on a CPU than make sense."""
    most = max(_CPU_PROCESSES, os.cpu_count() or 1)
    if devices > most:
        raise UserError(
            f"trainer: devices={devices} on a CPU would start as many processes, more than {most}. "
            "Set its devices to 1: one process uses all cores."
        )


def check_validation(
    *,
    validates: bool,
    best: str | None = None,
    patience: int | None = None,
    monitor: str = "val/mrr",
    mode: str = "max",
) -> None:
    """Raise UserError for settings that validation cannot decide; the arguments are those of `validation_callbacks`."""
    if patience is not None:
        with error_prefix("early_stopping"):
            check_positive(patience, "patience")
            check_choice(monitor, "monitor", list(METRICS))
            check_choice(mode, "mode", ["min", "max"])
    if best is not None:
        check_choice(best, "best", list(METRICS))
    if (patience is not None or best is not None) and not validates:
        name = "best" if patience is None else "early_stopping.patience"
        raise UserError(f"{name}: is decided by validation, and `dev` is not set. Set `dev`, or leave `{name}` out.")


def check_checkpoints(*, every_n_steps: int, keep_last: int) -> None:
    """Raise UserError for numbers below 1."""
    check_positive(every_n_steps, "every_n_steps")
    check_positive(keep_last, "keep_last")


def check_grad_cache(*, query_chunk_size: int | None = None, passage_chunk_size: int | None = None) -> None:
    """Raise UserError if only one chunk size is set, or if one is below 1."""
    sizes = {"query_chunk_size": query_chunk_size, "passage_chunk_size": passage_chunk_size}
    chosen = {name: size for name, size in sizes.items() if size is not None}
    if len(chosen) == 1:
        raise UserError(
            "grad_cache: only one chunk size is set. Set both `query_chunk_size` and `passage_chunk_size`, or neither."
        )
    for name, size in chosen.items():
        check_positive(size, name)
