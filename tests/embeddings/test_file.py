"""The embedding file: round trip, layout, damage."""

import itertools
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from support.embedding_files import IDS, identity, numbers, write

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.embeddings.ids import Ids
from dpr_lightning.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path):
    """7 rows of 5 numbers in chunks of 3."""
    write(tmp_path / "00-of-01.safetensors", numbers(7), IDS)
    return tmp_path / "00-of-01.safetensors"


def refusal(path):
    with pytest.raises(UserError) as caught:
        open_embeddings(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(texts, max_size=20),
    dim=st.integers(1, 9),
    dtype=st.sampled_from(["float32", "float16"]),
    chunk_size=st.integers(1, 25),
    from_arrow=st.booleans(),
)
def test_reading_returns_what_was_written(tmp_path_factory, ids, dim, dtype, chunk_size, from_arrow):
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    array = numbers(len(ids), dim, dtype)
    write(path, array, Ids.of_column(pa.chunked_array([ids], "string")) if from_arrow else ids, chunk_size=chunk_size)

    found = open_embeddings(path)
    assert found.identity == identity(len(ids))
    assert list(found.ids) == ids
    assert found.ids[1:-1] == ids[1:-1]
    assert found.array.dtype == dtype
    np.testing.assert_array_equal(found.array, array, strict=True)
    found.verify()
    assert [p.name for p in path.parent.iterdir()] == [path.name]

    with safe_open(path, "np") as theirs:
        np.testing.assert_array_equal(theirs.get_tensor("embeddings"), array, strict=True)
        offsets, utf8 = theirs.get_tensor("id_offsets"), theirs.get_tensor("id_bytes").tobytes()
        assert [utf8[a:b].decode() for a, b in itertools.pairwise(offsets)] == ids
        metadata = theirs.metadata()
    assert metadata.pop("format").startswith("dpr_lightning")
    assert metadata.pop("chunk_size") == str(chunk_size)
    assert metadata == {key: str(value) for key, value in vars(identity(len(ids))).items()}


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.lists(texts, max_size=5), min_size=1, max_size=4),
    cut=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    kind=st.sampled_from(["string", "large_string"]),
)
def test_ids_of_a_slice_of_an_arrow_column_are_its_strings(pieces, cut, kind):
    column = pa.chunked_array(pieces, kind).slice(min(cut), max(cut) - min(cut))
    ids = Ids.of_column(column)
    assert list(ids) == column.to_pylist()
    assert ids.checksum() == Ids.of(column.to_pylist()).checksum()


def test_embeddings_are_mapped_from_an_aligned_offset(file):
    array = open_embeddings(file).array
    assert isinstance(array, np.memmap)
    assert array.offset % 64 == 0


def test_an_id_beyond_the_last_row_is_an_index_error(file):
    ids = open_embeddings(file).ids
    assert ids[-1] == IDS[-1]
    with pytest.raises(IndexError):
        ids[len(IDS)]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_flipped_bit_is_an_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    array = numbers(7)
    write(path, array, IDS)
    content = bytearray(path.read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    position = data.draw(st.integers(start, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged") as caught:
        open_embeddings(path).verify()
    assert str(caught.value).startswith(str(path))
    row = (position - (len(content) - len("".join(IDS).encode()) - 64 - 140)) // 20
    if 0 <= row < 7:
        assert f"rows {row // 3 * 3} to {min(row // 3 * 3 + 2, 6)} are damaged" in str(caught.value)


def id_section(path):
    """Where the offsets and the bytes of the ids begin, and the content of the file."""
    content = bytearray(path.read_bytes())
    id_bytes = len("".join(IDS).encode())
    return len(content) - id_bytes - 8 * (len(IDS) + 1), len(content) - id_bytes, content


def test_no_id_is_returned_from_damaged_ids(file):
    first_offset, _, original = id_section(file)
    for position in range(first_offset, len(original)):
        content = bytearray(original)
        content[position] ^= 1 << position % 8
        file.write_bytes(content)
        for use in (list, len, lambda ids: ids[0], lambda ids: ids.at(np.array([1, 2]))):
            with pytest.raises(UserError, match=r"00-of-01\.safetensors: the ids are damaged"):
                use(open_embeddings(file).ids)


@pytest.mark.parametrize(
    "offsets", [[0, 9, 2], [0, 2, 10**9], [-1, 2, 3], [1, 2, 3], [0, 2**63 - 1, -(2**63)]], ids=str
)
def test_impossible_offsets_are_damage_even_with_their_checksum(file, offsets):
    first_offset, first_byte, content = id_section(file)
    values = np.frombuffer(bytes(content[first_offset:first_byte]), "<i8").copy()
    values[[0, 1, -1]] = offsets
    content[first_offset:first_byte] = values.tobytes()
    table = first_offset - numbers(7).nbytes - 8 * 4
    checksum = Ids(values, np.frombuffer(bytes(content[first_byte:]), np.uint8)).checksum()
    content[table + 8 * 3 : table + 8 * 4] = struct.pack("<Q", checksum)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"the ids are damaged \(their offsets are impossible\). Delete the file"):
        open_embeddings(file).ids  # noqa: B018


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 30), block=st.integers(1, 40), chunk_size=st.integers(1, 12), bad=st.integers(0, 29))
def test_blocks_of_any_size_yield_all_rows_and_notice_damage(tmp_path_factory, rows, block, chunk_size, bad):
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    array = numbers(rows)
    write(path, array, [str(i) for i in range(rows)], chunk_size=chunk_size)
    found = open_embeddings(path)
    blocks = list(found.blocks(block))
    assert [len(b) for b in blocks[:-1]] == [block] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate(blocks), array, strict=True)
    np.memmap(path, "<f4", "r+", found.array.offset, array.shape)[bad % rows] += 1
    with pytest.raises(UserError, match="damaged"):
        list(open_embeddings(path).blocks(block))


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused_by_name(tmp_path_factory, part):
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    write(path, numbers(7), IDS)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refusal(path)


def test_a_file_of_another_size_is_refused_with_both_sizes(file):
    content = file.read_bytes()
    for wrong in (content[:-1], content + b"x"):
        file.write_bytes(wrong)
        assert f"{len(wrong):,} bytes, not {len(content):,}" in refusal(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY\x01\x00v\x00{'descr'", b"{}" * 50, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 1) + b"1"],
)
def test_a_foreign_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    assert "is not an embedding file" in refusal(tmp_path / "x.safetensors")


def test_a_missing_file_is_refused_by_name(tmp_path):
    assert "does not exist" in refusal(tmp_path / "x.safetensors")


def test_safetensors_of_a_model_are_refused_by_name(tiny_model):
    assert "is not an embedding file" in refusal(tiny_model / "model.safetensors")


def without(key):
    return lambda header: header["__metadata__"].pop(key)


def with_value(key, value):
    return lambda header: header["__metadata__"].update({key: value})


@pytest.mark.parametrize(
    "damage",
    [
        *map(without, ["format", "chunk_size", "side", "rows", "model_fingerprint"]),
        *[
            with_value(key, value)
            for key, value in [("format", "other/1"), ("rows", "6"), ("rows", "x"), ("spare", "1")]
        ],
        *[with_value("chunk_size", value) for value in ("0", "2", "-3")],
        lambda header: header.pop("__metadata__"),
        lambda header: header.pop("id_bytes"),
        lambda header: header["embeddings"].update(dtype="F16"),
        lambda header: header["embeddings"].update(dtype="BF16"),
        lambda header: header["embeddings"].update(shape=[7, 4]),
        lambda header: header["embeddings"].update(shape=[35]),
        lambda header: header["id_offsets"].update(data_offsets=[0, 64]),
    ],
)
def test_a_damaged_header_is_refused_by_name(file, damage):
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    damage(header)
    text = json.dumps(header).encode().ljust(length)
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    assert "is not an embedding file" in refusal(file)


def test_the_script_prints_a_line_per_file_and_fails_on_damage(file):
    write(file.with_name("query.safetensors"), numbers(2), ["q1", "q2"])
    command = [sys.executable, ROOT / "scripts" / "verify_embeddings.py"]
    result = subprocess.run([*command, file.parent], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{file}: 7 rows, intact\n{file.with_name('query.safetensors')}: 2 rows, intact\n"

    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = subprocess.run([*command, file, file.with_name("query.safetensors")], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout == f"{file.with_name('query.safetensors')}: 2 rows, intact\n"
    assert result.stderr == f"{file}: the ids are damaged (their checksum differs). Delete the file and encode again.\n"
