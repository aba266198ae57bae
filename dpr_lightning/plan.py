"""What a command would do: facts, a line each, and all problems that would stop it, found one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dpr_lightning.errors import UserError
from dpr_lightning.files import size_text
from dpr_lightning.machine import available_memory, free_space

Check = Callable[[], object]
"""A check raises UserError if a command would stop."""


class Plan:
    """The lines of a plan and its problems.

    Attributes:
        problems: What would stop the command, each an exception of `report_user_errors`.
    """

    def __init__(self) -> None:
        """Start without lines and problems."""
        self._lines: list[tuple[str, str]] = []
        self.problems: list[UserError | OSError] = []

    def add(self, name: str, text: str) -> None:
        """Add a line: what it is about, and the fact."""
        self._lines.append((name, text))

    def add_disk(self, folder: Path, needed: int) -> None:
        """Add a line about the bytes that are needed in a folder."""
        free = free_space(folder)
        self.add("disk", f"{size_text(needed)} needed, {size_text(free)} free in {folder}")

    def add_memory(self, needed: int, what: str) -> None:
        """Add a line about the bytes of memory that are needed."""
        available = available_memory()
        of = f", {size_text(available)} available" if available is not None else ""
        self.add("memory", f"about {size_text(needed)} ({what}){of}")

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a user's mistake that the block raises as a problem."""
        try:
            yield
        except (UserError, OSError) as error:
            self.add_problem(error)

    def add_problem(self, error: UserError | OSError) -> None:
        """Add a problem, unless it is known."""
        if str(error) not in map(str, self.problems):
            self.problems.append(error)

    def check(self, checks: Iterable[Check]) -> None:
        """Make every check and keep what they raise."""
        with self.collected():
            for check in checks:
                with self.collected():
                    check()

    def __str__(self) -> str:
        """Return the lines as a table of two columns."""
        width = max((len(name) for name, _ in self._lines), default=0)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in self._lines)
