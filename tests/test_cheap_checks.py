"""Typical mistakes are found before torch, Lightning, transformers or datasets are imported, which takes seconds."""

import json
import subprocess
import sys

import pytest
from support.world import ROOT

MISTAKES = [  # command, overrides, and how the only line on stderr starts
    ("train", ["run_dir=new", "data.train=/nope.jsonl"], "data.train: there is no file /nope.jsonl"),
    ("train", ["run_dir=new", "data.train=null"], "data.train: is not set."),
    ("train", ["run_dir=new", "data.dev=/nope/*.jsonl"], "data.dev: no file matches the glob"),
    ("train", ["run_dir=new", "data.train=notes.txt"], "data.train: notes.txt is not a .jsonl, .json"),
    (
        "train",
        ["run_dir=new", "data.train=hf://datasets/nothing"],
        "data.train: hf://datasets/nothing does not have the form",
    ),
    ("train", [], "{run}/model is finished already. Set overwrite=true"),
    ("train", ["optimizer.lr=1"], "optimizer.lr: is 1, but the finished training in"),
    ("train", ["run_dir=new", "model.name_or_path=/no/model"], "model.name_or_path: /no/model is not a folder"),
    ("train", ["run_dir=new", "model.name_or_path=empty"], "model.name_or_path: empty is not a folder with a model"),
    ("train", ["run_dir=new", "model.pooling=max"], "model.pooling: 'max' is not possible."),
    ("train", ["run_dir=new", "data.batch_size=0"], "data.batch_size: 0 is not"),
    ("train", ["run_dir=new", "data.train_weights=[1,2]"], "data.train_weights: 2 weights for 1 entries"),
    ("train", ["run_dir=new", "data.negatives=best"], "data.negatives: 'best' is not possible."),
    ("train", ["run_dir=new", "grad_cache.query_chunk_size=4"], "grad_cache: only one chunk size is set."),
    ("train", ["run_dir=new", "data.dev=null", "checkpoint.best=val/mrr"], "checkpoint.best: is decided by validation"),
    ("train", ["run_dir=new", "early_stopping.patience=0"], "early_stopping.patience: 0 is not"),
    ("train", ["run_dir=new", "trainer.devices=10000"], "trainer: devices=10000 on a CPU"),
    ("encode", ["data.corpus=null"], "data.corpus: is not set."),
    ("encode", ["data.corpus=/nope.jsonl"], "data.corpus: there is no file"),
    ("encode", ["side=query", "split=tset"], "data.queries.tset: is not set."),
    ("encode", ["side=query"], "{run}/embeddings/query/test.safetensors is finished already."),
    ("encode", ["side=left"], "side: 'left' is not possible."),
    ("encode", ["shard=3"], "shard: 3 does not exist, num_shards=3 has 0 to 2."),
    ("encode", ["shard=1"], "{run}/embeddings/passage/01-of-03.safetensors is finished already."),
    ("encode", ["num_shards=4"], "{run}/embeddings/passage has shards of another number than num_shards=4"),
    ("encode", ["encode.chunk_size=7"], "encode.chunk_size: {run}/embeddings/passage/00-of-03.safetensors is"),
    ("encode", ["encode.precision=8"], "encode.precision: '8' is not possible."),
    ("encode", ["devices=10000"], "devices: 10000 are more than this machine's"),
    ("encode", ["devices=all", "shard=2"], "devices: all is for all shards, not for shard=2."),
    ("encode", ["model_dir=/no/model"], "model_dir: /no/model is not a folder with a model"),
    ("encode", ["run_dir=new"], "new/model does not exist. Run "),
    ("encode", ["model.pooling=mean"], "model.pooling: 'mean' contradicts {run}/model"),
    ("search", ["depth=0"], "depth: 0 is not"),
    ("search", ["split=dev"], "{run}/embeddings/query/dev.safetensors does not exist. Run"),
    ("search", ["run_dir=new"], "new/embeddings/query/test.safetensors does not exist."),
    ("search", ["shard=3"], "shard: 3 does not exist"),
    ("search", ["method=exact", "index=Flat"], "method: exact contradicts index=Flat."),
    ("search", ["index=Flat", "shard=1"], "index: Flat is of the whole corpus"),
    ("search", [], "{run}/rankings/test.trec is finished already."),
    ("search", ["method=bm25", "data.corpus=/nope.jsonl"], "data.corpus: there is no file"),
    ("search", ["method=bm25", "bm25.language=klingon"], "bm25.language: 'klingon' has no stemmer"),
    ("search", ["method=hybrid", "run_dir=new"], "new/embeddings/query/test.safetensors does not exist."),
    ("reduce", [], "{run}/rankings/test has no shards"),
    ("reduce", ["format=xml"], "format: 'xml' is not possible."),
    ("evaluate", ["run_file=/nope.trec", "overwrite=true"], "/nope.trec does not exist."),
    ("evaluate", ["data.answers=fuzzy"], "data.answers: 'fuzzy' is not possible."),
    ("evaluate", ["topk=[0]"], "topk: 0 is not"),
    ("evaluate", ["evaluate.measures=[nDGC@10]"], "evaluate.measures: ir-measures does not know 'nDGC@10'"),
    ("evaluate", ["data.qrels.test=/nope.qrels"], "data.qrels.test: there is no file /nope.qrels."),
    ("evaluate", ["data.queries.test=/nope.jsonl"], "data.queries.test: there is no file"),
    ("evaluate", ["run_dir=new"], "new/rankings/test.trec does not exist."),
]


def test_mistakes_are_found_before_anything_heavy_is_imported(settings, finished_run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    calls = [[name, overrides] for name, overrides, _ in MISTAKES]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "mistakes.py")],
        input=json.dumps({"settings": settings, "calls": calls}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for (name, overrides, start), (line, heavy) in zip(MISTAKES, json.loads(done.stdout), strict=True):
        start = start.format(run=finished_run).replace("`", "")
        assert line[: len(start)] == start, (name, overrides, line)
        assert heavy == [], (name, overrides)


@pytest.mark.parametrize("name", ["train", "encode"])
def test_a_refused_command_has_imported_no_torch(settings, tmp_path, name):
    """The checks come first in the commands themselves."""
    code = "import sys, runpy; sys.argv = sys.argv[1:]\n"
    code += "try: runpy.run_path(sys.argv[0], run_name='__main__')\nfinally: print('torch' in sys.modules)"
    words = [
        sys.executable,
        "-c",
        code,
        str(ROOT / f"{name}.py"),
        *settings,
        "data.train=no.jsonl",
        "data.corpus=no.jsonl",
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert "there is no file no.jsonl" in done.stderr
    assert not (tmp_path / "run").exists()
