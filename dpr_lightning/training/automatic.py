"""Settings of the trainer that are `auto`: they follow from the machine and from the number of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dpr_lightning.model.inference import resolve_precision

_PRECISIONS = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true"}
_MOST_STEPS_BETWEEN_LOGS = 500  # as in the published recipe
_LOGGED_STEPS = 50


def automatic_settings(trainer: Mapping[str, Any], *, batches_per_epoch: Callable[[int], int]) -> dict[str, Any]:
    """Return the values of a trainer's settings that are `auto`; other settings are not in the result.

    - `accelerator`: `gpu` if this machine has one, else `cpu`.
    - `devices`: every GPU, or one process on a CPU.
    - `precision`: the fastest that the device multiplies natively, as `encode.precision=auto`.
    - `log_every_n_steps`: a 50th of all steps, but at most 500 and at least once per epoch.

    Args:
        trainer: The settings of the Trainer. They may be invalid, which Lightning reports later.
        batches_per_epoch: Returns the number of batches per process and epoch, given the number of processes.
    """
    found: dict[str, Any] = {}
    if trainer["accelerator"] == "auto":
        found["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    on_gpu = found.get("accelerator", trainer["accelerator"]) in ("gpu", "cuda")
    if trainer["devices"] == "auto":
        found["devices"] = torch.cuda.device_count() if on_gpu else 1
    devices = found.get("devices", trainer["devices"])
    if trainer["precision"] == "auto":
        found["precision"] = _PRECISIONS[resolve_precision("auto", torch.device("cuda" if on_gpu else "cpu"))]
    if trainer["log_every_n_steps"] == "auto":
        processes = devices * trainer["num_nodes"] if type(devices) is int and devices > 0 else 1
        found["log_every_n_steps"] = log_interval(trainer, batches_per_epoch(processes))
    return found


def log_interval(trainer: Mapping[str, Any], batches_per_epoch: int) -> int:
    """Return the number of steps between logged steps that gives any training a curve."""
    epochs, most = (value if type(value) is int else -1 for value in (trainer["max_epochs"], trainer["max_steps"]))
    per_step = trainer["accumulate_grad_batches"]
    per_epoch = batches_per_epoch // per_step if type(per_step) is int and per_step > 1 else batches_per_epoch
    limits = [limit for limit in (epochs * per_epoch, most) if limit > 0]
    steps = min(limits, default=_MOST_STEPS_BETWEEN_LOGS * _LOGGED_STEPS)
    return max(1, min(steps // _LOGGED_STEPS, _MOST_STEPS_BETWEEN_LOGS, per_epoch))
