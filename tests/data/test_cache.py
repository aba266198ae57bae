"""The cache of checked files: never wrong, mapped rather than loaded, one for all processes, of bounded memory."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from support.world import ROOT, passage, write_jsonl

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


def test_the_cache_is_used_again_and_renewed_when_the_file_changes(tmp_path):
    file = write_jsonl(tmp_path / "c.jsonl", [passage(1)])
    first, caches = open_corpus(str(file)), finished_caches()
    held = Path(first.rows.cache_files[0]["filename"])
    written = held.stat().st_mtime_ns
    again = open_corpus(str(file))
    assert (again.fingerprint, finished_caches(), held.stat().st_mtime_ns) == (first.fingerprint, caches, written)
    size = file.stat().st_size
    changed = passage(1) | {"text": passage(1)["text"][::-1]}
    write_jsonl(file, [changed])
    os.utime(file, ns=(0, 1))
    assert file.stat().st_size == size
    assert open_corpus(str(file)).rows.to_list() == [changed]
    assert first.rows.to_list() == [passage(1)]


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
    """What a kill can leave: the Arrow file without its facts, or half of one under its temporary name."""
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
    held = pa.total_allocated_bytes()
    rows = open_corpus(str(file)).rows
    assert rows.data.nbytes > 50_000
    assert pa.total_allocated_bytes() - held < 5_000
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
def test_opening_takes_no_more_memory_for_ten_times_the_rows(tmp_path):
    peaks = []
    for rows in (20_000, 200_000):
        file = write_jsonl(tmp_path / f"{rows}.jsonl", ({"docid": f"d{i}", "text": "x" * 400} for i in range(rows)))
        said = start_opening(file, tmp_path / "cache").communicate("go\n")[0].splitlines()
        assert said[0].endswith(f" {rows} d{rows - 1}")
        peaks.append(int(said[1]))
    assert peaks[1] < 1.3 * peaks[0]
