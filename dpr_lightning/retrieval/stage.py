"""The search stage: embeddings of queries and passages in, a ranking out, within a memory budget."""

from __future__ import annotations

import functools
import logging
import time

from dpr_lightning.data.sources import Source
from dpr_lightning.embeddings.shards import resolve_num_shards
from dpr_lightning.errors import FinishedError, check_choice, check_positive
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.locks import exclusive_lock
from dpr_lightning.retrieval.checks import (
    open_searched,
    ranking_file,
    rankings_of_shards,
    refuse_finished,
    refuse_shard,
)
from dpr_lightning.retrieval.memory import parse_bytes, return_freed_arrays
from dpr_lightning.retrieval.methods import Inputs, Method, open_retriever
from dpr_lightning.retrieval.provenance import (
    merged_provenance,
    read_provenance,
    write_provenance,
)
from dpr_lightning.retrieval.rankings import Ranking, merge_rankings, write_rankings
from dpr_lightning.run_dir import RANKING_ENDINGS, RunDir
from dpr_lightning.sharing import write_shared

_log = logging.getLogger(__name__)


def search(
    run: RunDir,
    method: Method | None = None,
    *,
    split: str,
    depth: int = 100,
    shard: int | None = None,
    num_shards: int | str = "auto",
    memory: str | int = "4GB",
    queries: Source | None = None,
    corpus: Source | None = None,
    format: str = "trec",
    overwrite: bool = False,
) -> str:
    """Rank the passages of the corpus, or of one shard, for each query of a split.

    Args:
        run: The folder of the experiment.
        method: How to search; None means exactly. A missing index is built.
        split: The name of the queries.
        depth: Passages per query.
        shard: Search this shard only.
        num_shards: With `shard`, the number of shards; `auto` is that of the run folder's embeddings.
        memory: The working memory of the process, as a number of bytes or like `4GB`.
        queries: The queries, for a method that reads texts.
        corpus: The passages, for a method that reads texts.
        format: `trec` or `text`.
        overwrite: Replace a finished ranking, and an index that is damaged or of other passages.

    Returns:
        One line: what was written, how much, how fast.

    Raises:
        FinishedError: The ranking exists and is what would be written.
        LockedError: Another process is writing it.
        UserError: Embeddings that are missing or do not belong together or to the texts, a setting that is not
            possible, another ranking that exists.
    """
    check_positive(depth, "depth")
    check_choice(format, "format", list(RANKING_ENDINGS))
    method = method or Method()
    path, count = ranking_file(run, method, split=split, shard=shard, num_shards=num_shards, format=format)
    embeddings = open_searched(run, split, shard, count) if method.reads_embeddings else (None, None)
    inputs = Inputs(embeddings[0], embeddings[1], queries, corpus)
    if depth > inputs.rows:
        _log.warning("depth=%d is more than the corpus has: each query gets all %d passages", depth, inputs.rows)
        depth = inputs.rows
    provenance = inputs.provenance(method, depth=depth)
    refuse_finished(path, provenance, overwrite)
    budget = parse_bytes(memory)
    return_freed_arrays()
    with exclusive_lock(path):
        refuse_finished(path, provenance, overwrite)
        start = time.perf_counter()
        retriever = open_retriever(run, method, inputs, memory=budget, overwrite=overwrite)
        searched = inputs.as_queries()
        ranked = zip(searched.qids, retriever.search(searched, depth=depth), strict=True)
        rankings = (Ranking(qid, one.docids, one.scores, retriever.tag) for qid, one in ranked)
        describe = functools.partial(write_provenance, path, provenance)
        written = write_rankings(path, rankings, format=format, describe=describe)
    seconds = time.perf_counter() - start
    speed = f"{written / seconds:,.0f} queries/s"
    return f"{path}: {written:,} queries x {depth:,} of {retriever.rows:,} passages in {seconds:,.1f} s ({speed})"


def search_shards(
    run: RunDir,
    method: Method | None = None,
    *,
    split: str,
    depth: int = 100,
    num_shards: int | str = "auto",
    memory: str | int = "4GB",
    queries: Source | None = None,
    corpus: Source | None = None,
    format: str = "trec",
    overwrite: bool = False,
) -> str:
    """Rank the passages of each shard whose ranking does not exist yet, one shard after another.

    Several processes may do this: a shard that another process searches is skipped, and looked at again at the end.
    The arguments are those of `search`.

    Returns:
        One line: what was written.

    Raises:
        UserError: As `search`.
    """
    check_choice(format, "format", list(RANKING_ENDINGS))
    refuse_shard(method or Method(), "all")
    count = resolve_num_shards(run.passage_shards, num_shards)
    one_shard = functools.partial(
        search,
        run,
        method,
        split=split,
        depth=depth,
        num_shards=count,
        memory=memory,
        queries=queries,
        corpus=corpus,
        format=format,
        overwrite=overwrite,
    )
    files = {number: run.shard_ranking(split, number, count, format) for number in range(count)}
    searched = write_shared(files, lambda number: _log.info(one_shard(shard=number)))
    existed = f"{count - len(searched)} existed already"
    return f"{run.shard_rankings(split)}: {len(searched)} of {count} shards searched, {existed}"


def reduce(run: RunDir, *, split: str, depth: int = 100, format: str = "trec", overwrite: bool = False) -> str:
    """Merge a split's rankings of all shards into one.

    Returns:
        One line: what was written, how much, how fast.

    Raises:
        FinishedError: The ranking exists and is what would be written.
        LockedError: Another process is writing it.
        UserError: Shards that are missing or not from one search, another ranking that exists.
    """
    start = time.perf_counter()
    files = rankings_of_shards(run, split=split, depth=depth, format=format)
    path = run.ranking(split, format)
    provenance = merged_provenance(files, depth=depth)
    if path.exists() and not overwrite and provenance is not None and read_provenance(path) == provenance:
        raise FinishedError(path)
    refuse_overwrite(path, overwrite)
    if provenance and provenance.depth is not None and provenance.depth < depth:
        certain = provenance.depth
        _log.warning("depth=%d, but a shard was searched to %d only: deeper ranks are not certain", depth, certain)
    describe = functools.partial(write_provenance, path, provenance)
    with exclusive_lock(path):
        merged = merge_rankings(files, depth=depth, is_deep_enough=provenance is not None)
        count = write_rankings(path, merged, format=format, describe=describe)
    seconds = time.perf_counter() - start
    speed = f"{count / seconds:,.0f} queries/s"
    return f"{path}: {count:,} queries merged from {len(files)} shards in {seconds:,.1f} s ({speed})"
