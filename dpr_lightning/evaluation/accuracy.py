"""Top-k accuracy with its uncertainty, of one system and between two.

Notation: N questions. `first_hits` [N] int64 is the rank, from 1, of each question's first passage with an answer, or 0
if no ranked passage has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FirstHits = NDArray[np.int64]
_RESAMPLES = 10_000
_SEED = 0


class Accuracy(NamedTuple):
    """The share of questions with a hit among the first k passages, and its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """The accuracy of one system minus that of another on the same questions.

    `low` and `high` are a paired-bootstrap 95 % interval. `p_value` is that of the exact two-sided sign test (McNemar).
    """

    value: float
    low: float
    high: float
    p_value: float


def accuracy_at(first_hits: FirstHits, k: int) -> Accuracy:
    """Return the top-k accuracy. The hits among N questions drawn with replacement are binomial: draw those instead."""
    questions, share = len(first_hits), float(_hits(first_hits, k).mean())
    resampled = np.random.default_rng(_SEED).binomial(questions, share, _RESAMPLES) / questions
    return Accuracy(share, *middle_95_percent(resampled))


def paired_difference(first_hits: FirstHits, baseline: FirstHits, k: int) -> Difference:
    """Return the accuracy of `first_hits` minus that of `baseline`, over the same N questions in the same order."""
    change = _hits(first_hits, k).astype(int) - _hits(baseline, k)
    won, lost, questions = int((change > 0).sum()), int((change < 0).sum()), len(change)
    shares = np.array([won, lost, questions - won - lost]) / questions
    drawn = np.random.default_rng(_SEED).multinomial(questions, shares, _RESAMPLES)
    resampled = (drawn[:, 0] - drawn[:, 1]) / questions
    return Difference((won - lost) / questions, *middle_95_percent(resampled), sign_test(won, lost))


def sign_test(won: int, lost: int) -> float:
    """Return the probability of a split at least as uneven as `won` to `lost` if both are equally likely."""
    total = won + lost
    tail: float = sum(comb(total, i) for i in range(min(won, lost) + 1)) / 2**total
    return min(1.0, 2 * tail)


def first_hit(hits: Sequence[bool]) -> int:
    """Return the rank, from 1, of the first true value; 0 if all are false."""
    return hits.index(True) + 1 if True in hits else 0


def _hits(first_hits: FirstHits, k: int) -> NDArray[np.bool_]:
    return (first_hits > 0) & (first_hits <= k)


def middle_95_percent(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
