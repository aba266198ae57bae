"""Which cutoffs rankings are deep enough for.

A figure at cutoff k is left out if no ranking has k passages although the corpus does. Single rankings may be shorter
than others: a question is undecided at k if its ranking ends before k passages, the corpus has more, and no ranked
passage is a hit. If the undecided questions could move a mean by at most 0.001, it is reported, and they count as
misses; otherwise it is left out. Of a figure that is left out, the bounds are reported between which it lies. A
question that the rankings lack altogether is a miss at every cutoff.

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


def is_measured(k: int, undecided: int, questions: int, *, longest: int, corpus_rows: int) -> bool:
    """Return whether a mean over `questions` at cutoff `k` is reported.

    Args:
        k: The cutoff.
        undecided: Number of undecided questions.
        questions: Number of questions.
        longest: Number of passages in the longest ranking.
        corpus_rows: Number of passages in the corpus.
    """
    return min(k, corpus_rows) <= longest and undecided <= _TOLERANCE * questions


def deepest_cutoff(first_hits: Integers, lengths: Integers, corpus_rows: int) -> int | None:
    """Return the largest cutoff whose undecided questions are tolerable; None if any cutoff is possible."""
    short = np.sort(lengths[(first_hits == 0) & (lengths < corpus_rows)])
    tolerable = int(_TOLERANCE * len(first_hits))
    return int(short[tolerable]) if len(short) > tolerable else None


def bounds(value: float, undecided: int, questions: int) -> list[float]:
    """Return the least and the greatest possible value of a mean in which undecided questions count as misses."""
    return [value, min(1.0, value + undecided / questions)]
