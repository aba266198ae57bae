"""The search stage: shards, memory and ties change nothing; files that do not belong together are refused."""

import logging

import numpy as np
import pytest
from support.embedding_files import write_corpus, write_embeddings

from dpr_lightning.embeddings.shards import shard_name
from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.memory import parse_bytes
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.retrieval.stage import reduce, search
from dpr_lightning.retrieval.topk import score_pairs

DIM = 16


@pytest.fixture(scope="module")
def vectors():
    """600 passages, every third one a copy or nearly a copy of an earlier one, and 9 queries."""
    rng = np.random.default_rng(5)
    passages = rng.integers(-3, 4, (600, DIM)).astype(np.float32)
    passages[200:400] = passages[:200]
    passages[400:] = np.nextafter(passages[:200], np.float32(9))
    return passages, rng.integers(-3, 4, (9, DIM)).astype(np.float32)


@pytest.fixture
def queries(tmp_path, vectors):
    return write_embeddings(tmp_path / "q.safetensors", vectors[1], [f"q{i}" for i in range(9)], side="query")


def searched(tmp_path, queries, corpus, name, **options):
    search(queries, corpus, tmp_path / name, split="test", **options)
    (file,) = (tmp_path / name).glob("test.*")
    return file.read_bytes()


@pytest.mark.parametrize("format", ["trec", "text"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_any_number_of_shards_searched_whole_or_merged_gives_the_same_bytes(tmp_path, queries, vectors, dtype, format):
    results = set()
    for num_shards in (1, 3, 7):
        corpus = tmp_path / f"{num_shards}"
        write_corpus(corpus, vectors[0].astype(dtype), num_shards)
        options = {"depth": 37, "format": format}
        results.add(searched(tmp_path, queries, corpus, f"whole{num_shards}", **options))
        parts = tmp_path / f"parts{num_shards}"
        for shard in reversed(range(num_shards)):
            search(queries, corpus, parts, split="test", shard=shard, num_shards=num_shards, **options)
        line = reduce(parts, split="test", **options)
        assert f"9 queries merged from {num_shards} shards" in line
        (file,) = parts.glob("test.*")
        results.add(file.read_bytes())
    assert len(results) == 1


def test_the_ranking_is_a_full_sort_by_score_and_corpus_order(tmp_path, queries, vectors):
    write_corpus(tmp_path / "c", vectors[0], 3)
    searched(tmp_path, queries, tmp_path / "c", "r", depth=50)
    scores = score_pairs(vectors[1], vectors[0], np.tile(np.arange(600), (len(vectors[1]), 1)))
    for i, found in enumerate(read_rankings(tmp_path / "r" / "test.trec")):
        rows = sorted(range(600), key=lambda row: (-scores[i, row], row))[:50]
        assert found.qid == f"q{i}"
        assert found.docids == [f"d{row}" for row in rows]
        assert found.scores.tolist() == scores[i, rows].tolist()


def test_memory_changes_nothing(tmp_path, vectors):
    rng = np.random.default_rng(6)
    passages = rng.integers(-3, 4, (5000, 64)).astype(np.float32)
    queries = rng.integers(-3, 4, (300, 64)).astype(np.float32)
    file = write_embeddings(tmp_path / "q", queries, [f"q{i}" for i in range(300)], side="query")
    write_corpus(tmp_path / "c", passages, 2)
    results = {
        searched(tmp_path, file, tmp_path / "c", str(memory), depth=60, memory=memory) for memory in ("1MB", "4GB", 1)
    }
    assert len(results) == 1


def test_depth_beyond_the_corpus_gives_each_passage_once_and_says_so(tmp_path, queries, vectors, caplog):
    write_corpus(tmp_path / "c", vectors[0][:5], 2)
    with caplog.at_level(logging.WARNING):
        line = search(queries, tmp_path / "c", tmp_path / "r", split="test", depth=1000)
    assert "9 queries x 5 of 5 passages" in line
    assert "depth=1000 is more than the corpus has" in caplog.text
    for found in read_rankings(tmp_path / "r" / "test.trec"):
        assert sorted(found.docids) == ["d0", "d1", "d2", "d3", "d4"]


def test_more_shards_than_passages_are_searched(tmp_path, queries, vectors):
    write_corpus(tmp_path / "few", vectors[0][:5], 2)
    write_corpus(tmp_path / "many", vectors[0][:5], 7)
    results = {searched(tmp_path, queries, tmp_path / name, f"r-{name}", depth=3) for name in ("few", "many")}
    assert len(results) == 1
    with pytest.raises(UserError, match=r"00-of-07.safetensors holds no passages. Encode the corpus in fewer shards"):
        search(queries, tmp_path / "many", tmp_path / "r", split="test", shard=0, num_shards=7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: {"model": "other"}}, r"00-of-03.safetensors and .*01-of-03.safetensors are by different models"),
        ({2: {"data": "other"}}, r"00-of-03.safetensors and .*02-of-03.safetensors are of different data sets"),
        ({1: {"first_row": 7}}, r"01-of-03.safetensors begins at row 7, not 200"),
    ],
)
def test_shards_of_different_origin_are_refused(tmp_path, queries, vectors, changes, message):
    write_corpus(tmp_path / "c", vectors[0], 3, changes)
    with pytest.raises(UserError, match=message):
        search(queries, tmp_path / "c", tmp_path / "r", split="test")
    assert not (tmp_path / "r" / "test.trec").exists()


def test_queries_by_another_model_or_of_another_size_are_refused(tmp_path, vectors):
    write_corpus(tmp_path / "c", vectors[0], 1)
    ids = [f"q{i}" for i in range(9)]
    other = write_embeddings(tmp_path / "other", vectors[1], ids, model="other", side="query")
    with pytest.raises(UserError, match=r"other and .*00-of-01.safetensors are by different models"):
        search(other, tmp_path / "c", tmp_path / "r", split="test")
    short = write_embeddings(tmp_path / "short", vectors[1][:, :8].copy(), ids, side="query")
    with pytest.raises(UserError, match=r"short and .*00-of-01.safetensors are by different models"):
        search(short, tmp_path / "c", tmp_path / "r", split="test", shard=0, num_shards=1)


def test_missing_shards_are_named(tmp_path, queries, vectors):
    write_corpus(tmp_path / "c", vectors[0], 3)
    for shard in (0, 2):
        search(queries, tmp_path / "c", tmp_path / "r", split="test", shard=shard, num_shards=3)
    with pytest.raises(UserError, match=r"01-of-03.trec missing. Make the rest with search.py"):
        reduce(tmp_path / "r", split="test")
    (tmp_path / "c" / "01-of-03.safetensors").unlink()
    with pytest.raises(UserError, match=r"01-of-03.safetensors missing"):
        search(queries, tmp_path / "c", tmp_path / "r", split="test")
    with pytest.raises(UserError, match=r"01-of-03.safetensors is not there"):
        search(queries, tmp_path / "c", tmp_path / "r", split="test", shard=1, num_shards=3)
    with pytest.raises(UserError, match="holds no shards"):
        reduce(tmp_path / "r", split="dev")


def test_a_docid_in_two_shards_is_refused_with_both_files(tmp_path, queries, vectors):
    for shard in range(2):
        place = {"first_row": 2 * shard, "shard": shard, "num_shards": 2}
        ids = ["d0", "d1"] if shard == 0 else ["d2", "d1"]
        path = tmp_path / "c" / f"{shard_name(shard, 2)}.safetensors"
        write_embeddings(path, vectors[0][2 * shard : 2 * shard + 2], ids, **place)
    with pytest.raises(UserError, match=r"passage d1 stands twice in 00-of-02.safetensors and 01-of-02.safetensors"):
        search(queries, tmp_path / "c", tmp_path / "r", split="test")


def test_settings_that_are_not_possible_are_refused(tmp_path, queries, vectors):
    write_corpus(tmp_path / "c", vectors[0], 1)
    for options, message in (
        ({"depth": 0}, "depth: 0 is not a whole number of at least 1"),
        ({"format": "csv"}, "format: 'csv' is not possible. Set format to one of: trec, text"),
        ({"memory": "lots"}, "memory: 'lots' is no size"),
        ({"shard": 3, "num_shards": 3}, "shard: 3 does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            search(queries, tmp_path / "c", tmp_path / "r", split="test", **options)
    search(queries, tmp_path / "c", tmp_path / "r", split="test", depth=3)
    with pytest.raises(UserError, match=r"finished already. Set overwrite=true"):
        search(queries, tmp_path / "c", tmp_path / "r", split="test", depth=5)
    assert "x 5 of 600" in search(queries, tmp_path / "c", tmp_path / "r", split="test", depth=5, overwrite=True)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(5, 5), ("5", 5), ("4GB", 4 << 30), ("4 GiB", 4 << 30), ("500 mb", 500 << 20), ("1.5k", 1536), ("2T", 2 << 40)],
)
def test_sizes_are_read(size, expected):
    assert parse_bytes(size) == expected
