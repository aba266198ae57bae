"""Locks, and outputs that several processes make together."""

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.world import ROOT

from dpr_lightning import sharing
from dpr_lightning.errors import FinishedError, LockedError
from dpr_lightning.locks import describe_holder, exclusive_lock, read_holder
from dpr_lightning.sharing import write_shared


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(sharing, "_SECONDS_BETWEEN_LOOKS", 0.0)


class Others:
    """Other processes: for each output, how many looks it is held for, and whether they then finish it or die."""

    def __init__(self, outputs, looks, finishes):
        self.outputs, self.looks, self.finishes = outputs, list(looks), finishes

    def make(self, number):
        path = self.outputs[number]
        if self.looks[number]:
            self.looks[number] -= 1
            if not self.looks[number] and self.finishes[number]:
                replace(path, "theirs")
            raise LockedError(f"{path} is being written by another process.")
        if path.exists() and path.read_text() == "theirs":
            raise FinishedError(path)
        replace(path, "ours")


def replace(path, text):
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


@given(others=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=6), exist=st.booleans())
def test_each_output_is_made_once_whatever_others_do(tmp_path_factory, others, exist):
    """Those that others finish are left to them, also where all outputs exist and are to be replaced."""
    folder = tmp_path_factory.mktemp("outputs")
    outputs = {number: folder / f"{number}.txt" for number in range(len(others))}
    for path in outputs.values() if exist else ():
        path.write_text("old")
    theirs = {number for number, (looks, finishes) in enumerate(others) if looks and finishes}
    made = write_shared(outputs, Others(outputs, *zip(*others, strict=True)).make if others else None)
    assert sorted(made) == sorted(outputs.keys() - theirs)
    assert {number for number, path in outputs.items() if path.read_text() == "theirs"} == theirs


def test_a_lock_has_one_holder_that_others_can_read(tmp_path):
    path = tmp_path / "output"
    assert read_holder(path) is None
    with exclusive_lock(path):
        holder = read_holder(path)
        assert holder["process"] == os.getpid() and "rows" not in holder
        describe_holder(path, rows=3)
        assert read_holder(path)["rows"] == 3
        with pytest.raises(LockedError, match=r"output is being written by another process\. Wait for it to end\."):
            exclusive_lock(path).__enter__()
        assert read_holder(path)["rows"] == 3
    assert read_holder(path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = "import signal, sys; from pathlib import Path; from dpr_lightning.locks import exclusive_lock\n"
    code += "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); signal.pause()"
    command = [sys.executable, "-c", code, str(tmp_path / "output")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "held\n"
        assert read_holder(tmp_path / "output")["process"] == process.pid
        process.send_signal(signal.SIGKILL)
    assert read_holder(tmp_path / "output") is None
    with exclusive_lock(tmp_path / "output"):
        pass
