"""Exported embeddings have the ids and the numbers of the run, and the examples in the docs read them."""

import importlib.util
import re
import tracemalloc

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.commands import assert_mistake, assert_succeeds, run_script
from support.embedding_files import numbers, write_corpus, write_embeddings, write_run
from support.world import ROOT

from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.interop.embedding_export import export_embeddings
from dpr_lightning.run_dir import RunDir

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embeddings.md").read_text(), re.DOTALL)
CLIENTS = {"duckdb": "duckdb", "faiss": "faiss", "lance": "lance", "qdrant_client": "qdrant", "pymilvus": "milvus"}


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", numbers(4), numbers(41), 3)


def read_back(file):
    """Return ids and embeddings of an exported file."""
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        return table["id"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float32)
    ids = file.with_suffix(".txt").read_text().splitlines()
    if file.suffix == ".npy":
        return ids, np.load(file)
    index = faiss.read_index(str(file))
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    return ids, index.reconstruct_n(0, index.ntotal)


@pytest.mark.parametrize("kind", ["parquet", "npy", "faiss"])
def test_exported_embeddings_are_those_of_the_run(run, kind):
    out = assert_succeeds(run_script("export_embeddings", run.path, "--to", kind))
    file = run.path / "export" / f"passage.{kind}"
    assert out == f"{file}: 41 embeddings of 5 dimensions, {file.stat().st_size:,} bytes\n"
    ids, array = read_back(file)
    assert ids == [f"d{row}" for row in range(41)]
    np.testing.assert_array_equal(array, numbers(41))
    assert "is finished already. Give --overwrite" in assert_mistake(
        run_script("export_embeddings", run.path, "--to", kind)
    )
    assert_succeeds(run_script("export_embeddings", run.path, "--to", kind, "--side", "query", "--overwrite"))
    ids, array = read_back(run.path / "export" / f"query-test.{kind}")
    assert ids == [f"q{i}" for i in range(4)]
    np.testing.assert_array_equal(array, numbers(4))


@pytest.mark.parametrize("kind", ["parquet", "npy"])
def test_what_is_exported_can_be_imported(run, tmp_path, kind):
    assert_succeeds(run_script("export_embeddings", run.path, "--to", kind, "--out", tmp_path / f"x.{kind}"))
    assert_succeeds(run_script("import_embeddings", tmp_path / "other", tmp_path / f"x.{kind}", "--model", "m"))
    imported = open_passages(RunDir(tmp_path / "other").passage_shards)
    assert [docid for shard in imported.shards for docid in shard.ids] == [f"d{row}" for row in range(41)]
    np.testing.assert_array_equal(np.concatenate([shard.array for shard in imported.shards]), numbers(41))


@pytest.mark.parametrize("kind", ["parquet", "npy", "faiss"])
def test_memory_does_not_grow_with_the_corpus(tmp_path, kind):
    run = RunDir(tmp_path / "run")
    write_corpus(run.passage_shards, np.ones((80_000, 64), np.float16), 2)
    export_embeddings(run, to=kind)  # imports
    tracemalloc.start()
    export_embeddings(run, to=kind, overwrite=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14e6 < 80_000 * 64 * 4, "a block of 16,384 rows is 4 MB as float32"


def test_ids_that_lines_cannot_hold_are_refused(tmp_path):
    run = RunDir(tmp_path / "run")
    write_embeddings(run.passage_shard(0, 1), numbers(2), ["a\nb", "c"])
    message = assert_mistake(run_script("export_embeddings", run.path, "--to", "npy"))
    assert "the id 'a\\nb' has a line break. Export to parquet" in message
    assert not list(run.path.glob("export/*"))
    assert_succeeds(run_script("export_embeddings", run.path, "--to", "parquet"))
    assert read_back(run.path / "export" / "passage.parquet")[0] == ["a\nb", "c"]
    wrong = run_script("export_embeddings", run.path, "--to", "npy", "--out", tmp_path / "x.bin")
    assert "x.bin does not end in .npy" in assert_mistake(wrong)


@pytest.mark.parametrize("module", CLIENTS)
def test_the_examples_in_the_docs_find_the_nearest_passages(run, monkeypatch, module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    (example,) = [text for text in EXAMPLES if re.search(rf"^(import|from) {module}\b", text, re.MULTILINE)]
    for kind in ("parquet", "npy", "faiss"):
        export_embeddings(run, to=kind)
    monkeypatch.chdir(run.path)
    names = {"query": numbers(4)[1]}
    exec(example, names)
    scores = numbers(41) @ numbers(4)[1]
    assert names["docids"] == [f"d{row}" for row in np.argsort(-scores)[:5]]
