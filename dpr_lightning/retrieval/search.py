"""The search stage: query file and passage shards in, ranking out, within a memory budget."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.encoding.embeddings import Embeddings, open_embeddings
from dpr_lightning.encoding.shards import check_same_model, complete_shards, open_shards, shard_name, shard_rows
from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.retrieval.rankings import FORMATS, Ranking, merge_rankings, write_rankings
from dpr_lightning.retrieval.topk import topk_inner_product

_log = logging.getLogger(__name__)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def search(
    query_file: Path,
    passage_folder: Path,
    rankings: Path,
    *,
    split: str,
    depth: int = 100,
    shard: int | None = None,
    num_shards: int = 20,
    memory: str | int = "4GB",
    format: str = "trec",
    overwrite: bool = False,
) -> str:
    """Ranks the passages of a folder of shards, or of one shard, for each query.

    Writes `rankings/SPLIT.trec`, or `rankings/SPLIT/05-of-20.trec` for a shard.

    Args:
        query_file: embeddings of the queries.
        passage_folder: embeddings of the corpus.
        rankings: folder of the output.
        split: names the output.
        depth: passages per query.
        shard: search this shard alone.
        num_shards: with `shard`: shards of the corpus.
        memory: working memory, as a number of bytes or like `4GB`; memory-mapped files do not count.
        format: `trec` or `text`.
        overwrite: replace a finished ranking.

    Returns:
        One line: what was written, how much, how fast.

    Raises:
        UserError: missing or mixed-up embeddings, a setting that is not possible, output that is there already.
    """
    check_positive(depth, "depth")
    ending = _ending(format)
    if shard is None:
        path = rankings / f"{split}{ending}"
    else:
        shard_rows(shard, num_shards, 0)  # refuses a shard that does not exist
        path = rankings / split / f"{shard_name(shard, num_shards)}{ending}"
    refuse_overwrite(path, overwrite)
    queries = open_embeddings(query_file)
    if shard is None:
        passages = open_shards(passage_folder)
    else:
        passages = [open_embeddings(passage_folder / f"{shard_name(shard, num_shards)}.safetensors")]
    check_same_model(queries, passages[0])
    start = time.perf_counter()
    found = _rank(queries, passages, depth, parse_bytes(memory))
    count = write_rankings(path, found, format=format)
    total = sum(len(part.ids) for part in passages)
    seconds = time.perf_counter() - start
    speed = f"{count / seconds:,.0f} queries/s"
    return f"{path}: {count:,} queries x {min(depth, total):,} of {total:,} passages in {seconds:,.1f} s ({speed})"


def reduce(rankings: Path, *, split: str, depth: int = 100, format: str = "trec", overwrite: bool = False) -> str:
    """Merges the shards' rankings `rankings/SPLIT/*` into `rankings/SPLIT.trec`.

    Returns:
        One line: what was written, how much, how fast.

    Raises:
        UserError: shards missing or not of one search, output that is there already.
    """
    check_positive(depth, "depth")
    ending = _ending(format)
    path = rankings / f"{split}{ending}"
    refuse_overwrite(path, overwrite)
    start = time.perf_counter()
    files = complete_shards(rankings / split, ending, made_by="search.py -m shard='range(N)'")
    count = write_rankings(path, merge_rankings(files, depth=depth), format=format)
    seconds = time.perf_counter() - start
    speed = f"{count / seconds:,.0f} queries/s"
    return f"{path}: {count:,} queries merged from {len(files)} shards in {seconds:,.1f} s ({speed})"


def parse_bytes(size: str | int) -> int:
    """A number of bytes from a number or from text like `4GB` or `500 MB` (1 GB = 2**30)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", str(size), re.IGNORECASE)
    if not match:
        raise UserError(f"memory: {size!r} is no size. Give a number of bytes, or a size like 4GB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _ending(format: str) -> str:
    if format not in FORMATS:
        raise UserError(f"format: {format!r} is not possible. Set format to one of: {', '.join(FORMATS)}.")
    return FORMATS[format]


def _rank(queries: Embeddings, passages: list[Embeddings], depth: int, memory: int) -> Iterator[Ranking]:
    dim, total = queries.array.shape[1], sum(len(part.ids) for part in passages)
    if not total:
        raise UserError(f"{passages[0].path.parent} holds no passages. Encode a corpus that is not empty.")
    if depth > total:
        _log.warning("depth=%d is more than the corpus has: each query gets all %d passages", depth, total)
    query_bytes = 8 * dim + 80 * min(depth, total)  # embeddings, and a ranking being merged: scores, rows, order
    group = max(1, min(len(queries.ids), memory // 2 // query_bytes))
    block_rows = max(1024, memory // 2 // (4 * dim))
    _log.info(
        "search: corpus %.2f GB in %d files, blocks of %s passages, %s queries a pass, at most %.2f GB of memory",
        sum(part.array.nbytes for part in passages) / (1 << 30),
        len(passages),
        f"{min(block_rows, total):,}",
        f"{group:,}",
        (group * query_bytes + min(block_rows, total) * dim * 4) / (1 << 30),
    )
    starts = np.cumsum([0, *(len(part.ids) for part in passages)])
    tag = f"dpr_lightning-{queries.identity.model_fingerprint[:8]}"
    for first in range(0, len(queries.ids), group):
        vectors = np.asarray(queries.array[first : first + group], np.float32)
        scores, rows = topk_inner_product(vectors, _blocks(passages, block_rows), depth=depth)
        for place in range(len(vectors)):
            parts = np.searchsorted(starts, rows[place], side="right") - 1
            docids = [passages[part].ids[int(row - starts[part])] for part, row in zip(parts, rows[place], strict=True)]
            yield Ranking(queries.ids[first + place], docids, scores[place], tag)


def _blocks(passages: list[Embeddings], rows: int) -> Iterator[NDArray[Any]]:
    for part in passages:
        for first in range(0, len(part.ids), rows):
            yield part.array[first : first + rows]
