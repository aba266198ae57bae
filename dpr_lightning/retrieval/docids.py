"""The docids of what was found: corpus rows looked up in the embedding files that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from dpr_lightning.embeddings.file import Embeddings
from dpr_lightning.embeddings.shards import shard_bounds
from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.candidates import Rows, Scores
from dpr_lightning.retrieval.topk import QUERIES_AT_ONCE

_LOOKUPS_AT_ONCE = 1 << 15


class Ranked(NamedTuple):
    """The best passages of one query, best first: corpus rows, docids and scores."""

    rows: Rows
    docids: list[str]
    scores: Scores


def name_passages(found: Iterable[tuple[Scores, Rows]], passages: list[Embeddings]) -> Iterator[Ranked]:
    """The docids of what was found for each query, in order.

    Raises:
        UserError: a docid twice in one ranking.
    """
    found = list(found)
    every, distinct = None, False
    if 2 * shard_bounds(passages)[-1] <= sum(len(rows) for _, rows in found[:QUERIES_AT_ONCE]):
        # few passages: each is named once, in the memory that finding them has just given back
        every = np.array([docid for part in passages for docid in part.ids[:]], object)
        distinct = len(set(every)) == len(every)
    step = max(1, _LOOKUPS_AT_ONCE // max((len(rows) for _, rows in found), default=1))
    for first in range(0, len(found), step):
        group = found[first : first + step]
        together = np.concatenate([rows for _, rows in group])
        docids = _docids(together, passages) if every is None else every[together].tolist()
        start = 0
        for scores, rows in group:
            own = docids[start : (start := start + len(rows))]
            if not distinct and len(set(own)) < len(own):
                _refuse_twice(own, rows, passages)
            yield Ranked(rows, own, scores)


def _docids(rows: Rows, passages: list[Embeddings]) -> list[str]:
    starts = shard_bounds(passages)
    parts = np.searchsorted(starts, rows, side="right") - 1
    docids = np.empty(len(rows), object)
    for part in np.unique(parts):
        docids[parts == part] = passages[part].ids.at(rows[parts == part] - starts[part])
    named: list[str] = docids.tolist()
    return named


def _refuse_twice(docids: list[str], rows: Rows, passages: list[Embeddings]) -> None:
    twice = next(docid for docid in docids if docids.count(docid) > 1)
    places = np.array([row for docid, row in zip(docids, rows, strict=True) if docid == twice])
    files = [passages[part].path for part in np.searchsorted(shard_bounds(passages), places, side="right") - 1]
    names = " and ".join(sorted({file.name for file in files}))
    raise UserError(f"{files[0].parent}: passage {twice} stands twice in {names}. Encode them again.")
