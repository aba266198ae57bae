"""What a result is computed with: this program's commit, the versions of libraries, and the machine."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("dpr_lightning", "torch", "pytorch-lightning", "transformers", "tokenizers", "datasets", "numpy"),
    *("faiss-cpu", "faiss-gpu", "bm25s", "ir-measures"),
)
_TIMEOUT_S = 10


def environment() -> dict[str, Any]:
    """Return commit, versions and machine as JSON values."""
    return {**commit(), "python": platform.python_version(), "versions": versions(), "hardware": hardware()}


def commit() -> dict[str, Any]:
    """Return this program's `commit`, and whether its working tree is `dirty`; both None outside a git checkout."""
    root = Path(__file__).parents[1]
    described = None
    if (root / ".git").exists():  # not a checkout of something else that contains the installed package
        describe = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-dirty"]
        described = next(iter(_output(["git", "-C", str(root), *describe])), None)
    if described is None:
        return {"commit": None, "dirty": None}
    return {"commit": described.removesuffix("-dirty"), "dirty": described.endswith("-dirty")}


def versions() -> dict[str, str]:
    """Return the version of each library that is installed."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


@functools.cache
def hardware() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, the memory of the machine, and its GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    with contextlib.suppress(AttributeError, OSError, ValueError):
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    gpus = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return {"cpu": _processor(), "cores": cores, "memory_gb": memory, "gpus": gpus}


def _processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _output(command: list[str]) -> list[str]:
    """Return the lines that a program prints; none if it does not exist or fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
        return done.stdout.splitlines()
    return []
