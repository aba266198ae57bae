"""Exact search over nq-mini gives one ranking, bit for bit, however corpus and memory are cut."""

import pytest
from support.embedding_files import write_corpus
from support.world import SHARED

from dpr_lightning import open_embeddings
from dpr_lightning.retrieval.stage import search

pytestmark = [pytest.mark.real, pytest.mark.skipif(not SHARED.exists(), reason="nq-mini is not here")]


def test_shards_and_memory_do_not_change_the_ranking(command, tiny_model, tmp_path):
    # to the tiny tokenizer nearly all words are unknown: passages of one length are ties, the worst case for the order
    settings = [
        "data=files",
        f"data.corpus={SHARED}/corpus.jsonl.gz",
        f"data.queries.test={SHARED}/test.jsonl.gz",
        f"model.name_or_path={tiny_model}",
        f"model_dir={tiny_model}",
        "num_shards=1",
        f"run_dir={tmp_path}",
    ]
    assert command("encode", *settings)[0] == command("encode", *settings, "side=query")[0] == 0
    queries = tmp_path / "embeddings" / "query" / "test.safetensors"
    whole = open_embeddings(tmp_path / "embeddings" / "passage" / "00-of-01.safetensors")
    model, rankings = whole.identity.model_fingerprint, {}
    for num_shards in (1, 3, 7, 20):
        folder = tmp_path / f"{num_shards}"
        write_corpus(folder, whole.array, num_shards, {shard: {"model": model} for shard in range(num_shards)})
        for memory in ("64MB", "4GB"):
            search(queries, folder, tmp_path, split="test", memory=memory, overwrite=True)
            rankings[num_shards, memory] = (tmp_path / "test.trec").read_bytes()
    assert len(rankings[1, "4GB"].splitlines()) == 655 * 100
    assert [cut for cut, ranking in rankings.items() if ranking != rankings[1, "4GB"]] == []
