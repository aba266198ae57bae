"""Which overrides of one command another command of the same run needs."""

from __future__ import annotations

from collections.abc import Sequence

COMMANDS = ("train", "encode", "search", "reduce", "evaluate")
"""The commands of a run, in the order of their work."""

_TRAINING_KEYS = tuple(
    f"data.{key}"
    for key in (
        *("train", "dev", "train_weights", "batch_size", "passages_per_query"),
        *("positives", "negatives", "dev_negatives", "num_workers"),
    )
)
_KEPT = ("experiment", "name", "run_dir", "split", "data", "data.")
_KEPT_BY = {  # further overrides that a command needs if an earlier command had them; a dot ends a group
    "train": (),
    "encode": ("model_dir", "num_shards", "devices", "encode."),
    "search": ("num_shards", "method", "index", "format", "depth", "memory", "ann.", "bm25.", "hybrid."),
    "reduce": ("format", "depth"),
    "evaluate": ("run_file", "method", "format", "topk", "against", "evaluate."),
}


def is_kept(key: str, command: str) -> bool:
    """Return whether a command needs an override that another command of the same run had."""
    kept = (*_KEPT, *_KEPT_BY[command])
    if key in _TRAINING_KEYS:
        return command == "train"
    return key in kept or any(key.startswith(group) for group in kept if group.endswith("."))


def overrides_of(command: str, words: Sequence[str]) -> list[str]:
    """Return the overrides that a command understands. Overrides that no command claims go to the training.

    Args:
        command: The name of the command.
        words: The overrides, as a user types them.
    """
    needed_by = {
        word: [name for name in COMMANDS if is_kept(word.partition("=")[0].lstrip("+"), name)] for word in words
    }
    return [
        word for word, commands in needed_by.items() if command in commands or (command == "train" and not commands)
    ]
