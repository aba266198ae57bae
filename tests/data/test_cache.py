"""The cache of checked files: never stale, memory-mapped, shared by all processes, and with bounded memory."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from support.world import ROOT, passage, write_jsonl

from dpr_lightning.data import cache, convert, sources
from dpr_lightning.data.sources import open_corpus
from dpr_lightning.errors import UserError


def error_of(file):
    with pytest.raises(UserError) as caught:
        open_corpus(str(file))
    return str(caught.value)


def finished_caches():
    return set(Path(datasets.config.HF_DATASETS_CACHE).glob("dpr_lightning/*.json"))


def arrow_files():
    return set(Path(datasets.config.HF_DATASETS_CACHE).glob("dpr_lightning/*.arrow*"))


def arrow_of(source):
    return Path(source.rows.cache_files[0]["filename"])


def test_the_cache_is_reused_until_the_file_changes(tmp_path):
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1)])
    first, caches = open_corpus(str(file)), finished_caches()
    written = arrow_of(first).stat().st_mtime_ns
    again = open_corpus(str(file))
    assert (again.fingerprint, finished_caches()) == (first.fingerprint, caches)
    assert arrow_of(again).stat().st_mtime_ns == written
    size = file.stat().st_size
    changed = passage(1) | {"text": passage(1)["text"][::-1]}
    write_jsonl(file, [changed])
    os.utime(file, ns=(0, 1))
    assert file.stat().st_size == size
    assert open_corpus(str(file)).rows.to_list() == [changed]
    assert first.rows.to_list() == [passage(1)]


@pytest.mark.parametrize("clock_s", [0.0, 3.0], ids=["remembered", "not remembered"])
@pytest.mark.parametrize("replace", [False, True])
def test_a_change_with_the_same_size_and_mtime_is_noticed(tmp_path, monkeypatch, clock_s, replace):
    """`rsync -t` and restored backups do this."""
    monkeypatch.setattr(cache, "_CLOCK_S", clock_s)
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1)])
    os.utime(file, ns=(0, 1))
    time.sleep(0.05)
    open_corpus(str(file))
    assert (remembered(file) is not None) == (clock_s == 0)
    changed = passage(1) | {"text": passage(1)["text"][::-1]}
    if replace:
        write_jsonl(tmp_path / "new.jsonl", [changed]).replace(file)
    else:
        write_jsonl(file, [changed])
    os.utime(file, ns=(0, 1))
    assert open_corpus(str(file)).rows.to_list() == [changed]


def remembered(file):
    """Return what the cache remembers of a file, or None."""
    name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:32]
    memory = Path(datasets.config.HF_DATASETS_CACHE) / "dpr_lightning" / "sources" / f"{name}.json"
    return memory.read_text() if memory.exists() else None


def test_a_file_is_hashed_once_and_again_when_touched(tmp_path, monkeypatch):
    hashed, hash_file = [], cache.file_hash
    monkeypatch.setattr(cache, "_CLOCK_S", 0.0)
    monkeypatch.setattr(cache, "file_hash", lambda file: hashed.append(file) or hash_file(file))
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1)])
    time.sleep(0.05)
    first = open_corpus(str(file))
    assert hashed.count(file) == 1
    open_corpus(str(file))
    assert hashed.count(file) == 1
    file.touch()
    time.sleep(0.05)
    assert arrow_of(open_corpus(str(file))) == arrow_of(first)
    assert hashed.count(file) == 2


def test_equal_content_shares_a_cache_but_not_file_names(tmp_path, caplog):
    rows = [passage(1), {"docid": "x"}]
    for name in ("a.jsonl", "b.jsonl"):
        file = write_jsonl(tmp_path / name, rows)
        caplog.clear()
        source = open_corpus(str(file), skip_invalid=True)
        assert f"the first: {file}, row 2" in caplog.text
    assert arrow_of(source) == arrow_of(open_corpus(str(tmp_path / "a.jsonl"), skip_invalid=True))


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "facts"])
@pytest.mark.parametrize("where", [0.01, 0.3, 0.6, 0.95])
def test_a_damaged_cache_is_converted_again(tmp_path, caplog, damage, where):
    rows = [passage(i) for i in range(50)]
    file = write_jsonl(tmp_path / f"{damage}-{where}.jsonl", rows)
    first = open_corpus(str(file))
    damaged = arrow_of(first).with_suffix(".json") if damage == "facts" else arrow_of(first)
    content = bytearray(damaged.read_bytes())
    place = int(where * len(content))
    if damage in ("flip", "facts"):
        content[place] ^= 1
    elif damage == "truncate":
        del content[place:]
    else:
        content += b"\0" * 8
    damaged.unlink()  # or the bytes under the open mapping would change
    damaged.write_bytes(content)
    again = open_corpus(str(file))
    assert (again.fingerprint, again.rows.to_list()) == (first.fingerprint, rows)
    if damage != "facts":
        assert f"{damaged}: damaged, and converted again" in caplog.text


def test_a_complete_cache_is_opened_without_writing(tmp_path, monkeypatch):
    """A read-only cache folder is enough."""
    monkeypatch.setattr(cache, "_CLOCK_S", 0.0)
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1)])
    time.sleep(0.05)
    folder = arrow_of(open_corpus(str(file))).parent
    for lock in folder.glob("*.lock"):
        lock.unlink()
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    folder.chmod(0o555)
    try:
        open_corpus(str(file))
    finally:
        folder.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1)])
    (tmp_path / "no-folder").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "no-folder")
    message = error_of(file)
    assert message.startswith(f"{tmp_path}/no-folder/dpr_lightning: the cache of converted data cannot be used (")
    assert message.endswith("or set HF_DATASETS_CACHE to another folder.")


def test_a_file_that_changes_during_conversion_is_an_error(tmp_path, monkeypatch):
    file = write_jsonl(tmp_path / "c.jsonl", [passage(77)])

    def convert_and_change(*args):
        facts = convert.convert(*args)
        write_jsonl(file, [passage(2)])
        return facts

    monkeypatch.setattr(sources, "convert", convert_and_change)
    before = finished_caches(), arrow_files()
    assert error_of(file) == f"corpus: {file} changed during reading. Wait until it is complete."
    assert (finished_caches(), arrow_files()) == before


def test_batches_are_cut_by_bytes_as_well_as_by_rows(tmp_path, monkeypatch):
    rows = [{"docid": i, "title": "", "text": "é" * (i % 300)} for i in range(2500)]  # integers are checked row by row
    file = write_jsonl(tmp_path / "c.jsonl", [*rows, rows[0]])
    whole = open_corpus(str(file), skip_invalid=True)
    monkeypatch.setattr(convert, "_BATCH_BYTES", 50_000)
    copy = write_jsonl(tmp_path / "copy.jsonl", [*rows, rows[0], rows[1]])
    cut = open_corpus(str(copy), skip_invalid=True)
    assert (cut.fingerprint, cut.rows.to_list()) == (
        whole.fingerprint,
        [row | {"docid": str(row["docid"])} for row in rows],
    )
    for source, batches in ((whole, 3), (cut, 17)):
        with arrow_of(source).open("rb") as file, pa.ipc.open_stream(file) as stream:
            sizes = [batch.nbytes for batch in stream]
        assert len(sizes) == batches
        assert max(sizes) < 70_000 or source is whole


def test_a_row_too_large_for_arrow_is_named_or_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_ROW_BYTES", 1000)
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1), {"docid": "d", "text": "x" * 2000}])
    assert f'{file}, row 2 (docid "d"): the row has 2,040 bytes, more than 1,000.' in error_of(file)
    assert open_corpus(str(file), skip_invalid=True).rows.to_list() == [passage(1)]


def test_a_cached_file_that_was_deleted_is_made_again(tmp_path):
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1)])
    first = open_corpus(str(file))
    Path(first.rows.cache_files[0]["filename"]).unlink()
    assert open_corpus(str(file)).rows.to_list() == [passage(1)]


def test_skipping_and_not_skipping_do_not_share_a_cache(tmp_path):
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1), {"docid": "x"}])
    assert open_corpus(str(file), skip_invalid=True).skipped == 1
    assert "row 2" in error_of(file)


def test_a_failing_conversion_leaves_nothing_in_the_cache(tmp_path):
    rows = [{"docid": str(i), "text": ""} for i in range(3000)]
    file = write_jsonl(tmp_path / "c.jsonl", [*rows, {"docid": "bad"}])
    before = finished_caches(), arrow_files()
    for _ in range(2):
        assert "row 3001" in error_of(file)
        assert (finished_caches(), arrow_files()) == before


def test_a_conversion_that_was_killed_is_done_again(tmp_path):
    """A kill can leave an Arrow file without its facts, or half of one under its temporary name."""
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1), passage(2)])
    first = open_corpus(str(file))
    arrow = Path(first.rows.cache_files[0]["filename"])
    arrow.with_suffix(".arrow.tmp").write_bytes(arrow.read_bytes()[:100])
    arrow.with_suffix(".json").unlink()
    arrow.write_bytes(b"")
    again = open_corpus(str(file))
    assert (again.fingerprint, again.rows.to_list()) == (first.fingerprint, [passage(1), passage(2)])


def test_rows_are_memory_mapped(tmp_path):
    file = write_jsonl(tmp_path / "c.jsonl", [passage(i) for i in range(2000)])
    open_corpus(str(file))
    allocated = pa.total_allocated_bytes()
    rows = open_corpus(str(file)).rows
    assert rows.data.nbytes > 50_000
    assert pa.total_allocated_bytes() - allocated < 5_000
    maps = Path("/proc/self/maps")
    assert not maps.exists() or rows.cache_files[0]["filename"] in maps.read_text()


OPEN_IN_A_PROCESS = """
import re, sys
from pathlib import Path
from dpr_lightning.data.sources import open_corpus
sys.stdin.readline()
source = open_corpus(sys.argv[1])
print(source.fingerprint, len(source.rows), source.rows[len(source.rows) - 1]["docid"])
status = Path("/proc/self/status")
print(*re.findall(r"VmHWM:\\s+(\\d+)", status.read_text()) if status.exists() else ())
"""


def start_opening(file, cache_folder):
    return subprocess.Popen(
        [sys.executable, "-c", OPEN_IN_A_PROCESS, str(file)],
        cwd=ROOT,
        env={**os.environ, "HF_DATASETS_CACHE": str(cache_folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_open_at_once_agree(tmp_path):
    file = write_jsonl(tmp_path / "c.jsonl", [{"docid": f"d{i}", "text": "x" * 50} for i in range(20_000)])
    both = [start_opening(file, tmp_path / "cache") for _ in range(2)]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].splitlines()[0] for process in both]
    assert said == [f"{open_corpus(str(file)).fingerprint} 20000 d19999"] * 2
    assert len(list((tmp_path / "cache" / "dpr_lightning").glob("*.arrow*"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's peak of a process without its parent's"
)
def test_opening_takes_no_more_memory_for_five_times_the_rows(tmp_path):
    peaks = []
    for rows in (10_000, 50_000):  # the buffers are full after 40 MB, so 200 MB must need no more
        file = write_jsonl(tmp_path / f"{rows}.jsonl", ({"docid": f"d{i}", "text": "x" * 4000} for i in range(rows)))
        said = start_opening(file, tmp_path / "cache").communicate("go\n")[0].splitlines()
        assert said[0].endswith(f" {rows} d{rows - 1}")
        peaks.append(int(said[1]))
    assert peaks[1] < 1.15 * peaks[0]
