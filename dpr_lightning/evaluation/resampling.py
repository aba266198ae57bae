"""Uncertainty of means over questions by resampling the questions, for one data set or the mean of several.

Every function draws from a generator with a fixed seed, so that equal values give equal figures.

Sources: the paired bootstrap and the randomization test as compared by Smucker, Allan and Carterette, A Comparison of
Statistical Significance Tests for Information Retrieval Evaluation, CIKM 2007; Holm, A Simple Sequentially Rejective
Multiple Test Procedure, Scandinavian Journal of Statistics 6, 1979.

Notation: D data sets of N_d questions; M measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.evaluation.accuracy import Difference, middle_95_percent

Values = NDArray[np.float64]
_RESAMPLES = 10_000
_AT_ONCE = 100
_SEED = 0
_ROUNDING = 1e-12


def bootstrap_intervals(values: Values) -> NDArray[np.float64]:
    """Return 95 % intervals [M, 2] of the means of `values` [N, M] over questions drawn with replacement."""
    return np.percentile(_bootstrap_means(values), [2.5, 97.5], axis=0).T


def mean_with_interval(sets: Sequence[Values]) -> tuple[float, float, float]:
    """Return the mean over data sets of the mean over questions, and its bootstrap 95 % interval.

    Args:
        sets: The values of each data set's questions, D arrays [N_d]. The data sets themselves are not resampled.
    """
    means = np.mean([_bootstrap_means(values[:, None])[:, 0] for values in sets], axis=0)
    return _mean(sets), *middle_95_percent(means)


def paired_mean_difference(sets: Sequence[Values], baseline: Sequence[Values]) -> Difference:
    """Return the mean of `sets` minus that of `baseline`, both D arrays [N_d] over the same questions in one order.

    The interval is the paired bootstrap's; the p-value is that of the two-sided randomization test, which swaps the two
    systems at random in every question. Its least value is 1 / 10,001.
    """
    changes = [first - second for first, second in zip(sets, baseline, strict=True)]
    value, low, high = mean_with_interval(changes)
    swapped = np.mean([_swapped_means(change) for change in changes], axis=0)
    extreme = int((np.abs(swapped) >= abs(value) - _ROUNDING).sum())
    return Difference(value, low, high, (extreme + 1) / (_RESAMPLES + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p-values adjusted for their number by Holm's step-down method."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def _mean(sets: Sequence[Values]) -> float:
    return float(np.mean([values.mean() for values in sets]))


def _bootstrap_means(values: Values) -> Values:
    """Return the means [resamples, M] of `values` [N, M] over questions drawn with replacement."""
    questions, rng = len(values), np.random.default_rng(_SEED)
    means = np.empty((_RESAMPLES, values.shape[1]))
    offsets = questions * np.arange(_AT_ONCE)[:, None]
    for start in range(0, _RESAMPLES, _AT_ONCE):
        drawn = rng.integers(questions, size=(_AT_ONCE, questions)) + offsets
        times = np.bincount(drawn.ravel(), minlength=_AT_ONCE * questions).reshape(_AT_ONCE, questions)
        means[start : start + _AT_ONCE] = times.astype(float) @ values / questions
    return means


def _swapped_means(change: Values) -> Values:
    """Return the means [resamples] of `change` [N] with random signs."""
    rng, total = np.random.default_rng(_SEED), change.sum()
    means = np.empty(_RESAMPLES)
    for start in range(0, _RESAMPLES, _AT_ONCE):
        kept = rng.integers(2, size=(_AT_ONCE, len(change)), dtype=np.int8)
        means[start : start + _AT_ONCE] = (2 * (kept.astype(float) @ change) - total) / len(change)
    return means
