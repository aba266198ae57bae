"""Checks of a search that read no texts and no embeddings: its settings, and whether its inputs exist."""

from __future__ import annotations

from pathlib import Path

from dpr_lightning.embeddings.file import Embeddings
from dpr_lightning.embeddings.shards import (
    ShardedEmbeddings,
    complete_shards,
    open_part,
    open_passages,
    resolve_num_shards,
    shard_rows,
)
from dpr_lightning.errors import FinishedError, UserError, check_choice, check_positive
from dpr_lightning.retrieval.bm25 import check_bm25
from dpr_lightning.retrieval.memory import parse_bytes
from dpr_lightning.retrieval.methods import Inputs, Method
from dpr_lightning.retrieval.provenance import Provenance, check_same_search
from dpr_lightning.run_dir import RANKING_ENDINGS, RunDir


def check_search(
    run: RunDir,
    method: Method,
    *,
    split: str,
    depth: int = 100,
    shard: int | str | None = None,
    num_shards: int | str = "auto",
    memory: str | int = "4GB",
    format: str = "trec",
    overwrite: bool = False,
    skips_finished: bool = False,
) -> None:
    """Raise UserError for what stops `search` and `search_shards` before they read texts or embeddings.

    Args:
        run: The run folder.
        method: How to search.
        split: As for `search`.
        depth: As for `search`.
        shard: A number, `all`, or None for the whole corpus.
        num_shards: As for `search`.
        memory: As for `search`.
        format: As for `search`.
        overwrite: A finished ranking is replaced.
        skips_finished: A finished ranking is skipped, and not an error.
    """
    check_positive(depth, "depth")
    check_choice(format, "format", list(RANKING_ENDINGS))
    parse_bytes(memory)
    if shard == "all":
        refuse_shard(method, shard)
        resolve_num_shards(run.passage_shards, num_shards)
        return
    path, count = ranking_file(run, method, split=split, shard=shard, num_shards=num_shards, format=format)
    if method.reads_texts:
        check_bm25(method.bm25)
        if path.exists() and not (overwrite or skips_finished):  # whatever it is of, it would not be replaced
            raise FinishedError(path)
    if method.reads_embeddings:
        inputs = Inputs(*open_searched(run, split, shard, count))
        if not (method.reads_texts or skips_finished):
            refuse_finished(path, inputs.provenance(method, depth=min(depth, inputs.rows)), overwrite)


def refuse_finished(path: Path, provenance: Provenance, overwrite: bool) -> None:
    """Raise FinishedError if a ranking exists and has this provenance, UserError if it has another."""
    if path.exists() and not overwrite:
        check_same_search(path, provenance)
        raise FinishedError(path)


def ranking_file(
    run: RunDir, method: Method, *, split: str, shard: int | str | None, num_shards: int | str, format: str
) -> tuple[Path, int]:
    """Return the ranking of a split over the corpus or one shard, and the number of shards, 1 for the whole corpus."""
    if shard is None:
        return run.ranking(split, format, method.name), 1
    refuse_shard(method, shard)
    count = resolve_num_shards(run.passage_shards, num_shards)
    shard_rows(int(shard), count, 0)  # refuses a shard that does not exist
    return run.shard_ranking(split, int(shard), count, format), count


def refuse_shard(method: Method, shard: int | str) -> None:
    """Raise UserError if a method searches the whole corpus only."""
    if method.index is not None or method.reads_texts:
        wrong = f"index: {method.index}" if method.index is not None else f"method: {method.name}"
        raise UserError(f"{wrong} is of the whole corpus, shard={shard} is not. Set `shard`=null, or search exactly.")


def rankings_of_shards(run: RunDir, *, split: str, depth: int = 100, format: str = "trec") -> list[Path]:
    """Return the rankings that `reduce` merges. Raises UserError for a wrong setting or a missing shard."""
    check_positive(depth, "depth")
    check_choice(format, "format", list(RANKING_ENDINGS))
    command = "`search.py -m shard=range(N)`"
    return complete_shards(run.shard_rankings(split), RANKING_ENDINGS[format], made_by=command)


def open_searched(
    run: RunDir, split: str, shard: int | str | None, num_shards: int
) -> tuple[Embeddings, ShardedEmbeddings]:
    """Return the embeddings of a split's queries, and those of the corpus or of one shard; only headers are read."""
    queries = open_part(run.query_embeddings(split), "query")
    if shard is None:
        passages = open_passages(run.passage_shards)
    else:
        file = run.passage_shard(int(shard), num_shards)
        passages = ShardedEmbeddings([open_part(file, "passage", shard=int(shard), num_shards=num_shards)])
    if not passages.rows:
        raise UserError(f"{passages.path} has no passages. Encode the corpus in fewer shards (num_shards).")
    return queries, passages
