"""Several training files, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence

import datasets

from dpr_lightning.data.sources import Files, open_training
from dpr_lightning.errors import UserError


def open_mixture(
    files: Files, weights: Sequence[float] | None, *, skip_invalid: bool = False
) -> tuple[datasets.Dataset, list[tuple[int, float]]]:
    """All training rows, and for each entry of `files` the number of its rows and its weight (1 where none is given).

    Raises:
        UserError: what `open_training` refuses, not one weight per entry, or a weight that is no number from 0 on.
    """
    if weights is None:
        rows = open_training(files, skip_invalid=skip_invalid).rows
        return rows, [(len(rows), 1.0)]
    entries = [files] if files is None or isinstance(files, str) else list(files)
    if len(weights) != len(entries):
        raise UserError(
            f"data.train_weights: {len(weights)} weights for {len(entries)} entries of data.train. "
            "Give one weight per entry."
        )
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise UserError(f"data.train_weights: {weight!r} is no number from 0 on. Correct data.train_weights.")
    parts = [open_training(entry, skip_invalid=skip_invalid).rows for entry in entries]
    return datasets.concatenate_datasets(parts), [(len(p), w) for p, w in zip(parts, weights, strict=True)]
