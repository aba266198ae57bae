"""The search stage: shards, memory and ties change nothing; files that do not belong together are refused."""

import logging
import random

import numpy as np
import pytest
from support.embedding_files import write_embeddings, write_queries, write_run

from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.memory import parse_bytes
from dpr_lightning.retrieval.methods import Method
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.retrieval.stage import reduce, search
from dpr_lightning.retrieval.topk import score_pairs
from dpr_lightning.run_dir import RunDir

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
def run(tmp_path, vectors):
    """A run folder with the embeddings of the 9 queries, and of the 600 passages in 3 shards."""
    return write_run(tmp_path / "run", vectors[1], vectors[0], 3)


def ranking_of(run, format="trec", **options):
    search(run, split="test", format=format, overwrite=True, **options)
    return run.ranking("test", format).read_bytes()


@pytest.mark.parametrize("format", ["trec", "text"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_sharded_search_and_reduce_give_the_bytes_of_one_search(tmp_path, vectors, dtype, format):
    rankings = set()
    for num_shards in (1, 3, 7):
        run = write_run(tmp_path / f"{num_shards}", vectors[1], vectors[0].astype(dtype), num_shards)
        options = {"split": "test", "depth": 37, "format": format}
        search(run, **options)
        rankings.add(run.ranking("test", format).read_bytes())
        for shard in reversed(range(num_shards)):
            search(run, shard=shard, num_shards=num_shards, **options)
        line = reduce(run, overwrite=True, **options)
        assert f"9 queries merged from {num_shards} shards" in line
        rankings.add(run.ranking("test", format).read_bytes())
    assert len(rankings) == 1


def test_the_ranking_is_a_full_sort_by_score_and_corpus_order(run, vectors):
    search(run, split="test", depth=50)
    scores = score_pairs(vectors[1], vectors[0], np.tile(np.arange(600), (len(vectors[1]), 1)))
    for i, ranking in enumerate(read_rankings(run.ranking("test"))):
        rows = sorted(range(600), key=lambda row: (-scores[i, row], row))[:50]
        assert ranking.qid == f"q{i}"
        assert ranking.docids == [f"d{row}" for row in rows]
        assert ranking.scores.tolist() == scores[i, rows].tolist()


def test_memory_does_not_change_the_ranking(tmp_path):
    rng = np.random.default_rng(6)
    passages = rng.integers(-3, 4, (5000, 64)).astype(np.float32)
    run = write_run(tmp_path, rng.integers(-3, 4, (300, 64)).astype(np.float32), passages, 2)
    assert len({ranking_of(run, depth=60, memory=memory) for memory in ("1MB", "4GB", 1)}) == 1


def test_depth_beyond_the_corpus_ranks_each_passage_once(tmp_path, vectors, caplog):
    run = write_run(tmp_path, vectors[1], vectors[0][:5], 2)
    with caplog.at_level(logging.WARNING):
        line = search(run, split="test", depth=1000)
    assert "9 queries x 5 of 5 passages" in line
    assert "depth=1000 is more than the corpus has" in caplog.text
    for ranking in read_rankings(run.ranking("test")):
        assert sorted(ranking.docids) == ["d0", "d1", "d2", "d3", "d4"]


def test_more_shards_than_passages_can_be_searched(tmp_path, vectors):
    few, many = (write_run(tmp_path / f"{n}", vectors[1], vectors[0][:5], n) for n in (2, 7))
    assert ranking_of(few, depth=3) == ranking_of(many, depth=3)
    with pytest.raises(UserError, match=r"00-of-07.safetensors has no passages. Encode the corpus in fewer shards"):
        search(many, split="test", shard=0, num_shards=7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: {"model": "other"}}, r"00-of-03.safetensors and .*01-of-03.safetensors are by different models"),
        ({2: {"data": "other"}}, r"00-of-03.safetensors and .*02-of-03.safetensors are of different data sets"),
        ({1: {"first_row": 7}}, r"01-of-03.safetensors begins at row 7, not 200"),
    ],
)
def test_shards_of_different_origin_are_refused(tmp_path, vectors, changes, message):
    run = write_run(tmp_path, vectors[1], vectors[0], 3, changes)
    with pytest.raises(UserError, match=message):
        search(run, split="test")
    assert not run.ranking("test").exists()


def test_queries_of_another_model_or_dimension_are_refused(run, vectors):
    write_queries(run, vectors[1], split="other", model="other")
    write_queries(run, vectors[1][:, :8].copy(), split="short")
    for split, options in (("other", {}), ("short", {}), ("short", {"shard": 0, "num_shards": 3})):
        with pytest.raises(UserError, match=rf"{split}.safetensors and .*00-of-03.safetensors are by different models"):
            search(run, split=split, **options)


def test_embeddings_under_another_name_are_refused(tmp_path, vectors):
    run = write_run(tmp_path, vectors[1], vectors[0], 4)

    def refusal(**options):
        with pytest.raises(UserError) as error:
            search(run, split="test", **options)
        assert not run.ranking("test").exists()
        return str(error.value).partition(". ")[0]

    # 1. Shards of a finer division, renamed so that the last quarter of the corpus seems never to have existed.
    run.passage_shard(3, 4).unlink()
    for shard in range(3):
        run.passage_shard(shard, 4).rename(run.passage_shard(shard, 3))
    named = f"{run.passage_shard(0, 3)} has shard 0 of 4 of the passages, not shard 0 of 3 of the passages"
    assert refusal() == named
    # 2. A shard copied over another.
    run = write_run(tmp_path / "other", vectors[1], vectors[0], 3)
    first, second, queries = run.passage_shard(0, 3), run.passage_shard(1, 3), run.query_embeddings("test")
    second.write_bytes(first.read_bytes())
    named = f"{second} has shard 0 of 3 of the passages, not shard 1 of 3 of the passages"
    assert refusal(shard=1, num_shards=3) == named
    assert refusal() == named
    # 3. Passages in the place of queries.
    queries.write_bytes(first.read_bytes())
    assert refusal() == f"{queries} has shard 0 of 3 of the passages, not queries"


def test_missing_shards_are_named(run):
    for shard in (0, 2):
        search(run, split="test", shard=shard, num_shards=3)
    with pytest.raises(UserError, match=r"01-of-03.trec missing. Run `search.py "):
        reduce(run, split="test")
    run.passage_shard(1, 3).unlink()
    with pytest.raises(UserError, match=r"01-of-03.safetensors missing"):
        search(run, split="test")
    with pytest.raises(UserError, match=r"01-of-03.safetensors does not exist"):
        search(run, split="test", shard=1, num_shards=3)
    with pytest.raises(UserError, match="has no shards"):
        reduce(run, split="dev")


def test_a_docid_in_two_shards_is_refused_with_both_files(tmp_path, vectors):
    run = RunDir(tmp_path)
    write_queries(run, vectors[1])
    for shard, ids in enumerate((["d0", "d1"], ["d2", "d1"])):
        part = {"first_row": 2 * shard, "shard": shard, "num_shards": 2}
        write_embeddings(run.passage_shard(shard, 2), vectors[0][2 * shard : 2 * shard + 2], ids, **part)
    with pytest.raises(UserError, match=r"docid d1 appears twice in 00-of-02.safetensors and 01-of-02.safetensors"):
        search(run, split="test")


def test_impossible_settings_are_refused(run):
    for options, message in (
        ({"depth": 0}, "depth: 0 is not a whole number of at least 1"),
        ({"format": "csv"}, "format: 'csv' is not possible. Set `format` to one of: trec, text"),
        ({"memory": "lots"}, "memory: 'lots' is not a size"),
        ({"memory": "\u0661GB"}, "memory: '\u0661GB' is not a size"),
        ({"memory": "1\u212a"}, "memory: '1\u212a' is not a size"),
        ({"shard": 3, "num_shards": 3}, "shard: 3 does not exist"),
        ({"shard": 0, "num_shards": 3, "method": Method("bm25")}, "method: bm25 is of the whole corpus"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            search(run, split="test", **options)
    search(run, Method("exact"), split="test", depth=3)
    with pytest.raises(UserError, match=r"finished already. Set overwrite=true"):
        search(run, split="test", depth=5)
    assert "x 5 of 600" in search(run, split="test", depth=5, overwrite=True)


def test_contradicting_methods_are_refused():
    for options, message in (
        ({"name": "bm42"}, "method: 'bm42' is not possible. Set `method` to one of: exact, index, bm25, hybrid"),
        ({"name": "exact", "index": "Flat"}, "method: exact contradicts index=Flat"),
        ({"name": "bm25", "index": "Flat"}, "method: bm25 contradicts index=Flat"),
        ({"name": "index"}, "method: index contradicts index=None"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            Method(**options)


def test_a_flipped_bit_is_an_error_or_changes_nothing(tmp_path, vectors):
    """Of the header, only fields that no ranking depends on may change without an error."""
    run = write_run(tmp_path, vectors[1], vectors[0][:70], 2)
    intact, rng, unnoticed = ranking_of(run, depth=9), random.Random(0), []
    for file in (run.query_embeddings("test"), run.passage_shard(0, 2), run.passage_shard(1, 2)):
        original = file.read_bytes()
        header = 8 + int.from_bytes(original[:8], "little")
        positions = [*rng.sample(range(header), 60), *rng.sample(range(header, len(original)), 60)]
        positions += range(len(original) - 400, len(original), 7)  # ids
        for position in positions:
            content = bytearray(original)
            content[position] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
            try:
                assert ranking_of(run, depth=9) == intact
                unnoticed.append(position)
                assert position < header
            except UserError as error:
                assert str(file) in str(error) or "different" in str(error)
                assert "\n" not in str(error)
        file.write_bytes(original)
    assert len(unnoticed) < 30


@pytest.mark.parametrize(
    ("size", "expected"),
    [(5, 5), ("5", 5), ("4GB", 4 << 30), ("4 GiB", 4 << 30), ("500 mb", 500 << 20), ("1.5k", 1536), ("2T", 2 << 40)],
)
def test_sizes_are_parsed(size, expected):
    assert parse_bytes(size) == expected
