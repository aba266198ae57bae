"""Workers on several devices: each command runs once, failures stop no other, no worker outlives its parent."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.embedding_files import identity
from support.processes import Script
from support.world import ROOT

from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.encoding import devices
from dpr_lightning.encoding.devices import Device, find_devices, run_on_devices
from dpr_lightning.errors import UserError

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")


@needs_no_gpu
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cannot tell which CPUs it may use")
def test_groups_of_cores_partition_the_cpus():
    cpus = os.sched_getaffinity(0)
    all_alone = next(n for n in range(len(cpus), 0, -1) if n == 1 or len(devices_or_none(n)) == n)
    for count in range(2, all_alone + 1):
        groups = find_devices(count)
        assert len(groups) == count
        assert sorted(cpu for group in groups for cpu in group.cpus) == sorted(cpus)
        assert sum(int(group.environment["OMP_NUM_THREADS"]) for group in groups) == all_alone
    with pytest.raises(UserError, match=rf"^devices: {all_alone + 1} are more than this machine's {all_alone} cores\."):
        find_devices(all_alone + 1)
    assert len(find_devices("all")) == max(1, all_alone // 8)


def devices_or_none(count):
    try:
        return find_devices(count)
    except UserError:
        return []


@pytest.mark.parametrize(("visible", "names"), [(None, ["0", "1", "2"]), ("4,2,7", ["4", "2", "7"])])
def test_devices_are_the_visible_gpus(monkeypatch, visible, names):
    monkeypatch.setattr(devices, "may_have_gpus", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_devices("all") == [Device({"CUDA_VISIBLE_DEVICES": name}, None) for name in names]
    assert len(find_devices(2)) == 2
    with pytest.raises(UserError, match=r"^devices: 4 are more than this machine's 3 GPUs\. Set a lower number"):
        find_devices(4)


@pytest.mark.parametrize("devices", [0, -1, 1.5, "some", True])
def test_impossible_devices_are_named(devices):
    with pytest.raises(UserError, match=f"^devices: {devices!r} is not a whole number of at least 1, or all"):
        find_devices(devices)


def python(code, *arguments):
    """A command that gives up after a minute."""
    return [sys.executable, "-c", f"import os, signal, sys; signal.alarm(60)\n{code}", *map(str, arguments)]


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="dpr_lightning.encoding.devices")
    return lambda: [record.getMessage() for record in caplog.records]


def test_each_command_runs_once_with_a_device_s_environment(lines):
    cpu = min(os.sched_getaffinity(0))
    devices = [Device({"NAME": "a"}, [cpu]), Device({"NAME": "b"}, [cpu])]
    commands = {f"{n}": python("print(os.environ['NAME'], os.sched_getaffinity(0))") for n in range(5)}
    assert run_on_devices(devices, commands) == {}
    assert sorted(line.split(": ")[0] for line in lines()) == list("01234")
    assert {line.split(": ")[1] for line in lines()} <= {f"a {{{cpu}}}", f"b {{{cpu}}}"}


def test_commands_run_at_the_same_time_on_two_devices(tmp_path):
    """Each opens one end of a FIFO, which waits until the other end is open."""
    os.mkfifo(tmp_path / "fifo")
    commands = {mode: python("open(sys.argv[1], sys.argv[2])", tmp_path / "fifo", mode) for mode in ("r", "w")}
    assert run_on_devices([Device({}, None)] * 2, commands) == {}


def test_a_device_whose_worker_fails_gets_no_other_command(lines, tmp_path):
    """The worker that is killed waits until the last of the others ends."""
    os.mkfifo(tmp_path / "fifo")
    dies = "print('begun', flush=True); open(sys.argv[1]).read(); os.kill(os.getpid(), signal.SIGKILL)"
    commands = {"dies": python(dies, tmp_path / "fifo")}
    commands |= {name: python("print('done')") for name in "abc"}
    commands |= {"last": python("open(sys.argv[1], 'w')", tmp_path / "fifo")}
    assert run_on_devices([Device({}, None)] * 2, commands) == {"dies": "SIGKILL (begun)"}
    assert [line for line in lines() if "done" in line] == ["a: done", "b: done", "c: done"]
    assert "dies: ended with SIGKILL (begun)" in lines()

    commands = {"a": python("print('done')"), "b": python("print('x'); sys.exit('no such thing')"), "c": ["never"]}
    assert run_on_devices([Device({}, None)], commands) == {"b": "exit code 1 (no such thing)", "c": "not started"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_no_worker_outlives_its_parent(tmp_path, number):
    """The worker keeps a FIFO open, so that its end is seen; if it survived, it would write once more."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    module = "from dpr_lightning.encoding.devices import *"
    worker = python(
        f"{module}; end_with_parent(); file = open({str(fifo)!r}, 'w'); print('up', file=file, flush=True)\n"
        "signal.signal(signal.SIGALRM, lambda *_: None); signal.alarm(200); signal.pause(); print('left', file=file)"
    )
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs ignore it
    parent = python(f"{module}; {heard}; run_on_devices([Device({{}}, None)], {{'x': {worker!r}}})")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(parent, env=environment, stderr=subprocess.DEVNULL) as process, fifo.open() as file:
        assert file.readline() == "up\n"
        process.send_signal(number)
        assert file.read() == ""
    assert process.returncode not in (0, -signal.SIGALRM)


def test_a_worker_ends_with_its_parent_while_it_imports(tmp_path):
    """The parent has ended before the worker starts, and a module that the command needs would never be loaded."""
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "__init__.py").write_text("import signal; signal.alarm(60); signal.pause()")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "DPR_LIGHTNING_WORKER": "1"}
    command = [sys.executable, "-m", "dpr_lightning.commands.encode_worker"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, env=environment).returncode == 1


@needs_no_gpu
@pytest.mark.skipif(len(devices_or_none(2)) < 2, reason="one core")
def test_workers_encode_the_shards_of_one_process(command, settings, tiny_model, tmp_path):
    """A process that is writing the first shard dies as soon as the workers have encoded all others."""
    settings = [*settings, f"model_dir={tiny_model}", "num_shards=2"]
    folder = tmp_path / "run" / "embeddings" / "passage"
    busy, other = folder / "00-of-02.safetensors", folder / "01-of-02.safetensors"
    with EmbeddingWriter(busy, identity(20), [""] * 20, dim=5, dtype="float32", chunk_size=3) as writer:
        process = Script("encode", *settings, "devices=2", folder=tmp_path)
        while not other.exists():
            process.stay(0.05)
        writer.partial.unlink()
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    assert f"{folder}: 2 of 2 shards encoded, 0 existed already; " in out
    assert " KB; 2 devices, " in out
    assert out.count("20 rows, 20 of them now") == 2

    made = other.stat().st_mtime_ns
    busy.rename(f"{busy}.partial")
    with Path(f"{busy}.partial").open("r+b") as file:  # as of another model
        file.seek(16)
        file.write(b"?")
    code, _, err = command("encode", *settings, "devices=2")
    problem = f"{busy}.partial was begun with another model, data set or setting."
    assert code == 1
    assert err.startswith(f"{folder}: 1 of 2 shards are missing (worker 0: exit code 1 ({problem}")
    assert err.endswith(". The same command continues.\n")
    Path(f"{busy}.partial").unlink()
    code, out, err = command("encode", "-m", *settings, "devices=2", "encode.precision=auto")
    assert (code, err) == (0, "")
    assert f"{folder}: 1 of 2 shards encoded, 1 existed already; " in out
    assert other.stat().st_mtime_ns == made

    assert command("encode", *settings, f"run_dir={tmp_path}/alone")[0] == 0
    runs = [open_passages(tmp_path / name / "embeddings" / "passage").shards for name in ("run", "alone")]
    for ours, alone in zip(*runs, strict=True):
        assert ours.identity == alone.identity
        assert list(ours.ids) == list(alone.ids)
        np.testing.assert_allclose(
            ours.array, alone.array, rtol=0, atol=1e-6
        )  # other numbers of threads sum in another order
