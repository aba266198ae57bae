"""Rank the passages for each query."""

from pathlib import Path

from dpr_lightning.launch import Config, command
from dpr_lightning.run_dir import RunDir


@command
def search(config: Config) -> str:
    """Rank the passages of the corpus, or of one shard, for each query of a split."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.retrieval import stage
    from dpr_lightning.retrieval.bm25 import Bm25Settings
    from dpr_lightning.retrieval.fusion import HybridSettings
    from dpr_lightning.retrieval.methods import Method

    bm25, hybrid = config.call(Bm25Settings, "bm25"), config.call(HybridSettings, "hybrid")
    method = config.call(Method, "", keys={"name": "method"}, bm25=bm25, hybrid=hybrid)
    queries = corpus = None
    if method.reads_texts:
        key = f"data.queries.{config['split']}"
        queries = config.call(open_queries, "data", keys={"files": key}, name=key)
        corpus = config.call(open_corpus, "data", keys={"files": "data.corpus"}, name="data.corpus")
        config.keys |= {"queries": key, "corpus": "data.corpus"}
    run = RunDir(Path(config["run_dir"]))
    task = stage.search_shards if config["shard"] == "all" else stage.search
    return config.call(task, "", run=run, method=method, queries=queries, corpus=corpus)


if __name__ == "__main__":
    search()
