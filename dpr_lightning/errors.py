"""The error for what a user can mend, and the checks that constructors make of their arguments."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in input or configuration.

    The message is one line: the config key or file first, then where and what, then what to do. Commands print it
    without a traceback and exit with 1.
    """


def check_positive(value: object, key: str) -> None:
    """Raises UserError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}: {value!r} is not a whole number of at least 1. Correct {key}.")


def check_choice(value: object, key: str, choices: Sequence[object]) -> None:
    """Raises UserError unless `value` is one of `choices`."""
    if value not in choices:
        allowed = ", ".join(map(str, choices))
        raise UserError(f"{key}: {value!r} is not possible. Set {key} to one of: {allowed}.")
