"""The best passages of each query with their docids: by exact search within a memory budget, or with an index."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.embeddings.file import Embeddings
from dpr_lightning.retrieval.candidates import choose_selector
from dpr_lightning.retrieval.docids import Ranked, name_passages
from dpr_lightning.retrieval.faiss_index import PassageIndex
from dpr_lightning.retrieval.memory import plan_search
from dpr_lightning.retrieval.topk import SLACK, topk_inner_product

_log = logging.getLogger(__name__)
_RECALL_QUERIES, _RECALL_CUTOFF = 100, 100


def rank_exactly(queries: Embeddings, passages: list[Embeddings], depth: int, memory: int) -> Iterator[Ranked]:
    """Ranks for each query the `depth` best passages in at most `memory` bytes, after saying how that is done."""
    cut = plan_search(memory, passages, queries=len(queries.ids), depth=depth)
    _log.info(
        "search: corpus %.2f GB in %d files, blocks of %s passages, %s queries a pass, at most %.0f MB of memory",
        sum(part.array.nbytes for part in passages) / (1 << 30),
        len(passages),
        f"{cut.block_rows:,}",
        f"{cut.queries:,}",
        cut.peak / (1 << 20),
    )
    if cut.peak > memory:
        _log.warning("memory=%.0f MB is less than this search takes", memory / (1 << 20))
    for vectors in queries.blocks(cut.queries):
        yield from rank_passages(vectors, passages, depth=depth, block_rows=cut.block_rows)


def rank_with_index(
    index: PassageIndex, queries: Embeddings, passages: list[Embeddings], depth: int, memory: int
) -> Iterator[Ranked]:
    """Ranks for each query what the index finds, then says how fast that was and how much of the best it missed."""
    short, seconds = 0, 0.0
    for vectors in queries.blocks(max(1, memory // index.bytes_per_query(depth))):
        start = time.perf_counter()
        found = index.topk(vectors, depth=depth)
        seconds += time.perf_counter() - start
        short += sum(len(rows) < depth for _, rows in found)
        yield from name_passages(found, passages)
    speed = f"{len(queries.ids) / seconds:,.0f} queries/s"
    _log.info("index %s: %s, %s", index.factory, _recall(index, queries, passages, depth, memory), speed)
    if short:
        _log.warning(
            "index %s found fewer than %d passages for %d queries: search wider (ann.nprobe, ann.ef_search)",
            index.factory,
            depth,
            short,
        )


def _recall(index: PassageIndex, queries: Embeddings, passages: list[Embeddings], depth: int, memory: int) -> str:
    """How many of the best 100 passages of each of up to 100 queries the index finds."""
    places = np.unique(np.linspace(0, len(queries.ids) - 1, _RECALL_QUERIES).astype(np.int64))
    sample, cutoff = np.asarray(queries.array[places], np.float32), min(depth, _RECALL_CUTOFF)
    cut = plan_search(memory, passages, queries=len(sample), depth=cutoff)
    _, exact = topk_inner_product(sample, _blocks(passages, cut.block_rows), depth=cutoff)
    shares = [
        np.isin(best, rows[:cutoff]).mean()
        for best, (_, rows) in zip(exact, index.topk(sample, depth=depth), strict=True)
    ]
    return f"recall@{cutoff} {np.mean(shares):.4f} against exact search over {len(sample)} queries"


def rank_passages(
    queries: NDArray[Any], passages: list[Embeddings], *, depth: int, block_rows: int, keep: bool = False
) -> Iterator[Ranked]:
    """For each query its best passages by exact search.

    Args:
        queries: [Q, dim].
        passages: the corpus's shards, in order.
        depth: passages per query.
        block_rows: passages that are scored at once.
        keep: leave the passages mapped, for the next search.

    Raises:
        UserError: as `topk_inner_product`; a docid twice in one ranking.
    """
    depth = min(depth, sum(len(part.ids) for part in passages))
    select = choose_selector(len(queries), depth + SLACK)
    found = topk_inner_product(
        np.asarray(queries, np.float32), _blocks(passages, block_rows, keep), depth=depth, select=select
    )
    yield from name_passages(zip(*found, strict=True), passages)


def _blocks(passages: list[Embeddings], rows: int, keep: bool = False) -> Iterator[NDArray[Any]]:
    for part in passages:
        yield from part.blocks(rows, keep=keep)
