"""An index is built once, then mapped, refused for other passages; what it finds is ranked as by exact search."""

import json
import logging
import re
import shutil

import faiss
import numpy as np
import pytest
from support.embedding_files import write_corpus, write_embeddings

from dpr_lightning.embeddings.shards import open_shards
from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.faiss_index import PassageIndex, build_index, index_path
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.retrieval.stage import search

FACTORIES = ["Flat", "HNSW8,Flat", "HNSW8,SQ8", "IVF16,Flat", "IVF8,PQ4x4", "PQ4x4", "SQ8", "SQfp16", "PCA8,IVF8,SQ8"]
MB = 1 << 20


@pytest.fixture(scope="module")
def vectors():
    """900 passages in 30 groups, the last 100 copies of the first, and 12 queries near passages."""
    rng = np.random.default_rng(8)
    passages = np.repeat(rng.standard_normal((30, 16)), 30, 0) + 0.3 * rng.standard_normal((900, 16))
    passages[800:] = passages[:100]
    return passages.astype(np.float32), (passages[::75] + 0.1 * rng.standard_normal((12, 16))).astype(np.float32)


@pytest.fixture
def run_dir(tmp_path, vectors):
    write_corpus(tmp_path / "passages", vectors[0], 3)
    write_embeddings(tmp_path / "q", vectors[1], [f"q{i}" for i in range(12)], side="query")
    return tmp_path


def searched(run_dir, factory, **options):
    given = {"split": "test", "depth": 20, "overwrite": True, "index": factory, **options}
    line = search(run_dir / "q", run_dir / "passages", run_dir / "rankings", **given)
    return line, list(read_rankings(run_dir / "rankings" / "test.trec"))


def exact(run_dir, **options):
    return searched(run_dir, None, **options)[1]


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_index_is_built_once_and_gives_the_same_when_mapped(run_dir, factory, caplog):
    with caplog.at_level(logging.INFO):
        _, first = searched(run_dir, factory)
        file = index_path(run_dir / "index", factory) / "passages.faiss"
        before = file.stat()
        _, second = searched(run_dir, factory)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert caplog.text.count("built in") == 1
    recalls = re.findall(r"recall@20 ([\d.]+) against exact search over 12 queries, [\d,]+ queries/s", caplog.text)
    assert len(recalls) == 2
    assert float(recalls[0]) > 0.3
    for a, b in zip(first, second, strict=True):
        assert a.docids == b.docids
        assert a.scores.tolist() == b.scores.tolist()


def test_recall_is_the_share_of_the_exact_ranking_to_100(run_dir, caplog):
    for factory, depth in (("IVF16,Flat", 90), ("PQ4x4", 300)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            _, found = searched(run_dir, factory, depth=depth)
        best = exact(run_dir, depth=depth)
        cutoff = min(depth, 100)
        shared = [len({*a.docids[:cutoff]} & {*b.docids[:cutoff]}) for a, b in zip(found, best, strict=True)]
        recall = np.mean(shared) / cutoff
        assert 0.2 < recall < 1
        assert f"recall@{cutoff} {recall:.4f} " in caplog.text
        assert ("found fewer" in caplog.text) == any(len(one.docids) < depth for one in found)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_index_that_sees_all_gives_the_exact_ranking_when_rescored(tmp_path, vectors, dtype):
    passages, queries = (array.astype(dtype) for array in vectors)
    write_corpus(tmp_path / "passages", passages, 3)
    run_dir = write_embeddings(tmp_path / "q", queries, [f"q{i}" for i in range(12)], side="query").parent
    best = exact(run_dir)
    for factory, ann in (
        ("Flat", {"rescore": 1}),
        ("SQ8", {"rescore": 4}),
        ("IVF16,Flat", {"nprobe": 16, "rescore": 2}),
    ):
        _, found = searched(run_dir, factory, ann=ann)
        for a, b in zip(found, best, strict=True):
            assert a.docids == b.docids
            assert a.scores.tobytes() == b.scores.tobytes()


def test_equal_scores_rank_in_corpus_order(run_dir):
    for factory in ("Flat", "PQ4x4"):
        for one in searched(run_dir, factory)[1]:
            places = [(-score, int(docid[1:])) for docid, score in zip(one.docids, one.scores, strict=True)]
            assert places == sorted(places)


def test_scores_are_inner_products(run_dir, vectors):
    for factory in ("HNSW8,Flat", "IVF16,Flat"):
        for query, one in zip(vectors[1], searched(run_dir, factory)[1], strict=True):
            rows = [int(docid[1:]) for docid in one.docids]
            np.testing.assert_allclose(one.scores, vectors[0][rows] @ query, rtol=1e-5)


def test_settings_change_what_is_found(run_dir, caplog):
    with caplog.at_level(logging.INFO):
        searched(run_dir, "IVF16,Flat", depth=90, ann={"nprobe": 1})
        searched(run_dir, "IVF16,Flat", depth=90, ann={"nprobe": 16})
    low, high = map(float, re.findall(r"recall@90 ([\d.]+)", caplog.text))
    assert low < 0.9 < high


def test_what_the_index_does_not_find_is_left_out_and_counted(run_dir, caplog):
    with caplog.at_level(logging.WARNING):
        _, found = searched(run_dir, "IVF16,Flat", depth=200, ann={"nprobe": 1, "rescore": 2})
    short = sum(len(one.docids) < 200 for one in found)
    assert short > 0
    assert f"found fewer than 200 passages for {short} queries: search wider" in caplog.text
    assert all(len({*one.docids}) == len(one.docids) for one in found)


@pytest.mark.parametrize(
    ("factory", "ann", "message"),
    [
        ("Foo", {}, r"index: faiss cannot use 'Foo' here: could not parse index string Foo. Correct index"),
        ("IVF1000,Flat", {}, r"index: .* training points \(900\) should be at least as large as number of clusters"),
        ("PQ5", {}, "index: .* should be a multiple of the number of subquantizers"),
        ("LSH", {}, "index: faiss cannot use 'LSH' here"),
        ("HNSW8_PQ4x4", {}, "index: HNSW8_PQ4x4 cannot rank by inner product"),
        ("Flat", {"nprobe": 4}, "ann.nprobe: index Flat has no use for it. Set ann.nprobe=null"),
        ("IVF16,Flat", {"ef_search": 4}, "ann.ef_search: index IVF16,Flat has no use for it"),
        ("HNSW8,Flat", {"nprobe": 4}, "ann.nprobe: index HNSW8,Flat has no use"),
        ("Flat", {"rescore": 0}, "ann.rescore: 0 is not a whole number of at least 1"),
        ("Flat", {"nprobe": "x"}, "ann.nprobe: 'x' is not a whole number"),
    ],
)
def test_what_cannot_be_built_or_set_is_refused(run_dir, factory, ann, message):
    with pytest.raises(UserError, match=message):
        searched(run_dir, factory, ann=ann)
    assert not (run_dir / "rankings").exists()


def test_a_shard_alone_is_not_searched_with_an_index(run_dir):
    with pytest.raises(UserError, match="index: Flat is of the whole corpus, shard=1 is not"):
        searched(run_dir, "Flat", shard=1, num_shards=3)


@pytest.mark.parametrize(("change", "what"), [("model", "of another model"), ("data", "of another corpus")])
def test_an_index_of_other_passages_is_refused_or_built_anew(run_dir, vectors, change, what):
    build_index(run_dir / "index", "Flat", open_shards(run_dir / "passages"), memory=MB)
    shutil.rmtree(run_dir / "passages")
    (run_dir / "q").unlink()
    write_corpus(run_dir / "passages", -vectors[0], 1, {0: {change: "other"}})
    model = {"model": "other"} if change == "model" else {}
    write_embeddings(run_dir / "q", vectors[1], [f"q{i}" for i in range(12)], side="query", **model)
    with pytest.raises(UserError, match=rf"index: .*index/Flat is {what}. Set overwrite=true to build it anew"):
        searched(run_dir, "Flat", overwrite=False)
    found, best = searched(run_dir, "Flat", ann={"rescore": 1})[1], exact(run_dir)
    assert [one.docids for one in found] == [one.docids for one in best]


@pytest.mark.parametrize("damage", ["cut short", "no identity", "not JSON"])
def test_a_damaged_index_is_refused(run_dir, damage):
    passages = open_shards(run_dir / "passages")
    build_index(run_dir / "index", "SQ8", passages, memory=MB)
    file, identity = run_dir / "index" / "SQ8" / "passages.faiss", run_dir / "index" / "SQ8" / "identity.json"
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "no identity":
        identity.unlink()
    else:
        identity.write_text("[")
    with pytest.raises(UserError, match=r"index/SQ8 is damaged. Set overwrite=true"):
        PassageIndex(run_dir / "index", "SQ8", passages)


def test_names_that_fall_together_are_told_apart(run_dir):
    passages = open_shards(run_dir / "passages")
    build_index(run_dir / "index", "HNSW8,Flat", passages, memory=MB)
    with pytest.raises(UserError, match="index/HNSW8-Flat is another index"):
        PassageIndex(run_dir / "index", "HNSW8-Flat", passages)
    assert index_path(run_dir, "../IVF8(x),PQ4") == run_dir / "IVF8-x-PQ4"


def test_passages_are_trained_on_and_added_within_memory_in_corpus_order(run_dir, vectors):
    """Blocks of a few rows: 16 floats of 4 bytes, a quarter of the memory."""
    passages = open_shards(run_dir / "passages")
    build_index(run_dir / "index", "Flat", passages, memory=16 * 16 * 7)
    index = faiss.read_index(str(run_dir / "index" / "Flat" / "passages.faiss"))
    assert index.reconstruct_n(0, 900).tobytes() == vectors[0].tobytes()
    with pytest.raises(UserError, match=r"training points \(7\) should be at least"):
        build_index(run_dir / "index", "IVF8,Flat", passages, memory=16 * 16 * 7)


def test_damaged_embeddings_are_not_indexed(run_dir):
    file = run_dir / "passages" / "01-of-03.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"01-of-03.safetensors: rows .* are damaged"):
        build_index(run_dir / "index", "Flat", open_shards(run_dir / "passages"), memory=MB)
    assert not list((run_dir / "index").glob("*"))


def test_the_identity_says_what_was_indexed(run_dir):
    build_index(run_dir / "index", "Flat", open_shards(run_dir / "passages"), memory=MB)
    found = json.loads((run_dir / "index" / "Flat" / "identity.json").read_text())
    assert found == {
        "factory": "Flat",
        "metric": "inner product",
        "rows": 900,
        "dim": 16,
        "model_fingerprint": "m",
        "data_fingerprint": "d",
        "bytes": (run_dir / "index" / "Flat" / "passages.faiss").stat().st_size,
    }


def test_the_command_builds_searches_and_reports_recall(command, settings, finished_run):
    code, out, err = command("search", *settings, "index=IVF4,Flat", "ann.nprobe=4", "ann.rescore=1", "overwrite=true")
    assert code == 0, err
    assert "recall@20 1.0000 against exact search over 12 queries" in out + err
    approximate = (finished_run / "rankings" / "test.trec").read_bytes()
    assert command("search", *settings, "overwrite=true")[0] == 0
    assert (finished_run / "rankings" / "test.trec").read_bytes() == approximate
    code, _, err = command("search", *settings, "index=Foo", "overwrite=true")
    assert (code, err.count("\n")) == (1, 1)
    assert "index: faiss cannot use 'Foo' here" in err
