"""Every device of a machine: a worker process on each GPU, or on each group of cores, takes one command after another.

A worker lives no longer than its parent: its stdin is a pipe that only the parent holds open, and it ends at its end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from dpr_lightning.errors import UserError

_log = logging.getLogger(__name__)
_CORES_PER_GROUP = 8
_WORKER = "DPR_LIGHTNING_WORKER"
_LONGEST_LINE = 2**20  # bytes


class Device(NamedTuple):
    """A GPU or a group of cores: what a process on it finds in its environment, and its CPUs if not all."""

    environment: dict[str, str]
    cpus: Collection[int] | None


def find_devices(devices: int | str) -> list[Device]:
    """GPUs, or on a machine without any, groups of cores of about equal size.

    Args:
        devices: how many; `all` takes every GPU, or a group for every 8 cores.

    Raises:
        UserError: more than there are.
    """
    if devices != "all" and (type(devices) is not int or devices < 1):
        raise UserError(f"devices: {devices!r} is not a whole number of at least 1, or all. Correct devices.")
    if devices == 1:
        return [Device({}, None)]
    import torch

    gpus, cores = torch.cuda.device_count(), _cores()
    there, what = (gpus, "GPUs") if gpus else (len(cores), "cores")
    count = (gpus or max(1, len(cores) // _CORES_PER_GROUP)) if devices == "all" else int(devices)
    if count > there:
        raise UserError(f"devices: {count} are more than this machine's {there} {what}. Lower it, or set it to all.")
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        return [Device({"CUDA_VISIBLE_DEVICES": name}, None) for name in visible[:count]]
    groups = [cores[i * len(cores) // count : (i + 1) * len(cores) // count] for i in range(count)]
    return [Device({"OMP_NUM_THREADS": str(len(group))}, [cpu for core in group for cpu in core]) for group in groups]


def _cores() -> list[list[int]]:
    """The CPUs that this process may use, those together that share a core."""
    cores: dict[str, list[int]] = {}
    for cpu in sorted(_usable_cpus()):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.exists() else str(cpu), []).append(cpu)
    return list(cores.values())


def _usable_cpus() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _pin_to(cpus: Collection[int] | None) -> None:
    """Runs this thread on some CPUs from now on, where the system can do that."""
    if cpus is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def run_on_devices(devices: Collection[Device], commands: Mapping[str, list[str]]) -> dict[str, str]:
    """Runs each command on the next free device; their output goes to the log, each line behind the command's name.

    A device on which a command fails takes no further one; the other devices go on. However this process ends, the
    commands that still run end with it, if they call `end_with_parent`.

    Args:
        devices: as `find_devices` gives them.
        commands: by name, in the order in which they are started.

    Returns:
        By name, for each command that failed: how it ended and the last line that it printed.
    """
    return asyncio.run(_run_on_devices(devices, commands))


async def _run_on_devices(devices: Collection[Device], commands: Mapping[str, list[str]]) -> dict[str, str]:
    waiting, failed, every_cpu = iter(commands.items()), {}, _usable_cpus()
    reading, writing = os.pipe()

    async def serve(device: Device) -> None:
        for name, command in waiting:
            problem = await _run(device, name, command, stdin=reading, every_cpu=every_cpu)
            if problem:
                failed[name] = problem
                _log.warning("%s: ended with %s", name, problem)
                return

    try:
        await asyncio.gather(*map(serve, devices))
    finally:
        os.close(reading)
        os.close(writing)
    return failed | dict.fromkeys((name for name, _ in waiting), "not begun")


async def _run(device: Device, name: str, command: list[str], *, stdin: int, every_cpu: Collection[int]) -> str | None:
    """How the command failed, or None."""
    _pin_to(device.cpus)  # the worker begins with the CPUs of this thread
    worker = await asyncio.create_subprocess_exec(
        *command,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **device.environment, _WORKER: "1"},
        limit=_LONGEST_LINE,
        start_new_session=True,  # Ctrl-C reaches the parent alone
    )
    try:
        _pin_to(every_cpu)
        line = ""
        assert worker.stdout is not None
        async for content in worker.stdout:
            if text := content.decode(errors="replace").rstrip():
                line = text
                _log.info("%s: %s", name, line)
        code = await worker.wait()
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    if code == 0:
        return None
    return f"{signal.Signals(-code).name if code < 0 else f'exit code {code}'} ({line})"


def end_with_parent() -> None:
    """In a command that `run_on_devices` runs, ends this process as soon as its parent is gone; else does nothing."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    if os.environ.get(_WORKER):
        threading.Thread(target=wait, daemon=True).start()
