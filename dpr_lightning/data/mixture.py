"""Several training files, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets

from dpr_lightning.data.checks import check_weights
from dpr_lightning.data.sources import Files, open_training


def open_mixture(
    files: Files, weights: Sequence[float] | None, **options: Any
) -> tuple[datasets.Dataset, list[tuple[int, float]], str]:
    """Return all training rows; for each entry of `files`, the number of its rows and its weight; the fingerprint.

    The fingerprint is that of the rows; with weights, those of all entries, joined by `+`.

    Args:
        files: See `open_training`.
        weights: One weight per entry of `files`; None gives every row the weight 1.
        options: Keyword arguments of `open_training`.

    Raises:
        UserError: The files cannot be opened, there is not one weight per entry, or a weight is not a number of at
            least 0.
    """
    if weights is None:
        source = open_training(files, **options)
        return source.rows, [(len(source.rows), 1.0)], source.fingerprint
    check_weights(train=files, train_weights=weights)
    entries = [files] if files is None or isinstance(files, str) else list(files)
    sources = [open_training(entry, **options) for entry in entries]
    sizes = [(len(source.rows), weight) for source, weight in zip(sources, weights, strict=True)]
    fingerprint = "+".join(source.fingerprint for source in sources)
    return datasets.concatenate_datasets([source.rows for source in sources]), sizes, fingerprint
