"""An index is built once, then checked and mapped; what it returns is ranked as by exact search."""

import json
import logging
import random
import re
import shutil

import faiss
import numpy as np
import pytest
from support.embedding_files import write_corpus, write_queries, write_run

from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.errors import UserError
from dpr_lightning.files import file_hash
from dpr_lightning.retrieval.faiss_index import FaissIndex
from dpr_lightning.retrieval.index_file import open_index
from dpr_lightning.retrieval.methods import Method
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.retrieval.stage import search
from dpr_lightning.run_dir import RunDir

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
def run(tmp_path, vectors):
    return write_run(tmp_path / "run", vectors[1], vectors[0], 3)


def rankings_of(run, factory, ann=None, **options):
    search(run, Method(index=factory, ann=ann), **{"split": "test", "depth": 20, "overwrite": True, **options})
    return list(read_rankings(run.ranking("test")))


def build(run, factory, **options):
    """Build an index if it does not exist, and open it."""
    return open_index(run, factory, open_passages(run.passage_shards), **{"memory": MB, **options})


def open_only(run, factory, **options):
    return open_index(run, factory, open_passages(run.passage_shards), **options)


def index_file(run, factory):
    return run.index(factory) / "passages.faiss"


@pytest.mark.parametrize("factory", FACTORIES)
def test_an_index_is_built_once_and_ranks_the_same_when_mapped(run, factory, caplog):
    with caplog.at_level(logging.INFO):
        first = rankings_of(run, factory)
        file = index_file(run, factory)
        before = file.stat()
        second = rankings_of(run, factory)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert caplog.text.count("built in") == 1
    recalls = re.findall(r"recall@20 ([\d.]+) against exact search over 12 queries, [\d,]+ queries/s", caplog.text)
    assert len(recalls) == 2
    assert float(recalls[0]) > 0.3
    for a, b in zip(first, second, strict=True):
        assert a.docids == b.docids
        assert a.scores.tolist() == b.scores.tolist()


def test_recall_is_the_share_of_the_exact_top_100(run, caplog):
    for factory, depth in (("IVF16,Flat", 90), ("PQ4x4", 300)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            approximate = rankings_of(run, factory, depth=depth)
        exact = rankings_of(run, None, depth=depth)
        cutoff = min(depth, 100)
        pairs = zip(approximate, exact, strict=True)
        shared = [len({*a.docids[:cutoff]} & {*b.docids[:cutoff]}) for a, b in pairs]
        recall = np.mean(shared) / cutoff
        assert 0.2 < recall < 1
        assert f"recall@{cutoff} {recall:.4f} " in caplog.text
        assert ("returned fewer" in caplog.text) == any(len(one.docids) < depth for one in approximate)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_exhaustive_index_ranks_exactly_when_rescored(tmp_path, vectors, dtype):
    passages, queries = (array.astype(dtype) for array in vectors)
    run = write_run(tmp_path / "run", queries, passages, 3)
    exact = rankings_of(run, None)
    for factory, ann in (
        ("Flat", {"rescore": 1}),
        ("SQ8", {"rescore": 4}),
        ("IVF16,Flat", {"nprobe": 16, "rescore": 2}),
    ):
        for a, b in zip(rankings_of(run, factory, ann=ann), exact, strict=True):
            assert a.docids == b.docids
            assert a.scores.tobytes() == b.scores.tobytes()


def test_equal_scores_rank_in_corpus_order(run):
    for factory in ("Flat", "PQ4x4"):
        for one in rankings_of(run, factory):
            keys = [(-score, int(docid[1:])) for docid, score in zip(one.docids, one.scores, strict=True)]
            assert keys == sorted(keys)


def test_scores_are_inner_products(run, vectors):
    for factory in ("HNSW8,Flat", "IVF16,Flat"):
        for query, one in zip(vectors[1], rankings_of(run, factory), strict=True):
            rows = [int(docid[1:]) for docid in one.docids]
            np.testing.assert_allclose(one.scores, vectors[0][rows] @ query, rtol=1e-5)


def test_settings_change_recall(run, caplog):
    with caplog.at_level(logging.INFO):
        rankings_of(run, "IVF16,Flat", depth=90, ann={"nprobe": 1})
        rankings_of(run, "IVF16,Flat", depth=90, ann={"nprobe": 16})
    low, high = map(float, re.findall(r"recall@90 ([\d.]+)", caplog.text))
    assert low < 0.9 < high


@pytest.mark.parametrize(("factory", "name"), [("IVF16,Flat", "nprobe"), ("HNSW8,Flat", "ef_search")])
def test_a_search_is_as_wide_as_the_corpus_at_most(run, factory, name):
    rankings = [rankings_of(run, factory, depth=9, ann={name: value}) for value in (900, 2**31 - 1, 2**31, 2**70)]
    assert all([one.docids for one in each] == [one.docids for one in rankings[0]] for each in rankings)


def test_rankings_shorter_than_depth_are_counted(run, caplog):
    with caplog.at_level(logging.WARNING):
        rankings = rankings_of(run, "IVF16,Flat", depth=200, ann={"nprobe": 1, "rescore": 2})
    short = sum(len(one.docids) < 200 for one in rankings)
    assert short > 0
    assert f"returned fewer than 200 passages for {short} queries: search wider" in caplog.text
    assert all(len({*one.docids}) == len(one.docids) for one in rankings)


@pytest.mark.parametrize(
    ("factory", "ann", "message"),
    [
        ("Foo", {}, r"index: 'Foo' cannot be used: could not parse index string Foo. Correct index"),
        ("IVF1000,Flat", {}, r"index: .* training points \(900\) should be at least as large as number of clusters"),
        ("PQ5", {}, "index: .* should be a multiple of the number of subquantizers"),
        ("LSH", {}, "index: 'LSH' cannot be used"),
        ("HNSW8_PQ4x4", {}, "index: 'HNSW8_PQ4x4' cannot be used: it cannot rank by inner product"),
        ("Flat", {"nprobe": 4}, "ann.nprobe: index Flat does not use it. Set `ann.nprobe`=null"),
        ("IVF16,Flat", {"ef_search": 4}, "ann.ef_search: index IVF16,Flat does not use it"),
        ("HNSW8,Flat", {"nprobe": 4}, "ann.nprobe: index HNSW8,Flat does not use it"),
        ("Flat", {"rescore": 0}, "ann.rescore: 0 is not a whole number of at least 1"),
        ("Flat", {"nprobe": "x"}, "ann.nprobe: 'x' is not a whole number"),
        ("Flat", {"efSearch": 4}, "ann: 'efSearch' is not possible. Set `ann` to one of: nprobe, ef_search, rescore"),
    ],
)
def test_an_impossible_index_or_setting_is_refused(run, factory, ann, message):
    with pytest.raises(UserError, match=message):
        rankings_of(run, factory, ann=ann)
    assert not run.ranking("test").exists()


def test_one_shard_is_not_searched_with_an_index(run):
    with pytest.raises(UserError, match="index: Flat is of the whole corpus, shard=1 is not"):
        rankings_of(run, "Flat", shard=1, num_shards=3)


@pytest.mark.parametrize(("change", "what"), [("model", "of another model"), ("data", "of another corpus")])
def test_an_index_of_other_passages_is_refused_or_replaced(run, vectors, change, what):
    build(run, "Flat")
    shutil.rmtree(run.path / "embeddings")
    write_corpus(run.passage_shards, -vectors[0], 1, {0: {change: "other"}})
    write_queries(run, vectors[1], **({"model": "other"} if change == "model" else {}))
    with pytest.raises(UserError, match=rf"index: .*index/Flat is {what}. Set overwrite=true to build it again"):
        rankings_of(run, "Flat", overwrite=False)
    approximate, exact = rankings_of(run, "Flat", ann={"rescore": 1}), rankings_of(run, None)
    assert [one.docids for one in approximate] == [one.docids for one in exact]


@pytest.mark.parametrize("damage", ["truncated", "no index file", "no identity", "not JSON", "not an object"])
def test_a_damaged_index_is_refused(run, damage):
    build(run, "SQ8")
    file, identity = index_file(run, "SQ8"), run.index("SQ8") / "identity.json"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "no index file":
        file.unlink()
    elif damage == "no identity":
        identity.unlink()
    else:
        identity.write_text("[" if damage == "not JSON" else "[]")
    for memory in (None, MB):
        with pytest.raises(UserError, match=r"index/SQ8 is damaged. Set overwrite=true"):
            open_only(run, "SQ8", memory=memory)
    build(run, "SQ8", overwrite=True)
    assert open_only(run, "SQ8").ntotal == 900


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW8,SQ8"])
def test_a_flipped_bit_of_an_index_is_an_error(run, factory):
    build(run, factory)
    rng = random.Random(0)
    for file in run.index(factory).iterdir():
        original = file.read_bytes()
        for position in [*range(40), *rng.sample(range(len(original)), 60)]:
            content = bytearray(original)
            content[position % len(original)] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
            with pytest.raises(UserError, match=r"^index: .* is (damaged|of another|another|by an older)[^\n]*$"):
                open_only(run, factory)
        file.write_bytes(original)
    open_only(run, factory)


def test_an_index_without_a_checksum_must_be_built_again(run):
    build(run, "Flat")
    identity = run.index("Flat") / "identity.json"
    old = json.loads(identity.read_text())
    del old["xxh3"]
    identity.write_text(json.dumps(old | {"bytes": index_file(run, "Flat").stat().st_size}))
    with pytest.raises(UserError, match=r"index/Flat is by an older version, without a checksum. Set overwrite=true"):
        open_only(run, "Flat")


def test_different_indexes_with_one_folder_name_are_not_confused(run):
    build(run, "HNSW8,Flat")
    with pytest.raises(UserError, match="index/HNSW8-Flat is another index"):
        open_only(run, "HNSW8-Flat")
    assert RunDir(run.path).index("../IVF8(x),PQ4") == run.path / "index" / "IVF8-x-PQ4"


def test_an_index_is_built_in_corpus_order_within_memory(run, vectors):
    """Blocks of 7 rows: 16 floats of 4 bytes each, a quarter of the memory."""
    build(run, "Flat", memory=16 * 16 * 7)
    index = faiss.read_index(str(index_file(run, "Flat")))
    assert index.reconstruct_n(0, 900).tobytes() == vectors[0].tobytes()
    with pytest.raises(UserError, match=r"training points \(7\) should be at least"):
        build(run, "IVF8,Flat", memory=16 * 16 * 7)


def test_damaged_embeddings_are_not_indexed(run):
    file = run.passage_shard(1, 3)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"01-of-03.safetensors: rows .* are damaged"):
        build(run, "Flat")
    assert not list(run.index("Flat").parent.glob("*"))


def test_the_identity_says_what_was_indexed(run):
    build(run, "Flat")
    assert json.loads((run.index("Flat") / "identity.json").read_text()) == {
        "factory": "Flat",
        "metric": "inner product",
        "rows": 900,
        "dim": 16,
        "model_fingerprint": "m",
        "data_fingerprint": "d",
        "xxh3": file_hash(index_file(run, "Flat")),
    }


def test_without_memory_an_index_is_opened_but_not_built(run):
    with pytest.raises(UserError, match=r"index: .*index/Flat does not exist. Build it with search.py index='Flat'"):
        FaissIndex(run, "Flat", open_passages(run.passage_shards))


def test_the_command_builds_searches_and_reports_recall(command, settings, finished_run):
    code, out, err = command("search", *settings, "index=IVF4,Flat", "ann.nprobe=4", "ann.rescore=1", "overwrite=true")
    assert code == 0, err
    assert "recall@20 1.0000 against exact search over 12 queries" in out + err
    approximate = (finished_run / "rankings" / "test.trec").read_bytes()
    assert command("search", *settings, "overwrite=true")[0] == 0
    assert (finished_run / "rankings" / "test.trec").read_bytes() == approximate
    code, _, err = command("search", *settings, "index=Foo", "overwrite=true")
    assert (code, err.count("\n")) == (1, 1)
    assert "index: 'Foo' cannot be used" in err
