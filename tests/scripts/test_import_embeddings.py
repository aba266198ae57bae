"""Embeddings of other programs become a run that search accepts; what does not belong together is refused."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import assert_mistake, assert_succeeds, run_script
from support.pickles import Harm
from support.world import passage, question, write_jsonl

from dpr_lightning import open_embeddings
from dpr_lightning.data.sources import open_corpus
from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

NAMED = ["--model", "someone/their-model"]


def vectors(rows, dim=32, dtype="float32"):
    return np.random.default_rng(rows).normal(size=(rows, dim)).astype(dtype)


def save(path, array, ids):
    """Save embeddings in the form that the file's ending names."""
    if path.suffix == ".npy":
        np.save(path, array)
        path.with_suffix(".txt").write_text("".join(f"{one}\n" for one in ids))
    elif path.suffix == ".parquet":
        lists = pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
        pq.write_table(pa.table({"docid": ids, "vector": lists, "other": ids}), path, row_group_size=3)
    else:
        path.write_bytes(pickle.dumps((array, ids)))
    return path


@pytest.fixture
def shards(tmp_path):
    """A corpus of 11 passages and 3 pickles of its embeddings, sharded in turn as by `datasets` 1.17."""
    write_jsonl(tmp_path / "corpus.jsonl", [passage(i) for i in range(11)])
    array = vectors(11)
    files = [save(tmp_path / f"{i}.pkl", array[i::3], [f"d{row}" for row in range(i, 11, 3)]) for i in range(3)]
    return files, array


def run_import(tmp_path, files, *options):
    arguments = ["--data", tmp_path / "corpus.jsonl", "--num-shards", 2, *options]
    return run_script("import_embeddings", tmp_path / "run", *files, *arguments)


def test_embeddings_are_imported_in_the_order_of_the_data(shards, tmp_path, finished_run):
    files, array = shards
    out = assert_succeeds(run_import(tmp_path, reversed(files), "--overwrite"))
    assert out == f"{tmp_path}/run/embeddings/passage: 11 embeddings in 2 files\n"
    for stale in finished_run.glob("embeddings/passage/*-of-03.safetensors"):
        stale.unlink()
    parts = open_passages(tmp_path / "run" / "embeddings" / "passage").shards
    assert [docid for part in parts for docid in part.ids] == [f"d{i}" for i in range(11)]
    np.testing.assert_array_equal(np.concatenate([part.array for part in parts]), array)
    identity = parts[0].identity
    assert identity.model_fingerprint == load_bi_encoder(finished_run / "model").fingerprint()
    assert identity.data_fingerprint == open_corpus(str(tmp_path / "corpus.jsonl")).fingerprint


@pytest.mark.parametrize("ending", [".npy", ".parquet", ".pkl"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_files_without_data_and_model_are_searched(tmp_path, ending, dtype):
    run = RunDir(tmp_path / "run")
    passages, queries = vectors(7, 5, dtype), vectors(3, 5, dtype)
    docids, qids = ["Zürich", "a-b", "007", "x", "y", "z", "日本"], ["q1", "q2", "q0"]
    first = save(tmp_path / f"a{ending}", passages[:4], docids[:4])
    rest = save(tmp_path / f"b{ending}", passages[4:], docids[4:])
    assert_succeeds(run_script("import_embeddings", run.path, first, rest, *NAMED, "--num-shards", 3))
    save(tmp_path / f"q{ending}", queries, qids)
    query = ["import_embeddings", run.path, tmp_path / f"q{ending}", "--side", "query", "--split", "dev"]
    assert_succeeds(run_script(*query, *NAMED))
    search(run, split="dev", depth=7)
    for ranking, own in zip(read_rankings(run.ranking("dev")), queries.astype(np.float32), strict=True):
        scores = passages.astype(np.float32) @ own
        assert ranking.docids == [docids[row] for row in np.argsort(-scores)]
        np.testing.assert_allclose(ranking.scores, np.sort(scores)[::-1], rtol=1e-5)
    assert open_embeddings(run.query_embeddings("dev")).array.dtype == dtype
    assert_succeeds(run_script(*query, "--model", "another", "--overwrite"))
    with pytest.raises(ValueError, match="are by different models"):
        search(run, split="dev", depth=7, overwrite=True)
    again = assert_mistake(run_script(*query, *NAMED))
    assert "dev.safetensors is finished already" in again
    assert "--model: " in assert_mistake(run_script(*query, "--overwrite")), "the run has no model"


def test_a_model_that_is_a_path_is_known_by_its_files(tmp_path):
    file = save(tmp_path / "a.npy", vectors(2), ["d0", "d1"])
    prints = []
    for content in ("weights", "weights", "others"):
        (tmp_path / "their").mkdir(exist_ok=True)
        (tmp_path / "their" / "model.bin").write_text(content)
        assert_succeeds(
            run_script("import_embeddings", tmp_path / "run", file, "--model", tmp_path / "their", "--overwrite")
        )
        prints.append(open_passages(tmp_path / "run" / "embeddings" / "passage").model_fingerprint)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_query_embeddings_of_any_pickle_protocol_are_imported(tmp_path, protocol):
    write_jsonl(tmp_path / "corpus.jsonl", [question(i) for i in range(4)])
    array = np.arange(128, dtype=np.float16).reshape(4, 32)
    (tmp_path / "q.pkl").write_bytes(pickle.dumps((array, [f"q{i}" for i in range(4)]), protocol=protocol))
    assert_succeeds(run_import(tmp_path, [tmp_path / "q.pkl"], "--side", "query", "--split", "dev", *NAMED))
    found = open_embeddings(tmp_path / "run" / "embeddings" / "query" / "dev.safetensors")
    assert found.array.dtype == np.float16
    np.testing.assert_array_equal(found.array, array)
    assert list(found.ids) == ["q0", "q1", "q2", "q3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("harm", "x.pkl is not a pickle of an array and a list of ids (it asks for io.open)"),
        (("array", np.str_("harm")), "(it asks for numpy"),
        ([1, 2], "x.pkl is not a pair of array and ids"),
        ((np.zeros((2, 32)), ["d0", "d1"]), "x.pkl: float64 (2, 32) with 2 ids are not embeddings"),
        ((np.zeros((2, 32), np.float32), ["d0"]), "with 1 ids are not embeddings"),
        ((np.zeros((1, 32), np.float32), ["d99"]), "x.pkl: d99 is not in the data"),
        ((np.zeros((1, 32), np.float32), ["d0"]), "x.pkl: d0 is in"),
        ((np.zeros((1, 16), np.float32), ["d2"]), "x.pkl has another dimension or type than"),
        ((np.full((1, 32), np.nan, np.float32), ["d2"]), "x.pkl: the embedding of d2 is not finite"),
        ((np.zeros((1, 32), np.float32), ["d2"]), "d5 (2 ids in total) is in none of the files"),
    ],
)
def test_pickles_of_other_content_are_refused_and_never_run(shards, tmp_path, content, message):
    files, _ = shards
    harm = tmp_path / "harm"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps((Harm(harm), ["d2"]) if content == "harm" else content))
    assert message in assert_mistake(run_import(tmp_path, [*files[:2], tmp_path / "x.pkl"], *NAMED))
    assert not harm.exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_damaged_arrays_and_tables_are_one_line(tmp_path):
    def refusal(file):
        return assert_mistake(run_script("import_embeddings", tmp_path / "run", file, *NAMED))

    file = save(tmp_path / "a.npy", vectors(3), ["d0", "d1"])
    assert "a.npy: float32 (3, 32) with 2 ids are not embeddings" in refusal(file)
    (tmp_path / "a.txt").unlink()
    assert "a.txt cannot be read" in refusal(file)
    np.save(file, np.array([Harm(tmp_path / "harm")], object), allow_pickle=True)
    assert "is not an array that NumPy can map" in refusal(file)
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"docid": ["a"], "text": ["b"]}), file)
    assert "has the columns docid, text. Rename one to embedding or embeddings or vector" in refusal(file)
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": [[1.0, 2.0], [1.0]]}), file)
    assert "have different numbers of dimensions" in refusal(file)
    pq.write_table(pa.table({"id": ["a"], "embedding": ["text"]}), file)
    assert "its embeddings are string, not lists of numbers" in refusal(file)
    file.write_bytes(b"nonsense")
    assert "cannot be read as Parquet" in refusal(file)
    assert refusal(tmp_path / "absent.npy").startswith(f"{tmp_path}/absent.npy does not exist")
