"""Requeue the current SLURM job, so that its command runs again from the start.

SLURM announces the end of a job by SIGUSR1, or the signal that `sbatch --signal` names. Submitit takes SIGUSR2 and has
a handler of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from types import FrameType

_log = logging.getLogger(__name__)
REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
"""The signals after which a job is queued again."""


@contextlib.contextmanager
def queued_again() -> Iterator[None]:
    """Queue a plain SLURM job again and end, if SIGUSR1 or SIGUSR2 arrives while the block does not handle it itself.

    Finished work is kept, and the same command continues from there.
    """
    handled = []
    if "SLURM_JOB_ID" in os.environ and threading.current_thread() is threading.main_thread():
        handled = [number for number in REQUEUE_SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in handled:
        signal.signal(number, _queue_again_and_end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def _queue_again_and_end(number: int, frame: FrameType | None) -> None:
    if os.environ.get("SLURM_PROCID", "0") == "0":
        queue_again()
    raise SystemExit(128 + number)


def queue_again() -> None:
    """Queue this SLURM job again; outside SLURM do nothing."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        problem = done.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        _log.warning("SLURM job %s could not be queued again (%s)", job, problem)
