"""The cache of converted data files (`HF_DATASETS_CACHE`): an Arrow file, and beside it facts about it.

A conversion is used only if its sources have the content that was converted and its own file is undamaged.

1. Content of the sources. The name of a conversion is a hash of its sources' content, not of their paths or times. To
   avoid reading a large corpus at every start, the hash of a file is remembered together with the file's inode, size,
   mtime and ctime. This is safe: the kernel sets the ctime whenever content changes, and no program can set it back, as
   `rsync -t` and backups do with the mtime. A ctime has the precision of the file system's clock, so the hash of a file
   that changed within the last seconds is not remembered. If anything differs, the file is hashed again, and unchanged
   content leads to the same conversion.
2. The conversion itself. The facts have the size and the hash of the Arrow file, which each process verifies once. That
   takes about 0.2 s per GB from memory and otherwise as long as reading the file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock

from dpr_lightning.errors import UserError
from dpr_lightning.files import atomic_path, file_hash, write_json

Facts = dict[str, Any]
_CLOCK_S = 3.0  # no file system's clock is coarser than 2 s
_log = logging.getLogger(__name__)


def content_hash(file: Path) -> str:
    """Return the hash of a file's content; the file is read only if it has changed since the last time."""
    known = _folder() / "sources" / f"{_sha(str(file.resolve()))}.json"
    state = _state(file)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        remembered = json.loads(known.read_bytes())
        if remembered["state"] == state:
            return str(remembered["xxh3"])
    start = time.time()
    digest = file_hash(file)
    if start - file.stat().st_ctime > _CLOCK_S and _state(file) == state:
        with contextlib.suppress(OSError):  # a read-only cache forgets it
            write_json(known, {"state": state, "xxh3": digest})
    return digest


class CacheEntry:
    """A converted file."""

    def __init__(self, identity: str) -> None:
        """Name the entry after everything that its content depends on."""
        path = _folder() / _sha(identity)
        self.arrow, self._facts, self._lock = (path.with_suffix(end) for end in (".arrow", ".json", ".lock"))

    def facts(self, convert: Callable[[Path], Facts]) -> Facts:
        """Return the facts about the Arrow file, converting first if it is missing or damaged.

        A complete entry is only read, so that the cache's folder may be read-only.

        Args:
            convert: Writes the Arrow file at the given path and returns facts about it.

        Raises:
            UserError: The cache cannot be written.
        """
        try:
            if known := self._verified_facts():
                return known
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._lock):
                return self._verified_facts() or self._write(convert)
        except OSError as error:
            path, reason = error.filename or self._lock.parent, error.strerror or error
            raise UserError(
                f"{path}: the cache of converted data cannot be used ({reason}). "
                "Make room or correct permissions there, or set HF_DATASETS_CACHE to another folder."
            ) from error

    def _write(self, convert: Callable[[Path], Facts]) -> Facts:
        with atomic_path(self.arrow) as temporary:
            facts = convert(temporary)
            facts |= {"bytes": temporary.stat().st_size, "xxh3": file_hash(temporary)}
        write_json(self._facts, {"facts": facts, "check": _check(facts)})
        return facts

    def _verified_facts(self) -> Facts | None:
        """Return the facts, or None if the entry is incomplete or damaged."""
        if not (self._facts.exists() and self.arrow.exists()):
            return None
        with contextlib.suppress(ValueError, TypeError, KeyError):
            saved = json.loads(self._facts.read_bytes())
            facts: Facts = saved["facts"]
            state = _state(self.arrow)
            size_and_hash = (facts["bytes"], facts["xxh3"])
            if saved["check"] == _check(facts) and size_and_hash == (state[1], _hash_once(self.arrow, tuple(state))):
                return facts
        _log.warning("%s: damaged, and converted again", self.arrow)
        return None


def _folder() -> Path:
    import datasets  # takes a second

    return Path(datasets.config.HF_DATASETS_CACHE) / "dpr_lightning"


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


@functools.lru_cache
def _hash_once(file: Path, state: tuple[int, ...]) -> str:
    return file_hash(file)


def _check(facts: Facts) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
