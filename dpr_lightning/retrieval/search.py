"""The search stage: query file and passage shards in, ranking out, within a memory budget."""

from __future__ import annotations

import logging
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
from dpr_lightning.retrieval.candidates import Rows, Scores, choose_picker
from dpr_lightning.retrieval.memory import parse_bytes, plan_search
from dpr_lightning.retrieval.rankings import FORMATS, Ranking, merge_rankings, write_rankings
from dpr_lightning.retrieval.topk import SLACK, topk_inner_product

_log = logging.getLogger(__name__)


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


def _ending(format: str) -> str:
    if format not in FORMATS:
        raise UserError(f"format: {format!r} is not possible. Set format to one of: {', '.join(FORMATS)}.")
    return FORMATS[format]


def _rank(queries: Embeddings, passages: list[Embeddings], depth: int, memory: int) -> Iterator[Ranking]:
    total = sum(len(part.ids) for part in passages)
    if not total:
        raise UserError(f"{passages[0].path} holds no passages. Encode the corpus in fewer shards (num_shards).")
    if depth > total:
        _log.warning("depth=%d is more than the corpus has: each query gets all %d passages", depth, total)
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
        _log.warning("memory=%d MB is less than the search takes", memory >> 20)
    tag = f"dpr_lightning-{queries.identity.model_fingerprint[:8]}"
    qids = iter(queries.ids)
    for vectors in queries.blocks(cut.queries):
        wide = np.asarray(vectors, np.float32)
        ranked = rank_passages(wide, passages, depth=depth, block_rows=cut.block_rows)
        for _, docids, scores in ranked:
            yield Ranking(next(qids), docids, scores, tag)


def rank_passages(
    queries: NDArray[np.float32], passages: list[Embeddings], *, depth: int, block_rows: int
) -> Iterator[tuple[Rows, list[str], Scores]]:
    """For each query [dim] the corpus rows, docids and scores of its best passages, best first.

    Args:
        queries: [Q, dim].
        passages: the corpus's shards, in order.
        depth: passages per query.
        block_rows: passages that are scored at once.

    Raises:
        UserError: as `topk_inner_product`; a docid twice in one ranking.
    """
    starts = np.cumsum([0, *(len(part.ids) for part in passages)])
    depth = min(depth, int(starts[-1]))
    pick = choose_picker(len(queries), depth + SLACK)
    found = topk_inner_product(queries, _blocks(passages, block_rows), depth=depth, pick=pick)
    for scores, rows in zip(*found, strict=True):
        parts = np.searchsorted(starts, rows, side="right") - 1
        docids = [passages[part].ids[int(row - starts[part])] for part, row in zip(parts, rows, strict=True)]
        if len(set(docids)) < len(docids):
            _refuse_twice(docids, [passages[part].path for part in parts])
        yield rows, docids, scores


def _refuse_twice(docids: list[str], files: list[Path]) -> None:
    twice = next(docid for docid in docids if docids.count(docid) > 1)
    names = sorted({file.name for docid, file in zip(docids, files, strict=True) if docid == twice})
    raise UserError(f"{files[0].parent}: passage {twice} stands twice in {' and '.join(names)}. Encode them again.")


def _blocks(passages: list[Embeddings], rows: int) -> Iterator[NDArray[Any]]:
    for part in passages:
        yield from part.blocks(rows)
