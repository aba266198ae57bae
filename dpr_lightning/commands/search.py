"""Rank the passages for each query."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dpr_lightning.config import Config
from dpr_lightning.data.readers import find_files
from dpr_lightning.launch import command
from dpr_lightning.plan import Check, Plan
from dpr_lightning.run_dir import TEXT_METHODS, RunDir

if TYPE_CHECKING:
    from dpr_lightning.retrieval.methods import Method

_PLANNED = ("method", "index", "depth", "memory", "format", "ann.nprobe", "ann.ef_search", "ann.rescore")


def checks(config: Config) -> Iterator[Check]:
    """Yield the checks of the method, of the settings, and of the paths of texts and embeddings."""
    from dpr_lightning.retrieval.checks import check_search

    run = RunDir(Path(config["run_dir"]))

    def check() -> None:
        config.call(check_search, "", run=run, method=_method(config), skips_finished=config.skips_finished)

    yield check
    if config["method"] in TEXT_METHODS:
        for key in _text_keys(config):
            yield partial(find_files, config[key], name=key, hub="skip")


def add_plan(config: Config, plan: Plan) -> None:
    """Add what is searched, passes, memory and space to a plan."""
    from dpr_lightning.data.plan import count_rows
    from dpr_lightning.retrieval.plan import add_search

    plan.add("settings", config.described(_PLANNED))
    method, texts = _method(config), []
    for key, kind in zip(_text_keys(config), ("queries", "corpus"), strict=True):
        if method.reads_texts:
            counted = config.call(count_rows, "data", plan=plan, files=config[key], kind=kind, name=key)
            texts.append(counted.rows if counted else None)
    config.call(add_search, "", plan=plan, run=RunDir(Path(config["run_dir"])), method=method, texts=texts)


def _method(config: Config) -> Method:
    from dpr_lightning.retrieval.bm25 import Bm25Settings
    from dpr_lightning.retrieval.fusion import HybridSettings
    from dpr_lightning.retrieval.methods import Method

    bm25, hybrid = config.call(Bm25Settings, "bm25"), config.call(HybridSettings, "hybrid")
    return config.call(Method, "", keys={"name": "method"}, bm25=bm25, hybrid=hybrid)


def _text_keys(config: Config) -> tuple[str, str]:
    return f"data.queries.{config['split']}", "data.corpus"


@command(checks=checks, plan=add_plan)
def search(config: Config) -> str:
    """Rank the passages of the corpus, or of one shard, for each query of a split."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.retrieval import stage

    method = _method(config)
    queries = corpus = None
    if method.reads_texts:
        key, corpus_key = _text_keys(config)
        queries = config.call(open_queries, "data", keys={"files": key}, name=key)
        corpus = config.call(open_corpus, "data", keys={"files": corpus_key}, name=corpus_key)
        config.keys |= {"queries": key, "corpus": corpus_key}
    run = RunDir(Path(config["run_dir"]))
    task = stage.search_shards if config["shard"] == "all" else stage.search
    return config.call(task, "", run=run, method=method, queries=queries, corpus=corpus)


if __name__ == "__main__":
    search()
