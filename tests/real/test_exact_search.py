"""Exact search over nq-mini gives the same bits for any number of shards and any memory."""

import pytest
from support.embedding_files import write_corpus
from support.world import SHARED

from dpr_lightning import open_embeddings
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

pytestmark = [pytest.mark.real, pytest.mark.skipif(not SHARED.exists(), reason="needs nq-mini")]


def test_shards_and_memory_do_not_change_the_ranking(command, tiny_model, tmp_path):
    # The tiny tokenizer knows almost no word, so passages of one length are ties: the worst case for the order.
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
    run = RunDir(tmp_path)
    corpus = open_embeddings(run.passage_shard(0, 1))
    model, rankings = corpus.identity.model_fingerprint, {}
    for num_shards in (1, 3, 7, 20):
        divided = RunDir(tmp_path / f"{num_shards}")
        changes = {shard: {"model": model} for shard in range(num_shards)}
        write_corpus(divided.passage_shards, corpus.array, num_shards, changes)
        divided.query_embeddings("test").parent.mkdir()
        divided.query_embeddings("test").symlink_to(run.query_embeddings("test"))
        for memory in ("64MB", "4GB"):
            search(divided, split="test", memory=memory, overwrite=True)
            rankings[num_shards, memory] = divided.ranking("test").read_bytes()
    assert len(rankings[1, "4GB"].splitlines()) == 655 * 100
    assert [setting for setting, ranking in rankings.items() if ranking != rankings[1, "4GB"]] == []
