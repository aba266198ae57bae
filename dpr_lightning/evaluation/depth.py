"""Which cutoffs rankings are deep enough for.

A question is undecided at cutoff k if its ranking ends before k passages, the corpus has more, and no ranked passage
is a hit: the passages that were not retrieved could decide either way. Other questions are decided. So is one that the
rankings lack altogether: it is a miss at every cutoff.

A figure is reported if the undecided questions could not move it by more than 0.001, and then they count as misses.
Otherwise it is left out, and only the bounds between which it lies are reported.

Notation: N questions; `first_hits` [N] is the rank of a question's first hit, 0 without one; `lengths` [N] is the
number of its ranked passages, or the size of the corpus for a question that is decided in any case.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
_TOLERANCE = 0.001  # share of the questions


def undecided_at(k: int, first_hits: Integers, lengths: Integers, corpus_rows: int) -> int:
    """Return the number of undecided questions at cutoff `k`."""
    return int(((first_hits == 0) & (lengths < min(k, corpus_rows))).sum())


def is_tolerable(undecided: int, questions: int) -> bool:
    """Return whether a mean over `questions` may be reported although so many of them are undecided."""
    return undecided <= _TOLERANCE * questions


def deepest_cutoff(first_hits: Integers, lengths: Integers, corpus_rows: int) -> int | None:
    """Return the largest cutoff whose undecided questions are tolerable; None if any cutoff is possible."""
    short = np.sort(lengths[(first_hits == 0) & (lengths < corpus_rows)])
    tolerable = int(_TOLERANCE * len(first_hits))
    return int(short[tolerable]) if len(short) > tolerable else None


def bounds(value: float, undecided: int, questions: int) -> list[float]:
    """Return the least and the greatest possible value of a mean in which undecided questions count as misses."""
    return [value, min(1.0, value + undecided / questions)]
