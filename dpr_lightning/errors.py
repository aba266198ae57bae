"""The error for mistakes that a user can correct, and the checks that constructors make of their arguments."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""The error numbers of a disk that is full or read-only."""
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space there, then run the same command again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Correct the path or its permissions"),
    errno.EROFS: "Choose a folder on a disk that can be written",
}


class UserError(ValueError):
    """A mistake in input or configuration; commands print its message without a traceback and exit with 1.

    The message is one line: the argument or the file first, then what is wrong, then what to do. If it is about an
    argument, it starts with the argument's name and a colon; other arguments that it mentions stand in backticks.
    `launch.py` replaces both by config keys, so that code below it never spells one. A command in backticks, such as
    `encode.py side=query`, gets the user's own overrides there.
    """


class FinishedError(UserError):
    """The output exists already and is what would be written now. A sweep skips the job."""

    def __init__(self, path: object) -> None:
        """Take the output."""
        super().__init__(f"{path} is finished already. Set overwrite=true to replace it, or choose another run_dir.")
        self.path = path

    def __reduce__(self) -> tuple[type[FinishedError], tuple[object]]:
        """Return how to make a copy in another process."""
        return FinishedError, (self.path,)


class MissingExtraError(UserError):
    """A package of an optional extra is not installed."""


class LockedError(UserError):
    """Another process is writing the output."""


class ReportedMistake(SystemExit):
    """The end of a process after a user's mistake, whose line has been printed."""

    def __init__(self, line: str) -> None:
        """Take the line."""
        super().__init__(1)
        self.line = line


def check_positive(value: object, name: str) -> None:
    """Raise UserError unless the argument `name` is a whole number of at least 1."""
    check_at_least(1, value, name)


def check_at_least(least: int, value: object, name: str) -> None:
    """Raise UserError unless the argument `name` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}: {value!r} is not a whole number of at least {least}. Correct `{name}`.")


def check_choice(value: object, name: str, choices: Sequence[object]) -> None:
    """Raise UserError unless the argument `name` is one of `choices`."""
    if value not in choices:
        allowed = ", ".join(map(str, choices))
        raise UserError(f"{name}: {value!r} is not possible. Set `{name}` to one of: {allowed}.")


@contextlib.contextmanager
def error_prefix(name: str) -> Iterator[None]:
    """Put `name` and a dot before the argument that a UserError is about, as in `lora.r` for the argument `r`."""
    try:
        yield
    except UserError as error:
        argument = str(error).partition(":")[0]
        message = str(error).replace(f"`{argument}`", f"`{name}.{argument}`")
        error.args = (f"{name}.{message}",)
        raise


@contextlib.contextmanager
def report_user_errors(
    *others: type[Exception],
    message: Callable[[Exception], str] = str,
    interrupted: str = "interrupted",
    traceback: bool = False,
) -> Iterator[None]:
    """End the process with one line on stderr: with exit code 1 after a user's mistake, with 130 after Ctrl-C.

    Args:
        others: Exceptions to treat as a user's mistake, besides UserError and paths that cannot be read or written.
        message: Returns the line to print for an exception.
        interrupted: Printed after Ctrl-C, before the message of the KeyboardInterrupt, if it has one.
        traceback: Let mistakes through, so that Python prints a traceback.
    """
    mistakes: tuple[type[Exception], ...] = (UserError, OSError, *others)
    try:
        yield
    except KeyboardInterrupt as stop:
        print(f"{interrupted} {stop}".rstrip(), file=sys.stderr)
        sys.exit(130)
    except mistakes as error:
        if traceback:
            raise
        line = error_line(error, message)
        print(line, file=sys.stderr)
        raise ReportedMistake(line) from error


def error_line(error: Exception, message: Callable[[Exception], str] = str) -> str:
    """Return the line to print for a user's mistake; `message` returns what it says."""
    is_path = isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_ERRORS)
    line = re.sub(r"`([\w.-]+)`", r"\1", message(UserError(_os_problem(error)) if is_path else error))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(line.split()))


def _os_problem(error: Any) -> str:
    remedy = _REMEDIES.get(error.errno or 0, "Correct the path")
    return f"{error.filename or 'the folder of the output or of its log'}: {error.strerror}. {remedy}."
