"""The plan of a training: its steps, its checkpoints, and what they take in space and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dpr_lightning.files import matching, size_text
from dpr_lightning.plan import Plan
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training.space import Length, TrainingSpace, check_training_space

_BYTES_PER_PARAMETER = 12  # in memory, besides the weight: a gradient and the two moments of Adam, in float32


def processes(trainer: Mapping[str, Any]) -> int:
    """Return the number of processes that settings of a Trainer ask for; devices that are a list count each."""
    devices = trainer["devices"]
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else 1
    return count * int(trainer["num_nodes"])


def add_steps(plan: Plan, length: Length, *, rows: int, batches: int, devices: int) -> None:
    """Add questions and steps to a plan."""
    per_device = f"{batches:,} batches per device (devices: {devices})"
    plan.add("epoch", f"{rows:,} questions, {per_device}, {length.per_epoch:,} steps")
    known = length.steps < math.inf
    unknown = "without limit: neither trainer.max_epochs nor trainer.max_steps"
    plan.add("steps", f"{length.steps:,} in {length.epochs:,} epochs" if known else unknown)


def add_space(
    plan: Plan, run: RunDir, module: Any, space: TrainingSpace, *, every_n_steps: int, overwrite: bool = False
) -> None:
    """Add model, checkpoints, disk and memory to a plan, and the checkpoint from which the training continues."""
    parameters = list(module.parameters())
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    plan.add("model", f"{sum(one.numel() for one in parameters):,} parameters, {trained:,} of them trained")
    size = size_text(space.checkpoint)
    plan.add("checkpoints", f"every {every_n_steps:,} steps and epoch, {space.kept} of {size} at most at a time")
    if not overwrite and (newest := matching(run.checkpoints, "step-*.ckpt")[-1:]):
        plan.add("resume", f"the training continues from {newest[0]}")
    plan.add_disk(run.checkpoints, space.needed)
    with plan.collected():
        check_training_space(space, run)
    plan.add_memory(
        space.model + _BYTES_PER_PARAMETER * trained, "weights, gradients and optimizer, besides activations"
    )
