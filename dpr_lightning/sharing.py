"""Share outputs among processes, on one machine or several with a common file system, so that each is written once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dpr_lightning.errors import FinishedError, LockedError
from dpr_lightning.locks import read_holder

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 2.0


def write_shared(outputs: Mapping[int, Path], write: Callable[[int], None]) -> list[int]:
    """Write each output, unless another process does, and return when all are written.

    An output that another process has locked is skipped and looked at again after the others. If that process has died
    meanwhile, this one writes it. An output that has changed since this call began was written by another process, so
    that several processes may also replace the same finished outputs.

    Args:
        outputs: The path of each output, by its number.
        write: Writes one output. It raises LockedError while another process does, and FinishedError once another has.

    Returns:
        The numbers of the outputs that this process has written.
    """
    before = {number: file_state(path) for number, path in outputs.items()}
    waiting, written, is_told = list(outputs), [], False
    while waiting:
        locked = []
        for number in waiting:
            if file_state(outputs[number]) != before[number]:
                continue
            if read_holder(outputs[number]) is not None:
                locked.append(number)
                continue
            try:
                write(number)
            except LockedError:
                locked.append(number)
            except FinishedError:
                continue
            else:
                written.append(number)
        if locked and len(locked) == len(waiting):
            if not is_told:
                names = ", ".join(outputs[number].name for number in locked)
                _log.info("waiting for other processes, which are writing %s", names)
                is_told = True
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        waiting = locked
    return written


def file_state(path: Path) -> tuple[int, int] | None:
    """Return what differs after a file has been replaced; None if it does not exist."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns
