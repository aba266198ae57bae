"""Run commands on all devices of a machine: one worker process at a time on each GPU, or on each group of cores.

No worker outlives its parent: its stdin is a pipe that only the parent keeps open, and the worker exits when it closes.
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
from dpr_lightning.machine import may_have_gpus

_log = logging.getLogger(__name__)
_CORES_PER_GROUP = 8
_WORKER = "DPR_LIGHTNING_WORKER"
_LONGEST_LINE = 2**20  # bytes of a worker's output


class Device(NamedTuple):
    """A GPU or a group of cores: environment variables for its processes, and their CPUs, None for all."""

    environment: dict[str, str]
    cpus: Collection[int] | None


def find_devices(devices: int | str) -> list[Device]:
    """Return GPUs, or on a machine without GPUs, groups of cores of about equal size.

    Args:
        devices: The number of devices; `all` means every GPU, or a group for every 8 cores.

    Raises:
        UserError: The machine has fewer.
    """
    if devices != "all" and (type(devices) is not int or devices < 1):
        raise UserError(f"devices: {devices!r} is not a whole number of at least 1, or all. Correct `devices`.")
    if devices == 1:
        return [Device({}, None)]
    gpus, cores = 0, _cores()
    if may_have_gpus():
        import torch  # takes seconds

        gpus = torch.cuda.device_count()
    available, what = (gpus, "GPUs") if gpus else (len(cores), "cores")
    count = (gpus or max(1, len(cores) // _CORES_PER_GROUP)) if devices == "all" else int(devices)
    if count > available:
        raise UserError(f"devices: {count} are more than this machine's {available} {what}. Set a lower number or all.")
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        return [Device({"CUDA_VISIBLE_DEVICES": name}, None) for name in visible[:count]]
    groups = [cores[i * len(cores) // count : (i + 1) * len(cores) // count] for i in range(count)]
    return [Device({"OMP_NUM_THREADS": str(len(group))}, [cpu for core in group for cpu in core]) for group in groups]


def _cores() -> list[list[int]]:
    """Return the CPUs that this process may use, grouped by core."""
    cores: dict[str, list[int]] = {}
    for cpu in sorted(_usable_cpus()):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.exists() else str(cpu), []).append(cpu)
    return list(cores.values())


def _usable_cpus() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _pin_to(cpus: Collection[int] | None) -> None:
    """Restrict this thread to some CPUs, if the system can."""
    if cpus is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def run_on_devices(devices: Collection[Device], commands: Mapping[str, list[str]]) -> dict[str, str]:
    """Run each command on the next free device and log its output, each line after the command's name.

    A device on which a command fails gets no other; the other devices continue. However this process ends, running
    commands end with it, if they call `end_with_parent`.

    Args:
        devices: The devices, from `find_devices`.
        commands: The commands by name, in the order in which they are started.

    Returns:
        By name of each command that failed: how it ended and the last line that it printed.
    """
    return asyncio.run(_run_on_devices(devices, commands))


async def _run_on_devices(devices: Collection[Device], commands: Mapping[str, list[str]]) -> dict[str, str]:
    waiting, failed, every_cpu = iter(commands.items()), {}, _usable_cpus()
    read_end, write_end = os.pipe()

    async def serve(device: Device) -> None:
        for name, command in waiting:
            problem = await _run(device, name, command, stdin=read_end, every_cpu=every_cpu)
            if problem:
                failed[name] = problem
                _log.warning("%s: ended with %s", name, problem)
                return

    try:
        await asyncio.gather(*map(serve, devices))
    finally:
        os.close(read_end)
        os.close(write_end)
    return failed | dict.fromkeys((name for name, _ in waiting), "not started")


async def _run(device: Device, name: str, command: list[str], *, stdin: int, every_cpu: Collection[int]) -> str | None:
    """Run a command and return how it failed, or None."""
    _pin_to(device.cpus)  # the worker inherits the CPUs of this thread
    worker = await asyncio.create_subprocess_exec(
        *command,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **device.environment, _WORKER: "1", "PYTHONUNBUFFERED": "1"},  # lines in their order
        limit=_LONGEST_LINE,
        start_new_session=True,  # Ctrl-C reaches the parent only
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
    """End this process as soon as its parent has ended, if `run_on_devices` started it; otherwise do nothing."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    if os.environ.get(_WORKER):
        threading.Thread(target=wait, daemon=True).start()
