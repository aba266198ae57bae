"""Checks of how training data are sampled and loaded, which need neither the data nor torch."""

from __future__ import annotations

from collections.abc import Sequence

from dpr_lightning.errors import UserError, check_at_least, check_choice, check_positive

_MOST_WORKERS = 1000  # far more only exhausts the machine


def check_sampling(*, passages_per_query: int = 2, positives: str = "first", negatives: str = "rotate") -> None:
    """Raise UserError if a setting of `TrainingExamples` is not possible."""
    check_positive(passages_per_query, "passages_per_query")
    check_choice(positives, "positives", ["first", "random"])
    check_choice(negatives, "negatives", ["rotate", "first", "random"])


def check_weights(*, train: str | Sequence[str] | None, train_weights: Sequence[float] | None = None) -> None:
    """Raise UserError unless each entry of `train` has a weight of at least 0, or none has one."""
    if train_weights is None:
        return
    entries = 1 if train is None or isinstance(train, str) else len(train)
    if len(train_weights) != entries:
        raise UserError(
            f"train_weights: {len(train_weights)} weights for {entries} entries of `train`. Give one weight per entry."
        )
    for weight in train_weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise UserError(f"train_weights: {weight!r} is not a number of at least 0. Correct `train_weights`.")


def check_loading(*, batch_size: int = 32, num_workers: int = 0, seed: int = 42) -> None:
    """Raise UserError if a setting of `RetrievalDataModule` is not possible."""
    check_positive(batch_size, "batch_size")
    check_at_least(0, num_workers, "num_workers")
    if num_workers > _MOST_WORKERS:
        raise UserError(f"num_workers: {num_workers:,} is more than {_MOST_WORKERS:,}. Lower `num_workers`.")
    check_at_least(0, seed, "seed")
