"""Checks of how training data are sampled and loaded, which need neither the data nor torch."""

from __future__ import annotations

from dpr_lightning.errors import UserError, check_at_least, check_choice, check_positive

_MOST_WORKERS = 1000  # far more only exhausts the machine


def check_sampling(*, passages_per_query: int = 2, positives: str = "first", negatives: str = "rotate") -> None:
    """Raise UserError if a setting of `TrainingExamples` is not possible."""
    check_positive(passages_per_query, "passages_per_query")
    check_choice(positives, "positives", ["first", "random"])
    check_choice(negatives, "negatives", ["rotate", "first", "random"])


def check_loading(*, batch_size: int = 32, num_workers: int = 0, seed: int = 42) -> None:
    """Raise UserError if a setting of `RetrievalDataModule` is not possible."""
    check_positive(batch_size, "batch_size")
    check_at_least(0, num_workers, "num_workers")
    if num_workers > _MOST_WORKERS:
        raise UserError(f"num_workers: {num_workers:,} is more than {_MOST_WORKERS:,}. Lower `num_workers`.")
    check_at_least(0, seed, "seed")
