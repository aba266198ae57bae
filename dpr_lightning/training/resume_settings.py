"""Which settings of an unfinished training may change when it resumes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpr_lightning.errors import UserError

_LATER = "only later stages read it"
_VIEW = "it changes what is shown or logged"
_VALIDATION = "it decides what validation measures, and so the best weights and when training stops"
_ARITHMETIC = "it changes the arithmetic"
_BATCHES = "it changes which questions share a batch"
_STEPS = "the learning rate depends on the number of steps"

MAY_CHANGE = {
    **dict.fromkeys(("name", "run_dir", "model_dir", "run_file"), "it names folders, which may be moved"),
    **dict.fromkeys(("split", "side", "shard", "num_shards", "devices", "depth", "topk", "memory", "index"), _LATER),
    **dict.fromkeys(("format", "ann", "bm25", "hybrid", "encode", "evaluate", "method", "against"), _LATER),
    **dict.fromkeys(("data.corpus", "data.queries", "data.qrels", "data.answers"), _LATER),
    **dict.fromkeys(("data.match_title", "data.published"), _LATER),
    "overwrite": "it starts a new training instead of resuming",
    "skip_finished": "it decides what happens to a finished training",
    "plan": "it starts no training",
    "data.num_workers": "batches are the same with any number of workers",
    "model.gradient_checkpointing": "the gradients are the same, bit for bit",
    "checkpoint.every_n_steps": "it changes how often a checkpoint is written",
    "checkpoint.keep_last": "it changes how many checkpoints are kept",
    "logger": _VIEW,
    "trainer.log_every_n_steps": _VIEW,
    "trainer.enable_progress_bar": _VIEW,
    "trainer.enable_model_summary": _VIEW,
    "trainer.profiler": _VIEW,
    "trainer.detect_anomaly": "it only raises errors",
    "trainer.num_sanity_val_steps": "the sanity check decides nothing",
    "trainer.max_time": "it limits the time of one run; the schedule does not depend on it",
}
"""Keys and groups that may change, with the reason."""

MUST_MATCH = {
    "seed": "it decides the order of the rows and all random numbers",
    "data": "it decides what is trained on",
    "data.dev": _VALIDATION,
    "data.dev_negatives": _VALIDATION,
    "data.batch_size": _BATCHES,
    "model": "it decides what is trained",
    "loss": "it decides what is minimized",
    "optimizer": "it decides the updates",
    "scheduler": "it decides the learning rate",
    "grad_cache": _ARITHMETIC,
    "checkpoint.best": "it decides which weights are exported",
    "early_stopping": "it decides when training stops",
    "trainer._target_": "it decides how training runs",
    "trainer._partial_": "it decides how training runs",
    "trainer.devices": _BATCHES,
    "trainer.num_nodes": _BATCHES,
    "trainer.strategy": _ARITHMETIC,
    "trainer.use_distributed_sampler": _BATCHES,
    "trainer.limit_train_batches": _STEPS,
    "trainer.accumulate_grad_batches": _STEPS,
    "trainer.max_epochs": _STEPS,
    "trainer.max_steps": _STEPS,
    "trainer.accelerator": _ARITHMETIC,
    "trainer.precision": _ARITHMETIC,
    "trainer.deterministic": _ARITHMETIC,
    "trainer.benchmark": _ARITHMETIC,
    "trainer.gradient_clip_val": "it decides the updates",
    "trainer.val_check_interval": _VALIDATION,
    "trainer.check_val_every_n_epoch": _VALIDATION,
    "trainer.limit_val_batches": _VALIDATION,
}
"""Keys and groups that must be as they were, with the reason."""

_ADDED = {"model.query_prompt": "", "model.passage_prompt": "", "model.dtype": "float32"}
"""Keys that trainings of earlier versions do not have, and the value that they trained with."""

_RENAMED: dict[Any, str] = {  # `_target_` of trainings that began before the losses had a folder
    "dpr_lightning.training.loss.InBatchLoss": "dpr_lightning.training.losses.in_batch.InBatchLoss",
    "dpr_lightning.training.symmetric.SymmetricLoss": "dpr_lightning.training.losses.symmetric.SymmetricLoss",
    "dpr_lightning.training.distillation.DistillationLoss": (
        "dpr_lightning.training.losses.distillation.DistillationLoss"
    ),
}


def check_resume_settings(
    saved: Mapping[str, Any], current: Mapping[str, Any], file: Path, *, state: str = "unfinished"
) -> None:
    """Raise UserError unless a training with the `current` config may resume one that began with the `saved` config.

    A key that is in neither table must not change. A missing key counts as null, or as its value in `_ADDED`.

    Args:
        saved: The config of the unfinished training, as nested dicts.
        current: The config of this one.
        file: The file of the saved config, for the message.
        state: `finished` or `unfinished`, for the message.
    """
    began, now = dict(_values("", saved)), dict(_values("", current))
    for key in [*now, *(key for key in began if key not in now)]:
        old, new = began.get(key, _ADDED.get(key)), now.get(key)
        if key.endswith("_target_"):
            old = _RENAMED.get(old, old)
        if (type(old), old) != (type(new), new) and (rule := rule_of(key)) not in MAY_CHANGE:
            reason = MUST_MATCH.get(rule, "it is not known to leave the result as it is")
            raise UserError(
                f"{key}: is {new!r}, but the {state} training in {file.parent} began with {old!r}, and {reason}. "
                f"Set {key} as in {file}, set overwrite=true to train from the start, or choose another run_dir."
            )


def check_fingerprints(
    saved: Mapping[str, Any], current: Mapping[str, Any], file: Path, *, state: str = "unfinished"
) -> None:
    """Raise UserError if a key names the same data or model as when a training began, but its content has changed.

    Args:
        saved: The fingerprint of each key's content then, as nested dicts; trainings of earlier versions have none.
        current: The fingerprints now.
        file: The file of the saved config, for the message.
        state: `finished` or `unfinished`, for the message.
    """
    began = dict(_values("", saved))
    for key, now in _values("", current):
        if (old := began.get(key, now)) != now:
            raise UserError(
                f"{key}: has other content (fingerprint {now}) than when the {state} training in {file.parent} began "
                f"({old}). Restore it, set overwrite=true to train from the start, or choose another run_dir."
            )


def rule_of(key: str) -> str:
    """Return the entry of the tables that applies to a dotted key: the key itself or its closest group, else ''."""
    while key and key not in MAY_CHANGE and key not in MUST_MATCH:
        key = key.rpartition(".")[0]
    return key


def _values(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; a list is one value, an empty group none."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _values(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
