"""Progress of a long loop: a bar in a terminal, otherwise a log line every 30 seconds."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts rows up to a total and shows the count; a context manager."""

    def __init__(self, what: str, *, total: int, done: int = 0) -> None:
        """Start at `done` of `total`."""
        self.what, self.total, self.done, self._started_at = what, total, done, done
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Progress:
        self._start = self._last_line = time.monotonic()
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=console)
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done)
        return self

    def advance(self, count: int) -> None:
        """Add `count` rows."""
        self.done += count
        if self._bar is not None:
            self._bar.advance(self._task, count)
            return
        now = time.monotonic()
        if now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            speed = (self.done - self._started_at) / (now - self._start)
            left = (self.total - self.done) / speed
            _log.info(
                "%s: %s of %s, %.0f rows/s, %.0f min left",
                self.what,
                f"{self.done:,}",
                f"{self.total:,}",
                speed,
                left / 60,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
