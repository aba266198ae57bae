"""The search stage: query file and passage shards in, ranking out, within a memory budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.embeddings.shards import check_same_model, complete_shards, open_shards, shard_name, shard_rows
from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.retrieval.faiss_index import PassageIndex, build_index
from dpr_lightning.retrieval.memory import parse_bytes, return_freed_arrays
from dpr_lightning.retrieval.rank import rank_exactly, rank_with_index
from dpr_lightning.retrieval.rankings import FORMATS, Ranking, merge_rankings, write_rankings

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
    index: str | None = None,
    ann: Mapping[str, int | None] | None = None,
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
        memory: working memory of the process, as a number of bytes or like `4GB`.
        index: a faiss factory string: search approximately with this index of the whole corpus, built if need be
            and kept in `index/` beside `rankings`.
        ann: settings of the index's search, see `PassageIndex`.
        format: `trec` or `text`.
        overwrite: replace a finished ranking, and an index of other passages.

    Returns:
        One line: what was written, how much, how fast.

    Raises:
        UserError: missing or mixed-up embeddings, a setting that is not possible, output that is there already.
    """
    check_positive(depth, "depth")
    ending = _ending(format)
    if index is not None and shard is not None:
        raise UserError(f"index: {index} is of the whole corpus, shard={shard} is not. Set index=null or shard=null.")
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
    total, budget = sum(len(part.ids) for part in passages), parse_bytes(memory)
    if not total:
        raise UserError(f"{passages[0].path} holds no passages. Encode the corpus in fewer shards (num_shards).")
    if depth > total:
        _log.warning("depth=%d is more than the corpus has: each query gets all %d passages", depth, total)
        depth = total
    return_freed_arrays()
    start = time.perf_counter()
    if index is None:
        found = rank_exactly(queries, passages, depth, budget)
    else:
        indexes = rankings.parent / "index"
        build_index(indexes, index, passages, memory=budget, overwrite=overwrite)
        opened = PassageIndex(indexes, index, passages, **(ann or {}))
        found = rank_with_index(opened, queries, passages, depth, budget)
    tag = f"dpr_lightning-{queries.identity.model_fingerprint[:8]}"
    ranked = (Ranking(qid, one.docids, one.scores, tag) for qid, one in zip(queries.ids, found, strict=True))
    count = write_rankings(path, ranked, format=format)
    seconds = time.perf_counter() - start
    speed = f"{count / seconds:,.0f} queries/s"
    return f"{path}: {count:,} queries x {depth:,} of {total:,} passages in {seconds:,.1f} s ({speed})"


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
