"""The partial file: continued after its last intact chunk, refused with another header, open in one process."""

import os
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.embedding_files import IDS, identity, numbers, write

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.errors import UserError


@pytest.fixture
def file(tmp_path):
    """7 rows of 5 numbers in chunks of 3."""
    write(tmp_path / "00-of-01.safetensors", numbers(7), IDS)
    return tmp_path / "00-of-01.safetensors"


def begin(path, array, ids, rows, chunk_size=3):
    """Leave a partial file with `rows` rows."""
    with EmbeddingWriter(
        path, identity(len(array)), ids, dim=array.shape[1], dtype=str(array.dtype), chunk_size=chunk_size
    ) as writer:
        for row in range(0, rows, chunk_size):
            writer.append(array[row : row + chunk_size])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 25), st.integers(1, 7), st.floats(0, 1), st.sampled_from(["float32", "float16"]))
def test_a_partial_truncated_anywhere_is_continued_to_same_bytes(tmp_path_factory, rows, chunk_size, part, dtype):
    folder = tmp_path_factory.mktemp("file")
    array, ids = numbers(rows, 5, dtype), [f"d{i}" for i in range(rows)]
    write(folder / "whole.safetensors", array, ids, chunk_size=chunk_size)
    whole = (folder / "whole.safetensors").read_bytes()

    begin(folder / "x.safetensors", array, ids, rows, chunk_size)
    partial = folder / "x.safetensors.partial"
    content = partial.read_bytes()
    assert len(whole) - len(content) == 8 * (rows + 1) + len("".join(ids))
    kept = int(part * len(content))
    partial.write_bytes(content[:kept])
    first = write(folder / "x.safetensors", array, ids, chunk_size=chunk_size)

    before_rows = len(content) - array.nbytes
    kept_rows = max(0, kept - before_rows) // (5 * array.itemsize)
    assert first == (rows if kept_rows == rows else kept_rows // chunk_size * chunk_size)
    assert (folder / "x.safetensors").read_bytes() == whole
    assert not partial.exists()


def test_a_partial_with_half_its_ids_is_finished_to_same_bytes(file):
    whole = file.read_bytes()
    file.rename(file.with_name(file.name + ".partial"))
    with file.with_name(file.name + ".partial").open("r+b") as partial:
        partial.truncate(len(whole) - 20)
    assert write(file, numbers(7), IDS) == 7
    assert file.read_bytes() == whole


def test_a_damaged_chunk_of_a_partial_is_written_again(file, tmp_path):
    again = tmp_path / "again.safetensors"
    begin(again, numbers(7), IDS, 7)
    partial = tmp_path / "again.safetensors.partial"
    content = bytearray(partial.read_bytes())
    content[-2 * 20] ^= 1  # row 5, in the second chunk
    partial.write_bytes(content)
    assert write(again, numbers(7), IDS) == 3
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"model_fingerprint": "m1"},
        {"data_fingerprint": "x1"},
        {"precision": "bf16"},
        {"tokens_per_batch": 64},
        {"side": "query"},
        {"first_row": 4},
        {"shard": 0},
        {"chunk_size": 2},
    ],
    ids=str,
)
def test_a_partial_with_another_header_is_refused_and_kept(tmp_path, changes):
    path, partial = tmp_path / "x.safetensors", tmp_path / "x.safetensors.partial"
    begin(path, numbers(7), IDS, 3)
    content = partial.read_bytes()
    with pytest.raises(
        UserError, match=r"^\S+/x\.safetensors\.partial was begun with another model, data set or setting\. Delete it"
    ):
        write(path, numbers(7), IDS, **changes)
    assert partial.read_bytes() == content
    assert write(path, numbers(7), IDS, overwrite=True, **changes) == 0
    open_embeddings(path).verify()


@pytest.mark.parametrize(
    "array", [numbers(7, dtype="float16"), numbers(7, dim=4), numbers(6)], ids=["dtype", "dim", "rows"]
)
def test_a_partial_of_another_shape_is_refused(tmp_path, array):
    begin(tmp_path / "x.safetensors", numbers(7), IDS, 3)
    with pytest.raises(UserError, match="was begun with another"):
        write(tmp_path / "x.safetensors", array, IDS[: len(array)])


def test_a_finished_file_is_replaced_at_the_end_with_overwrite_only(file):
    old = file.read_bytes()
    with pytest.raises(UserError, match=r"00-of-01\.safetensors is finished already"):
        write(file, numbers(7), IDS)
    begun = EmbeddingWriter(file, identity(7), IDS, dim=5, dtype="float32", chunk_size=3, overwrite=True)
    with begun as writer:
        writer.append(numbers(7)[:3] + 1)
        assert file.read_bytes() == old
        for row in (3, 6):
            writer.append(numbers(7)[row : row + 3] + 1)
        writer.finish()
    np.testing.assert_array_equal(open_embeddings(file).array, numbers(7) + 1)


def test_one_writer_has_a_file_open_at_a_time(tmp_path):
    path = tmp_path / "x.safetensors"
    begin(path, numbers(7), IDS, 3)
    with EmbeddingWriter(path, identity(7), IDS, dim=5, dtype="float32", chunk_size=3) as first:
        with pytest.raises(
            UserError, match=r"x\.safetensors is being written by another process\. Wait for it to end, or"
        ):
            write(path, numbers(7), IDS, overwrite=True)
        assert first.done == 3
    assert write(path, numbers(7), IDS) == 3


def test_rows_that_are_not_a_chunk_are_refused(tmp_path):
    with EmbeddingWriter(tmp_path / "x", identity(7), IDS, dim=5, dtype="float32", chunk_size=3) as writer:
        with pytest.raises(ValueError, match="2 rows are not a chunk, at row 0 of 7"):
            writer.append(numbers(2))
        with pytest.raises(ValueError, match="0 rows of 7 are written"):
            writer.finish()


# Disks


def test_a_full_disk_is_one_line_and_the_rest_is_written_later(file, tmp_path):
    """A limit on file sizes simulates the full disk; it falls into the second chunk, then into the ids."""
    again, whole = tmp_path / "again.safetensors", file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    begin(again, numbers(7), IDS, 0)
    begun = again.with_name("again.safetensors.partial").stat().st_size
    for room, written in ((begun - 1, 0), (begun + 5 * 20, 3), (len(whole) - 1, 7)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            with pytest.raises(UserError) as caught:
                write(again, numbers(7), IDS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        remedy = "Free some space, or correct run_dir or its permissions; the same command then continues."
        assert str(caught.value) == f"{again}.partial cannot be written: File too large. {remedy}"
        assert sorted(tmp_path.iterdir()) == [file, again.with_name("again.safetensors.partial")]
        with EmbeddingWriter(again, identity(7), IDS, dim=5, dtype="float32", chunk_size=3) as writer:
            assert writer.done == written
    assert write(again, numbers(7), IDS) == 7
    assert again.read_bytes() == file.read_bytes() == whole


@pytest.mark.parametrize("rows", [3, 7])
@pytest.mark.parametrize("change", ["cut", "removed"])
def test_a_partial_changed_meanwhile_is_continued_where_intact(file, tmp_path, rows, change):
    again = tmp_path / "again.safetensors"
    partial = tmp_path / "again.safetensors.partial"
    with EmbeddingWriter(again, identity(7), IDS, dim=5, dtype="float32", chunk_size=3) as writer:
        for row in range(0, rows, 3):
            writer.append(numbers(7)[row : row + 3])
        if change == "cut":
            os.truncate(partial, partial.stat().st_size - 30)
        else:
            partial.unlink()
        problem = "was changed by another program meanwhile" if change == "cut" else "cannot be written: No such file"
        with pytest.raises(UserError, match=rf"again\.safetensors\.partial {problem}"):
            writer.append(numbers(7)[3:6]) if rows == 3 else writer.finish()
    assert write(again, numbers(7), IDS) == (3 if (rows, change) == (7, "cut") else 0)
    assert again.read_bytes() == file.read_bytes()


def test_a_folder_without_write_permission_is_named(tmp_path):
    folder = tmp_path / "passage"
    folder.mkdir(mode=0o500)
    user = os.geteuid()
    if user == 0:  # may write everywhere
        os.seteuid(65_534)
    try:
        with pytest.raises(
            (UserError, PermissionError), match=f"{folder}.*Permission denied|Permission denied.*{folder}"
        ):
            write(folder / "x.safetensors", numbers(7), IDS)
    finally:
        os.seteuid(user)
    assert list(folder.iterdir()) == []
