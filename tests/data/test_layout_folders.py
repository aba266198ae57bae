"""`data=beir`, `data=fair_dpr` and `data=msmarco` open a whole folder: training data, corpus and queries."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.world import ROOT, write_jsonl

from dpr_lightning.arguments import Arguments
from dpr_lightning.data.datamodule import RetrievalDataModule
from dpr_lightning.data.sources import open_corpus, open_queries


def tsv(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def beir(folder):
    write_jsonl(folder / "corpus.jsonl.gz", [{"_id": f"{i}", "title": "", "text": f"text {i}"} for i in range(4)])
    write_jsonl(folder / "queries.jsonl", [{"_id": f"{i}", "text": f"query {i}"} for i in range(9)])
    for split, qid in (("train", 1), ("dev", 2), ("test", 3)):
        tsv(folder / "qrels" / f"{split}.tsv", ("query-id", "corpus-id", "score"), (qid, qid, 1))


def msmarco(folder):
    tsv(folder / "collection.tsv", *[(i, f"text {i}") for i in range(4)])
    for split, qid in (("train", 1), ("dev.small", 2)):
        tsv(folder / f"queries.{split}.tsv", (qid, f"query {qid}"))
        tsv(folder / f"qrels.{split}.tsv", (qid, 0, qid, 1))


def fair_dpr(folder):
    tsv(
        folder / "wikipedia_split" / "psgs_w100.tsv",
        ("id", "text", "title"),
        *[(i, f'"text {i}"', "") for i in range(4)],
    )
    for split, number in (("train", 1), ("dev", 2)):
        context = {"title": "", "text": f"text {number}", "passage_id": f"{number}"}
        row = {"question": f"query {number}", "positive_ctxs": [context], "hard_negative_ctxs": []}
        (folder / f"biencoder-nq-{split}.json").write_text(json.dumps([row]))
    tsv(folder / "nq-test.qa.csv", ("query 3", "['text']"))


@pytest.mark.parametrize("write", [beir, fair_dpr, msmarco])
def test_a_folder_gives_training_data_corpus_and_queries(tmp_path, write):
    write(tmp_path)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"data={write.__name__}", f"data.root={tmp_path}", "data.num_workers=0"])
    arguments = Arguments(OmegaConf.to_container(config, resolve=True))
    data = arguments.call(RetrievalDataModule, "data", "", inputs=None)
    positive = {"docid": "1", "title": "", "text": "text 1"}
    assert data.train_examples.rows[0]["query"] == "query 1"
    assert {key: data.train_examples.rows[0]["positives"][0][key] for key in positive} == positive
    assert len(data.dev_examples) == 1
    corpus = arguments.call(open_corpus, "data", keys={"files": "data.corpus"}, name="files")
    assert corpus.rows[1] == positive
    queries = arguments.call(open_queries, "data", keys={"files": "data.queries.test"}, name="files")
    assert queries.rows["query"] == ["query 2" if write is msmarco else "query 3"]
    if write is not fair_dpr:
        assert all(Path(file).is_file() for file in arguments.select("data.qrels").values())
