"""The search stage: embeddings of queries and passages in, a ranking out, within a memory budget."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping

from dpr_lightning.embeddings.shards import ShardedEmbeddings, complete_shards, open_part, open_passages, shard_rows
from dpr_lightning.errors import FinishedError, UserError, check_choice, check_positive
from dpr_lightning.files import refuse_overwrite
from dpr_lightning.retrieval.exact import ExactSearch
from dpr_lightning.retrieval.faiss_index import FaissIndex
from dpr_lightning.retrieval.memory import parse_bytes, return_freed_arrays
from dpr_lightning.retrieval.provenance import check_same_search, describe_search, merged_provenance, write_provenance
from dpr_lightning.retrieval.rankings import Ranking, merge_rankings, write_rankings
from dpr_lightning.retrieval.retriever import Queries, Retriever
from dpr_lightning.run_dir import RANKING_ENDINGS, RunDir

_log = logging.getLogger(__name__)


def search(
    run: RunDir,
    *,
    split: str,
    depth: int = 100,
    shard: int | None = None,
    num_shards: int = 20,
    memory: str | int = "4GB",
    method: str | None = None,
    index: str | None = None,
    ann: Mapping[str, int | None] | None = None,
    format: str = "trec",
    overwrite: bool = False,
) -> str:
    """Rank the passages of the corpus, or of one shard, for each query of a split.

    Args:
        run: The folder of the experiment.
        split: The name of the queries and of the ranking.
        depth: Passages per query.
        shard: Search this shard only.
        num_shards: With `shard`, the number of shards.
        memory: The working memory of the process, as a number of bytes or like `4GB`.
        method: See `open_retriever`.
        index: See `open_retriever`; a missing index is built.
        ann: See `open_retriever`.
        format: `trec` or `text`.
        overwrite: Replace a finished ranking, and an index that is damaged or of other passages.

    Returns:
        One line: what was written, how much, how fast.

    Raises:
        FinishedError: The ranking exists and is what would be written.
        UserError: Embeddings that are missing or do not belong together, a setting that is not possible, another
            ranking that exists.
    """
    check_positive(depth, "depth")
    check_choice(format, "format", list(RANKING_ENDINGS))
    if shard is None:
        path = run.ranking(split, format)
    elif index is not None:
        raise UserError(f"index: {index} is of the whole corpus, shard={shard} is not. Set index=null or shard=null.")
    else:
        shard_rows(shard, num_shards, 0)  # refuses a shard that does not exist
        path = run.shard_ranking(split, shard, num_shards, format)
    queries = open_part(run.query_embeddings(split), "query")
    if shard is None:
        passages = open_passages(run.passage_shards)
    else:
        file = run.passage_shard(shard, num_shards)
        passages = ShardedEmbeddings([open_part(file, "passage", shard=shard, num_shards=num_shards)])
    passages.check_queries(queries)
    if not passages.rows:
        raise UserError(f"{passages.path} has no passages. Encode the corpus in fewer shards (num_shards).")
    if depth > passages.rows:
        _log.warning("depth=%d is more than the corpus has: each query gets all %d passages", depth, passages.rows)
        depth = passages.rows
    provenance = describe_search(queries, passages, depth=depth, index=index)
    if path.exists() and not overwrite:
        check_same_search(path, provenance)
        raise FinishedError(path)
    budget = parse_bytes(memory)
    return_freed_arrays()
    start = time.perf_counter()
    retriever = open_retriever(run, passages, method=method, index=index, ann=ann, memory=budget, overwrite=overwrite)
    ranked = zip(queries.ids, retriever.search(Queries(queries.ids, queries), depth=depth), strict=True)
    rankings = (Ranking(qid, one.docids, one.scores, retriever.tag) for qid, one in ranked)
    describe = functools.partial(write_provenance, path, provenance)
    count = write_rankings(path, rankings, format=format, describe=describe)
    seconds = time.perf_counter() - start
    speed = f"{count / seconds:,.0f} queries/s"
    return f"{path}: {count:,} queries x {depth:,} of {retriever.rows:,} passages in {seconds:,.1f} s ({speed})"


def open_retriever(
    run: RunDir,
    passages: ShardedEmbeddings,
    *,
    method: str | None = None,
    index: str | None = None,
    ann: Mapping[str, int | None] | None = None,
    memory: int | None = None,
    overwrite: bool = False,
) -> Retriever:
    """Return the retriever of a method; no other code chooses one.

    Args:
        run: The folder of the experiment.
        passages: The embeddings of the corpus.
        method: `exact` or `index`; None means `index` if one is given, else `exact`.
        index: The FAISS factory string of an approximate index.
        ann: Settings of the index's search; see `FaissIndex`.
        memory: Bytes for a search of many queries, and for building the index; None searches few queries at a time
            with an index that exists.
        overwrite: Replace an index that is damaged or of other passages.

    Raises:
        UserError: Settings that contradict each other, or as `FaissIndex`.
    """
    method = method or ("exact" if index is None else "index")
    check_choice(method, "method", ["exact", "index"])
    if (method == "index") != (index is not None):
        raise UserError(f"method: {method} contradicts index={index}. Leave one of them out.")
    if index is not None:
        return FaissIndex(run, index, passages, ann=ann, memory=memory, overwrite=overwrite)
    return ExactSearch(passages, memory=memory)


def reduce(run: RunDir, *, split: str, depth: int = 100, format: str = "trec", overwrite: bool = False) -> str:
    """Merge a split's rankings of all shards into one.

    Returns:
        One line: what was written, how much, how fast.

    Raises:
        UserError: Shards that are missing or not from one search, a ranking that exists.
    """
    check_positive(depth, "depth")
    check_choice(format, "format", list(RANKING_ENDINGS))
    path = run.ranking(split, format)
    refuse_overwrite(path, overwrite)
    start = time.perf_counter()
    ending, command = RANKING_ENDINGS[format], "search.py -m shard='range(N)'"
    files = complete_shards(run.shard_rankings(split), ending, made_by=command)
    provenance = merged_provenance(files, depth=depth)
    if provenance and provenance.depth is not None and provenance.depth < depth:
        certain = provenance.depth
        _log.warning("depth=%d, but a shard was searched to %d only: deeper ranks are not certain", depth, certain)
    describe = functools.partial(write_provenance, path, provenance)
    count = write_rankings(path, merge_rankings(files, depth=depth), format=format, describe=describe)
    seconds = time.perf_counter() - start
    speed = f"{count / seconds:,.0f} queries/s"
    return f"{path}: {count:,} queries merged from {len(files)} shards in {seconds:,.1f} s ({speed})"
