"""Shards: which rows each has, which do not fit together, and several files read as one corpus."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.embedding_files import numbers, write

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.embeddings.shards import (
    ShardedEmbeddings,
    complete_shards,
    open_passages,
    resolve_num_shards,
    shard_rows,
)
from dpr_lightning.errors import UserError
from dpr_lightning.run_dir import shard_name


@given(st.integers(1, 300), st.integers(0, 10**8))
def test_shards_have_every_row_once_and_sizes_differ_by_one(num_shards, rows):
    parts = [shard_rows(shard, num_shards, rows) for shard in range(num_shards)]
    assert parts[0].start == 0
    assert parts[-1].stop == rows
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("shard", [-1, 3])
def test_a_shard_that_does_not_exist_is_refused(shard):
    with pytest.raises(UserError, match=f"^shard: {shard} does not exist, num_shards=3 has 0 to 2"):
        shard_rows(shard, 3, 100)


def test_the_number_of_shards_follows_from_the_rows_unless_files_exist(tmp_path):
    assert [resolve_num_shards(tmp_path, "auto", rows) for rows in (0, 500, 1_100_000, 1_100_001)] == [1, 1, 1, 2]
    assert resolve_num_shards(tmp_path, 7, 500) == 7
    with pytest.raises(UserError, match="has no shards"):
        resolve_num_shards(tmp_path, "auto")
    (tmp_path / "03-of-05.safetensors.partial").touch()
    assert resolve_num_shards(tmp_path, "auto", 500) == resolve_num_shards(tmp_path, "auto") == 5
    (tmp_path / "00-of-01.safetensors").touch()
    with pytest.raises(UserError, match="mixes different numbers of shards"):
        resolve_num_shards(tmp_path, "auto", 500)
    for wrong in ("many", 0, True):
        with pytest.raises(UserError, match=f"^num_shards: {wrong!r} is not auto or a whole number"):
            resolve_num_shards(tmp_path, wrong, 500)


@given(st.integers(1, 2000))
def test_file_names_sort_in_shard_order(num_shards):
    names = [shard_name(shard, num_shards) for shard in range(num_shards)]
    assert names == sorted(names)
    assert len(set(names)) == num_shards


def shard(folder, number, num_shards=3, rows=(2, 3, 4), name=None, dim=5, **changes):
    """One of three shards, of 2, 3 and 4 rows."""
    path = folder / f"{name or shard_name(number, num_shards)}.safetensors"
    first_row = changes.pop("first_row", sum(rows[:number]))
    values = numbers(rows[number], dim)
    ids = [str(first_row + i) for i in range(rows[number])]
    part = {"shard": number, "num_shards": num_shards, "first_row": first_row}
    write(path, values, ids, **(part | changes))
    return path


def refusal(folder):
    with pytest.raises(UserError) as caught:
        open_passages(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_open_in_order_beside_other_files(tmp_path):
    for number in (2, 0, 1):
        shard(tmp_path, number)
    (tmp_path / "02-of-03.safetensors.partial").write_bytes(b"")
    (tmp_path / "notes.safetensors").write_bytes(b"")
    assert list(open_passages(tmp_path).docids([np.arange(9)])) == [[str(i) for i in range(9)]]


def test_a_folder_without_shards_is_refused_by_name(tmp_path):
    assert refusal(tmp_path / "none").startswith(
        f"{tmp_path}/none has no shards (NN-of-NN.safetensors). Run `encode.py`"
    )


def test_all_missing_shards_are_named(tmp_path):
    shard(tmp_path, 1)
    assert refusal(tmp_path).startswith(
        f"{tmp_path}: 00-of-03.safetensors, 02-of-03.safetensors missing. Run `encode.py`, which makes the rest"
    )


def test_different_numbers_of_shards_are_refused_by_name(tmp_path):
    shard(tmp_path, 0)
    shard(tmp_path, 1, num_shards=2)
    message = refusal(tmp_path)
    assert "different numbers of shards: 00-of-03.safetensors and 01-of-02.safetensors" in message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model_fingerprint": "other"}, "are by different models"),
        ({"dim": 4}, "are by different models"),
        ({"data_fingerprint": "other"}, "are of different data sets"),
    ],
    ids=["model", "dim", "data"],
)
def test_a_shard_that_does_not_belong_is_refused_by_name(tmp_path, changes, problem):
    first, other = shard(tmp_path, 0), shard(tmp_path, 1, **changes)
    shard(tmp_path, 2)
    assert refusal(tmp_path) == f"{first} and {other} {problem}. Encode one of them again."


def test_missing_rows_between_shards_are_named(tmp_path):
    shard(tmp_path, 0)
    second = shard(tmp_path, 1, first_row=3)
    shard(tmp_path, 2)
    assert refusal(tmp_path) == f"{second} begins at row 3, not 2. Encode it again."


def test_a_truncated_shard_is_refused_by_name(tmp_path):
    paths = [shard(tmp_path, number) for number in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    assert refusal(tmp_path).startswith(str(paths[1]))


def test_complete_shards_takes_any_ending(tmp_path):
    for name in ("01-of-02.trec", "00-of-02.trec", "00-of-03.text"):
        (tmp_path / name).write_text("")
    assert [file.name for file in complete_shards(tmp_path, ".trec", made_by="search.py")] == [
        "00-of-02.trec",
        "01-of-02.trec",
    ]


def test_queries_by_another_model_are_refused_by_name(tmp_path):
    a, b = shard(tmp_path, 0), shard(tmp_path, 1, model_fingerprint="other")
    with pytest.raises(UserError) as caught:
        ShardedEmbeddings([open_embeddings(a)]).check_queries(open_embeddings(b))
    assert str(caught.value).startswith(f"{b} and {a} are by different models")


def test_one_shard_alone_is_a_corpus_that_counts_from_its_first_row(tmp_path):
    passages = ShardedEmbeddings([open_embeddings(shard(tmp_path, 1))])
    assert (passages.rows, passages.dim, passages.dtype) == (3, 5, np.float32)
    assert list(passages.docids([np.array([2, 0])])) == [["4", "2"]]
    shard(tmp_path, 1, num_shards=1, name="00-of-01", shard=0)
    (tmp_path / "01-of-03.safetensors").unlink()
    assert refusal(tmp_path) == f"{tmp_path}/00-of-01.safetensors begins at row 2, not 0. Encode it again."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """23 rows of float16 in 7 shards, of which one is empty, and their numbers."""
    folder, values = tmp_path_factory.mktemp("corpus"), numbers(23, 4, "float16")
    bounds = [0, 4, 8, 8, 12, 16, 20, 23]
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        ids = [f"döc{row}" for row in range(start, stop)]
        path = folder / f"{shard_name(number, 7)}.safetensors"
        write(path, values[start:stop], ids, shard=number, num_shards=7, first_row=start)
    return open_passages(folder), values


@given(rows=st.lists(st.lists(st.integers(0, 22), unique=True, max_size=23), max_size=30))
def test_docids_are_those_of_their_rows_however_many_are_asked_for(corpus, rows):
    """46 rows or more are answered from a table of all docids."""
    rankings = [np.array(ranking, np.int64) for ranking in rows]
    assert list(corpus[0].docids(rankings)) == [[f"döc{row}" for row in ranking] for ranking in rows]


@given(rows=st.sets(st.integers(0, 22)), block=st.integers(1, 30))
def test_gathered_rows_and_blocks_are_the_stored_numbers(corpus, rows, block):
    passages, values = corpus
    np.testing.assert_array_equal(passages.gather(np.array(sorted(rows), np.int64)), values[sorted(rows)])
    np.testing.assert_array_equal(np.concatenate(list(passages.blocks(block))), values)


def test_a_docid_twice_in_a_ranking_is_refused_with_its_files(tmp_path):
    for number, ids in enumerate((["a", "b"], ["c", "b"], ["b", "d"])):
        path = tmp_path / f"0{number}-of-03.safetensors"
        write(path, numbers(2), ids, shard=number, num_shards=3, first_row=2 * number)
    passages = open_passages(tmp_path)
    assert list(passages.docids([np.array([0, 1, 2]), np.array([3])])) == [["a", "b", "c"], ["b"]]
    for times in (1, 9):  # decoded one by one, and from a table
        with pytest.raises(UserError) as caught:
            list(passages.docids([np.array([0, 3, 4])] * times))
        assert str(caught.value) == (
            f"{tmp_path}: docid b appears twice in 01-of-03.safetensors and 02-of-03.safetensors. Encode them again."
        )


def test_gathered_rows_of_a_damaged_chunk_are_refused(tmp_path):
    path = shard(tmp_path, 0, rows=(7, 0, 0))  # chunks of 3 rows
    content = bytearray(path.read_bytes())
    start = content.find(numbers(7)[4].tobytes())
    content[start] ^= 1
    path.write_bytes(content)
    passages = ShardedEmbeddings([open_embeddings(path)])
    np.testing.assert_array_equal(passages.gather(np.array([1, 6])), numbers(7)[[1, 6]])
    with pytest.raises(UserError, match="rows 3 to 5 are damaged"):
        passages.gather(np.array([1, 3]))


def test_damaged_ids_of_any_shard_are_an_error_before_a_docid(tmp_path):
    paths = [shard(tmp_path, number) for number in range(3)]
    content = bytearray(paths[1].read_bytes())
    content[-1] ^= 1
    paths[1].write_bytes(content)
    with pytest.raises(UserError, match=r"01-of-03\.safetensors: the ids are damaged"):
        list(open_passages(tmp_path).docids([np.array([0, 3])]))
