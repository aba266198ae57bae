"""A ranking's provenance: read back as written, merged over shards, compared with the embeddings of its run folder."""

import functools
import json
import logging
import os
import random
from dataclasses import replace
from pathlib import Path

import faiss
import pytest
from support.embedding_files import numbers, write_corpus, write_embeddings

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.embeddings.shards import ShardedEmbeddings, open_passages
from dpr_lightning.errors import UserError
from dpr_lightning.files import file_hash
from dpr_lightning.retrieval.provenance import (
    check_against_embeddings,
    describe_search,
    merged_provenance,
    provenance_file,
    read_provenance,
    write_provenance,
)
from dpr_lightning.retrieval.stage import reduce, search
from dpr_lightning.run_dir import RunDir


def warnings_of(caplog):
    """Return the warnings, whatever level an earlier test has set for the log."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def run(tmp_path):
    """A run folder with embeddings of 10 passages in 2 shards and of 3 queries, and a ranking."""
    run = RunDir(tmp_path / "run")
    write_corpus(run.passage_shards, numbers(10), 2)
    write_queries(run)
    run.ranking("test").parent.mkdir(parents=True)
    run.ranking("test").write_text("q0 Q0 d1 1 1 dpr_lightning-m\n")
    return run


def write_queries(run, seed_rows=3, **changes):
    path = run.query_embeddings("test")
    path.unlink(missing_ok=True)
    write_embeddings(path, numbers(seed_rows), [f"q{i}" for i in range(seed_rows)], side="query", **changes)


def described(run, depth=5, **options):
    queries = open_embeddings(run.query_embeddings("test"))
    return describe_search(queries, open_passages(run.passage_shards), depth=depth, **options)


def record(run, **options):
    write_provenance(run.ranking("test"), described(run, **options))
    return read_provenance(run.ranking("test"))


def test_what_is_written_reads_back(run):
    provenance = record(run, index="HNSW32,Flat")
    assert provenance == described(run, index="HNSW32,Flat")
    assert (provenance.model, provenance.queries, provenance.passages) == ("m", "d", "d")
    assert (provenance.depth, provenance.index) == (5, "HNSW32,Flat")
    assert set(provenance.embeddings) == {
        "query/test.safetensors",
        "passage/00-of-02.safetensors",
        "passage/01-of-02.safetensors",
    }
    assert json.loads(provenance_file(run.ranking("test")).read_text())["xxh3"] == file_hash(run.ranking("test"))


@pytest.mark.parametrize(("depth", "recorded"), [(9, 9), (10, None), (11, None)])
def test_the_depth_of_a_full_ranking_is_unlimited(run, depth, recorded):
    assert record(run, depth=depth).depth == recorded


def test_a_ranking_that_was_changed_has_no_provenance(run, caplog):
    record(run)
    assert not warnings_of(caplog)
    run.ranking("test").write_text("q0 Q0 d2 1 1 t\n")
    assert read_provenance(run.ranking("test")) is None
    assert "test.trec is not the file that test.trec.json describes" in caplog.text


def test_an_unknown_provenance_replaces_a_known_one(run, caplog):
    record(run)
    write_provenance(run.ranking("test"), None)
    assert read_provenance(run.ranking("test")) is None
    assert not warnings_of(caplog)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "dpr_lightning.ranking/9"}', None])
def test_a_damaged_provenance_is_refused(run, text):
    record(run)
    file = provenance_file(run.ranking("test"))
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"from_the_future": 1}) if text is None else text)
    with pytest.raises(UserError, match=r"test.trec.json is damaged, or written by a newer version"):
        read_provenance(run.ranking("test"))


def test_a_flipped_bit_of_a_provenance_is_an_error_or_changes_nothing(run):
    intact, file = record(run, index="HNSW32,Flat"), provenance_file(run.ranking("test"))
    original, rng, unnoticed = file.read_bytes(), random.Random(0), 0
    for position in range(len(original)):
        content = bytearray(original)
        content[position] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        try:
            assert read_provenance(run.ranking("test")) == intact
            unnoticed += 1
        except UserError as error:
            assert "test.trec.json is damaged" in str(error)
    assert unnoticed < 20  # white space


def shard_rankings(run, depths, **changes):
    files = []
    for shard, depth in enumerate(depths):
        file = run.shard_ranking("test", shard, len(depths))
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"q0 Q0 d{shard} 1 1 t\n")
        passages = ShardedEmbeddings([open_embeddings(run.passage_shard(shard, len(depths)))])
        part = describe_search(open_embeddings(run.query_embeddings("test")), passages, depth=depth)
        write_provenance(file, replace(part, **changes) if shard else part)
        files.append(file)
    return files


@pytest.mark.parametrize(
    ("depths", "depth", "merged"), [((3, 4), 9, 3), ((4, 4), 2, 2), ((5, 5), 8, 8), ((5, 2), 8, 2), ((3, 99), 3, 3)]
)
def test_a_merged_ranking_is_exact_as_deep_as_its_shards(run, depths, depth, merged):
    result = merged_provenance(shard_rankings(run, depths), depth=depth)
    assert result == replace(described(run), depth=merged)


@pytest.mark.parametrize("what", ["model", "queries", "passages", "index"])
def test_shards_of_different_searches_are_refused(run, what):
    with pytest.raises(UserError, match=rf"00-of-02.trec and .*01-of-02.trec are of different {what}"):
        merged_provenance(shard_rankings(run, (3, 3), **{what: "other"}), depth=3)


def test_a_shard_that_was_changed_is_not_merged(run):
    files = shard_rankings(run, (3, 3))
    files[1].write_text("q0 Q0 d1 1 9 t\n")
    with pytest.raises(UserError, match=r"01-of-02.trec is not the file that 01-of-02.trec.json describes"):
        reduce(run, split="test", depth=3, overwrite=True)
    search(run, split="test", shard=1, num_shards=2, depth=3, overwrite=True)
    assert read_provenance(files[1]).depth == 3


@pytest.mark.parametrize("stage", ["search", "reduce"])
def test_a_kill_between_ranking_and_provenance_loses_neither(run, stage, caplog):
    """The process dies when the ranking, or its provenance, takes its final name."""
    path = run.ranking("test")
    shards = {f"shard {i}": functools.partial(search, run, split="test", shard=i, num_shards=2) for i in range(2)}
    for each in shards.values():
        each(depth=3)
    again = functools.partial({"search": search, "reduce": reduce}[stage], run, split="test", depth=3)
    for last in (path, provenance_file(path)):
        for file in (path, provenance_file(path)):
            file.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            faiss.omp_set_num_threads(1)  # the threads are the parent's
            rename = Path.replace

            def die_after(self, target, last=last, rename=rename):
                rename(self, target)
                if target == last:
                    os._exit(9)

            Path.replace = die_after
            try:
                again()
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        if not path.exists():
            again()
        assert read_provenance(path) == described(run, depth=3)
    assert not warnings_of(caplog)


def test_merging_shards_of_uneven_depth_names_the_certain_depth(run, caplog):
    for shard, depth in enumerate((4, 2)):
        search(run, split="test", shard=shard, num_shards=2, depth=depth)
    reduce(run, split="test", depth=4, overwrite=True)
    assert warnings_of(caplog) == ["depth=4, but a shard was searched to 2 only: deeper ranks are not certain"]


def test_one_unknown_shard_makes_the_merged_provenance_unknown(run):
    files = shard_rankings(run, (3, 3))
    provenance_file(files[1]).unlink()
    assert merged_provenance(files, depth=3) is None


def test_a_ranking_of_the_run_s_embeddings_passes(run, caplog):
    check_against_embeddings(run.ranking("test"), record(run))
    check_against_embeddings(run.ranking("test"), None, tag="dpr_lightning-m")
    check_against_embeddings(run.ranking("test"), None, tag="bm25")
    assert not warnings_of(caplog)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"model": "m2-new"}, "another model"), ({"model": "other"}, "another model"), ({"data": "x"}, "other data")],
)
def test_a_ranking_of_other_queries_or_model_is_refused(run, changes, problem):
    provenance = record(run)
    if changes == {"model": "m2-new"}:
        provenance = replace(provenance, model="m2-old")
    write_queries(run, **changes)
    with pytest.raises(UserError, match=rf"test.trec was made with {problem} than .*query/test.safetensors"):
        check_against_embeddings(run.ranking("test"), provenance)


@pytest.mark.parametrize(("changes", "problem"), [({"model": "other"}, "another model"), ({"data": "x"}, "other data")])
def test_a_ranking_of_other_passages_is_refused(run, changes, problem):
    provenance = record(run)
    for file in run.passage_shards.iterdir():
        file.unlink()
    write_corpus(run.passage_shards, numbers(10), 3, dict.fromkeys(range(3), changes))
    with pytest.raises(UserError, match=rf"test.trec was made with {problem} than .*passage/00-of-03.safetensors"):
        check_against_embeddings(run.ranking("test"), provenance)


def test_the_tag_of_an_older_version_s_ranking_tells_the_model(run):
    with pytest.raises(UserError, match=r"was made with another model than .*query/test.safetensors"):
        check_against_embeddings(run.ranking("test"), None, tag="dpr_lightning-0123abcd")


def test_embeddings_encoded_again_are_warned_of(run, caplog):
    provenance = record(run)
    run.query_embeddings("test").unlink()
    array = numbers(3) + 1
    write_embeddings(run.query_embeddings("test"), array, ["q0", "q1", "q2"], side="query")
    check_against_embeddings(run.ranking("test"), provenance)
    (warning,) = warnings_of(caplog)
    assert "test.trec is older than" in warning
    assert "query/test.safetensors, which was encoded again since" in warning


def test_rankings_elsewhere_and_embeddings_deleted_are_not_compared(run, tmp_path):
    provenance = replace(record(run), model="other")
    elsewhere = tmp_path / "elsewhere.trec"
    check_against_embeddings(elsewhere, provenance)
    run.query_embeddings("test").unlink()
    for file in run.passage_shards.iterdir():
        file.unlink()
    check_against_embeddings(run.ranking("test"), provenance)
