"""The error for what a user can mend, and the checks that constructors make of their arguments."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence


class UserError(ValueError):
    """A mistake in input or configuration.

    The message is one line: the config key or file first, then where and what, then what to do. Commands print it
    without a traceback and exit with 1.
    """


def check_positive(value: object, key: str) -> None:
    """Raises UserError unless `value` is a whole number of at least 1."""
    check_at_least(1, value, key)


def check_at_least(least: int, value: object, key: str) -> None:
    """Raises UserError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key}: {value!r} is not a whole number of at least {least}. Correct {key}.")


def check_choice(value: object, key: str, choices: Sequence[object]) -> None:
    """Raises UserError unless `value` is one of `choices`."""
    if value not in choices:
        allowed = ", ".join(map(str, choices))
        raise UserError(f"{key}: {value!r} is not possible. Set {key} to one of: {allowed}.")


@contextlib.contextmanager
def report_user_errors(
    *others: type[Exception],
    message: Callable[[Exception], str] = str,
    interrupted: str = "interrupted",
    traceback: bool = False,
) -> Iterator[None]:
    """Ends the process with one line on stderr: after a user's mistake with exit code 1, after Ctrl-C with 130.

    Args:
        others: what is a user's mistake besides UserError and a path that cannot be read or written.
        message: what to say of them.
        interrupted: what to say after Ctrl-C.
        traceback: let mistakes through, for Python to print at length.
    """
    mistakes: tuple[type[Exception], ...] = (UserError, OSError, *others)
    try:
        yield
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
    except mistakes as error:
        if traceback:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            line = f"{error.filename}: {error.strerror}. Correct the path (run_dir, model_dir, run_file) or its rights."
        else:
            line = message(error)
        print(" ".join(line.split()), file=sys.stderr)
        sys.exit(1)
