"""The plan of a search: what is searched, the passes over the corpus, memory and the size of the ranking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpr_lightning.embeddings.shards import resolve_num_shards
from dpr_lightning.files import size_text
from dpr_lightning.plan import Plan
from dpr_lightning.retrieval.checks import open_searched, ranking_file, rankings_of_shards
from dpr_lightning.retrieval.memory import parse_bytes, plan_search
from dpr_lightning.retrieval.methods import Method
from dpr_lightning.run_dir import RunDir

_LINE_BYTES = 60  # of a ranking: ids, rank, score and tag, about


def add_search(
    plan: Plan,
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
    texts: Sequence[int | None] = (),
) -> None:
    """Add what a search does to a plan; the arguments are those of `search`.

    Args:
        texts: The numbers of queries and passages if their texts are read, None where they are not counted.
    """
    with plan.collected():
        numbers: list[int | str | None] = [shard]
        if shard == "all":
            numbers = list(range(resolve_num_shards(run.passage_shards, num_shards)))
        at = {"split": split, "num_shards": num_shards, "format": format}
        files = {number: ranking_file(run, method, shard=number, **at) for number in numbers}  # type: ignore[arg-type]
        left = {number: found for number, found in files.items() if overwrite or not found[0].exists()}
        plan.add("rankings", f"{len(left)} of {len(files)} to write, {len(files) - len(left)} finished")
        queries, rows = texts or (None, None)
        for number, (_, count) in list(left.items())[:1]:
            if method.reads_embeddings:
                queries, rows = _add_embeddings(plan, run, split, number, count, parse_bytes(memory), depth)
        if method.index is not None or method.reads_texts:
            for name in filter(None, ("bm25" if method.reads_texts else None, method.index)):
                folder = run.index(name)
                state = "exists" if folder.exists() else "is built first, and is in memory meanwhile"
                plan.add("index", f"{folder} {state}")
        if queries is not None and rows is not None and left:
            folder = next(iter(left.values()))[0].parent
            plan.add("ranking", f"{queries:,} queries x {min(depth, rows):,} of {rows:,} passages")
            plan.add_disk(folder, len(left) * queries * min(depth, rows) * _LINE_BYTES)


def _add_embeddings(
    plan: Plan, run: RunDir, split: str, shard: int | str | None, num_shards: int, memory: int, depth: int
) -> tuple[int, int]:
    queries, passages = open_searched(run, split, shard, num_shards)
    passages.check_queries(queries)
    size = size_text(passages.bytes)
    plan.add("passages", f"{passages.rows:,} x {passages.dim} {passages.dtype}, {size} in {len(passages.shards)} files")
    one = plan_search(memory, passages, queries=len(queries.array), depth=depth)
    passes = -(-len(queries.array) // one.queries)
    plan.add("passes", f"{passes:,}, each of {one.queries:,} queries; blocks of {one.block_rows:,} passages")
    plan.add_memory(one.peak, f"of memory={size_text(memory)}")
    return len(queries.array), passages.rows


def add_reduce(plan: Plan, run: RunDir, *, split: str, depth: int = 100, format: str = "trec") -> None:
    """Add what is merged to a plan; the arguments are those of `reduce`."""
    with plan.collected():
        files = rankings_of_shards(run, split=split, depth=depth, format=format)
        size = sum(file.stat().st_size for file in files)
        path: Path = run.ranking(split, format)
        plan.add("shards", f"{len(files)} rankings, {size_text(size)}")
        plan.add("ranking", f"{path}, {depth:,} passages per query{'; it exists' if path.exists() else ''}")
        plan.add_disk(path.parent, size // len(files))
