"""What this machine has, found out without torch: whether it may have GPUs, its memory and its free disk space."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from dpr_lightning.errors import UserError
from dpr_lightning.files import size_text


def may_have_gpus() -> bool:
    """Return whether torch may find a GPU; False only if the system certainly has none."""
    if not sys.platform.startswith("linux"):
        return True
    devices = Path("/dev")
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not is_hidden and any(
        re.fullmatch(r"nvidia\d+|kfd|dxg|nvhost-gpu", entry.name) for entry in devices.iterdir()
    )


def available_memory() -> int | None:
    """Return the bytes of memory that programs can still take, cgroup limits included; None if unknown."""
    limits = []
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) << 10)
    group = Path("/sys/fs/cgroup")
    most, used = _lines(group / "memory.max"), _lines(group / "memory.current")
    if most and used and most[0].isdigit():
        limits.append(max(0, int(most[0]) - int(used[0])))
    return min(limits, default=None)


def free_space(folder: Path) -> int:
    """Return the free bytes of the file system on which a folder is or will be."""
    existing = Path(os.path.realpath(folder))
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def check_free_space(folder: Path, needed: int, *, what: str, remedy: str, free: int | None = None) -> None:
    """Raise UserError if a file system has too little space for what a command is going to write.

    Args:
        folder: Where it is written.
        needed: The bytes that it takes there at most.
        what: What is written, for the message.
        remedy: What to do, besides freeing space, as in "Free space there, or …".
        free: The free bytes; None asks the file system.
    """
    free = free_space(folder) if free is None else free
    if needed > free:
        raise UserError(
            f"{folder}: {what} needs {size_text(needed)}, but only {size_text(free)} are free there. "
            f"Free space there, or {remedy}."
        )


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []
