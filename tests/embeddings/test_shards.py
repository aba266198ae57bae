"""How a corpus is cut into shards, and what is said of a folder whose shards do not fit together."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.embedding_files import numbers, write

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.embeddings.shards import check_same_model, complete_shards, open_shards, shard_name, shard_rows
from dpr_lightning.errors import UserError


@given(st.integers(1, 300), st.integers(0, 10**8))
def test_shards_hold_every_row_once_in_order_and_differ_by_one_row_at_most(num_shards, rows):
    parts = [shard_rows(shard, num_shards, rows) for shard in range(num_shards)]
    assert parts[0].start == 0
    assert parts[-1].stop == rows
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("shard", [-1, 3])
def test_a_shard_that_does_not_exist_is_refused(shard):
    with pytest.raises(UserError, match=f"^shard: {shard} does not exist, num_shards=3 has 0 to 2"):
        shard_rows(shard, 3, 100)


@given(st.integers(1, 2000))
def test_names_sort_as_shards_do(num_shards):
    names = [shard_name(shard, num_shards) for shard in range(num_shards)]
    assert names == sorted(names)
    assert len(set(names)) == num_shards


def shard(folder, number, num_shards=3, rows=(2, 3, 4), name=None, dim=5, **changes):
    """One of three shards, of 2, 3 and 4 rows."""
    path = folder / f"{name or shard_name(number, num_shards)}.safetensors"
    first_row = changes.pop("first_row", sum(rows[:number]))
    values = numbers(rows[number], dim)
    ids = [str(first_row + i) for i in range(rows[number])]
    write(path, values, ids, shard=number, num_shards=num_shards, first_row=first_row, **changes)
    return path


def refusal(folder):
    with pytest.raises(UserError) as caught:
        open_shards(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_open_in_order_beside_other_files(tmp_path):
    for number in (2, 0, 1):
        shard(tmp_path, number)
    (tmp_path / "02-of-03.safetensors.partial").write_bytes(b"")
    (tmp_path / "notes.safetensors").write_bytes(b"")
    assert [docid for part in open_shards(tmp_path) for docid in part.ids] == [str(i) for i in range(9)]


def test_a_folder_without_shards_is_named(tmp_path):
    assert refusal(tmp_path / "none").startswith(
        f"{tmp_path}/none holds no shards (NN-of-NN.safetensors). Make them with"
    )


def test_all_missing_shards_are_named(tmp_path):
    shard(tmp_path, 1)
    assert refusal(tmp_path).startswith(
        f"{tmp_path}: 00-of-03.safetensors, 02-of-03.safetensors missing. Make the rest"
    )


def test_shards_of_two_cuts_are_named(tmp_path):
    shard(tmp_path, 0)
    shard(tmp_path, 1, num_shards=2)
    message = refusal(tmp_path)
    assert "different cuts: 00-of-03.safetensors and 01-of-02.safetensors" in message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model_fingerprint": "other"}, "are by different models"),
        ({"dim": 4}, "are by different models"),
        ({"data_fingerprint": "other"}, "are of different data sets"),
    ],
    ids=["model", "dim", "data"],
)
def test_a_shard_that_does_not_belong_is_named_with_the_first(tmp_path, changes, problem):
    first, other = shard(tmp_path, 0), shard(tmp_path, 1, **changes)
    shard(tmp_path, 2)
    assert refusal(tmp_path) == f"{first} and {other} {problem}. Encode one of them again."


def test_a_gap_between_shards_is_told_by_its_rows(tmp_path):
    shard(tmp_path, 0)
    second = shard(tmp_path, 1, first_row=3)
    shard(tmp_path, 2)
    assert refusal(tmp_path) == f"{second} begins at row 3, not 2. Encode it again."


def test_a_shard_cut_short_is_named(tmp_path):
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


def test_queries_by_another_model_are_named(tmp_path):
    a, b = shard(tmp_path, 0), shard(tmp_path, 1, model_fingerprint="other")
    with pytest.raises(UserError) as caught:
        check_same_model(open_embeddings(a), open_embeddings(b))
    assert str(caught.value).startswith(f"{a} and {b} are by different models")
