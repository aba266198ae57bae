"""The five commands, one after another, on the small world."""

import json

import numpy as np

from dpr_lightning import open_embeddings


def succeed(result):
    code, out, err = result
    assert code == 0, err
    return [line for line in out.splitlines() if not line.startswith("next: ")][-1]


def test_shards_searched_alone_and_merged_rank_as_the_whole_corpus(command, settings, tmp_path):
    run = tmp_path / "run"
    assert "trained 4 steps" in succeed(command("train", *settings))
    succeed(command("encode", *settings, "shard=1"))
    assert "2 of 3 shards encoded, 1 existed already" in succeed(command("encode", *settings))
    succeed(command("encode", *settings, "side=query"))
    succeed(command("search", *settings))
    whole = (run / "rankings" / "test.trec").read_text()
    assert command("search", *settings, "-m", "shard=range(3)")[0] == 0
    succeed(command("reduce", *settings, "overwrite=true"))
    assert (run / "rankings" / "test.trec").read_text() == whole
    succeed(command("evaluate", *settings, "topk=[1,5,20]"))

    docids = [
        docid for k in range(3) for docid in open_embeddings(run / f"embeddings/passage/0{k}-of-03.safetensors").ids
    ]
    assert docids == [f"d{i}" for i in range(40)]
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
    assert metrics["questions"] == 12
    assert set(metrics["accuracy"]) == {"1", "5", "20"}
    assert metrics["qrels"]["Success@20"] <= metrics["accuracy"]["20"]
    rows = [json.loads(line) for line in (run / "evaluation" / "test" / "questions.jsonl").read_text().splitlines()]
    ranks = np.array([row["first_hit"] or 1000 for row in rows])
    assert metrics["accuracy"]["5"] == np.mean(ranks <= 5)
