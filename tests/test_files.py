"""Output appears whole under its final name, or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.world import ROOT

from dpr_lightning.errors import UserError
from dpr_lightning.files import (
    atomic_folder,
    atomic_path,
    atomic_write,
    matching,
    refuse_overwrite,
    size_text,
    write_json,
)


class StopError(Exception):
    """Stands for whatever ends a write."""


@pytest.mark.parametrize(
    ("size", "text"),
    [(5, "5 bytes"), (5 << 10, "5 KB"), (150 << 20, "150 MB"), (1 << 30, "1.00 GB"), (9 << 38, "2,304.00 GB")],
)
def test_a_size_has_the_unit_that_fits(size, text):
    assert size_text(size) == text


def test_a_text_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as file:
        file.write("é\n")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"\xc3\xa9\n"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_earlier_text_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    with pytest.raises(StopError), atomic_write(path) as file:
        file.write("half")
        raise StopError
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_the_earlier_file_is_not_disturbed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    with path.open() as reader:
        with atomic_write(path) as file:
            file.write("later")
        assert (reader.read(), path.read_text()) == ("earlier", "later")


def test_a_complete_folder_replaces_the_earlier_one(tmp_path):
    path = tmp_path / "new" / "model"
    for name in ("first", "second"):
        with atomic_folder(path) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / name).write_text(name)
            assert not (path / "sub" / name).exists()
        assert [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()] == [f"sub/{name}"]
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_earlier_folder_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "earlier").touch()
    with pytest.raises(StopError), atomic_folder(path) as folder:
        (folder / "half").touch()
        raise StopError
    assert list(tmp_path.iterdir()) == [path]
    assert list(path.iterdir()) == [path / "earlier"]


@pytest.mark.parametrize("named", [False, True])
def test_a_full_disk_is_reported_with_the_final_name(tmp_path, named):
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_path(path) as temporary:
        if named:
            raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
        Path("/dev/full").write_text("x")
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_read_is_an_error_and_a_missing_one_is_empty(tmp_path, monkeypatch):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).touch()
    assert matching(tmp_path, "*.txt") == [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert matching(tmp_path / "absent", "*") == []
    script = "from pathlib import Path; from dpr_lightning.files import matching; import sys, os\n"
    script += "if os.geteuid() == 0: os.setuid(65534)\nmatching(Path(sys.argv[1]), '*')"
    with tempfile.TemporaryDirectory() as scratch:  # those of pytest are closed to other users
        closed = Path(scratch) / "closed"
        closed.mkdir(0o100)
        Path(scratch).chmod(0o755)
        words = [sys.executable, "-c", script, closed]
        done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert f"PermissionError: [Errno 13] Permission denied: '{closed}'" in done.stderr


def test_a_folder_behind_a_link_is_created(tmp_path):
    (tmp_path / "rankings").symlink_to(tmp_path / "disk" / "missing")
    with atomic_write(tmp_path / "rankings" / "a.trec") as file:
        file.write("x")
    assert (tmp_path / "disk" / "missing" / "a.trec").read_text() == "x"


def test_a_file_does_not_replace_a_folder_with_files(tmp_path):
    path = tmp_path / "a.trec"
    path.mkdir()
    (path / "mine").write_text("x")
    with pytest.raises(UserError, match=r"a.trec is a folder with files"), atomic_write(path):
        pytest.fail("refused only after the work")
    with pytest.raises(UserError, match=r"a.trec is a folder with files"), atomic_path(path) as temporary:
        temporary.write_text("y")
    assert [file.name for file in tmp_path.rglob("*")] == ["a.trec", "mine"]


KILLED = """
import os, signal, sys
from pathlib import Path
from dpr_lightning import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as opened:
    if sys.argv[1] == "atomic_write":
        opened.write("half")
        opened.flush()
    else:
        (opened / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("writer", ["atomic_write", "atomic_folder"])
def test_a_kill_leaves_nothing_under_the_final_name(tmp_path, writer):
    path = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, writer, str(path)], cwd=ROOT, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1  # what the killed process was writing


def test_json_is_written_as_utf8_and_reads_back(tmp_path):
    value = {"é": [1, None, "\U0001f600", 0.1]}
    write_json(tmp_path / "a.json", value)
    content = (tmp_path / "a.json").read_bytes()
    assert json.loads(content) == value
    assert "\U0001f600".encode() in content
    assert content.endswith(b"}\n")


def test_a_value_that_json_cannot_hold_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, [1, {1, 2}])
    assert path.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_finished_output_is_refused_unless_overwriting(tmp_path):
    path = tmp_path / "done.txt"
    refuse_overwrite(path, False)
    path.touch()
    refuse_overwrite(path, True)
    with pytest.raises(UserError) as caught:
        refuse_overwrite(path, False)
    expected = f"{path} is finished already. Set overwrite=true to replace it, or choose another run_dir."
    assert str(caught.value) == expected
    with pytest.raises(UserError, match=r"is finished already\. Give another name\."):
        refuse_overwrite(path, False, remedy="Give another name")
