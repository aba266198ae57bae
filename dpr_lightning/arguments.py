"""From config keys to arguments: which keys a function takes, their types, and errors in terms of keys.

Functions know their argument names only. A function called through `call` reports a mistake under its own name
(`pooling: …`), and the message that a user reads names the config key (`model.pooling: …`).
"""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dpr_lightning.errors import FinishedError, UserError

T = TypeVar("T")
Values = Mapping[str, Any]
_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}

_LARGEST = {int: 2**63 - 1, float: 1e30}  # a step of 1e31 overflows in float32, which is an error in torch


class Arguments:
    """The values of a composed config, and the key that each argument came from."""

    def __init__(self, values: Values) -> None:
        """Take the config as plain Python objects."""
        self.values: dict[str, Any] = dict(values)
        self.keys: dict[str, str] = {name: name for name in values}  # config key of each argument name seen so far

    def call(self, target: Callable[..., T], *groups: str, keys: Mapping[str, str] | None = None, **given: Any) -> T:
        """Call `target` with the config values that its signature names.

        Args:
            target: A function or class with keyword arguments and type hints.
            groups: Dotted groups in which a parameter's key is looked up, in this order; `""` is the top level.
            keys: Config keys of parameters that have another name there.
            given: Arguments that are not looked up.

        Raises:
            UserError: A value has the wrong type, or `target` refuses it. The message names the config key.
        """
        keys = dict(keys or {})
        for name in inspect.signature(target).parameters:
            for group in groups:
                if name not in keys and name not in given and name in (self.select(group) or {}):
                    keys[name] = f"{group}.{name}" if group else name
        hints = _type_hints(target)
        self.keys |= keys
        arguments = {name: self.select(key) for name, key in keys.items() if name not in given}
        for name, value in arguments.items():
            check_type(value, hints.get(name, Any), keys[name])
        with self.named(keys):
            return target(**arguments, **given)

    def select(self, key: str) -> Any:
        """Return the value under a dotted key, or None if it does not exist; `""` is the whole config."""
        value: Any = self.values
        for part in filter(None, key.split(".")):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    @contextlib.contextmanager
    def named(self, keys: Mapping[str, str]) -> Iterator[None]:
        """Replace argument names by config keys in the message of a UserError."""
        try:
            yield
        except FinishedError:
            raise
        except UserError as error:
            error.args = (with_keys(str(error), keys),)
            raise

    def message(self, error: Exception) -> str:
        """Return the message of an error, with the key of every argument of any earlier call."""
        return with_keys(str(error), self.keys)


def with_keys(message: str, keys: Mapping[str, str]) -> str:
    """Replace the argument that a message starts with, and those in backticks, by their config keys."""

    def key(match: re.Match[str]) -> str:
        return keys[match[1]] + match[2] if match[1] in keys else match[0]

    message = re.sub(r"^(\w+)((?:\.[\w-]+)*)(?=: )", key, message)
    return re.sub(r"`(\w+)((?:\.[\w-]+)*)`", key, message)


def check_type(value: Any, hint: Any, key: str) -> None:
    """Raise UserError if a config value does not have the type of a hint, or has numbers that no library takes.

    Hints of other types are not checked.
    """
    if not _matches(value, hint):
        wanted = " or ".join(dict.fromkeys(_describe(option) for option in _options(hint)))
        raise UserError(f"{key}: {value!r} is not {wanted}. Correct {key}.")
    for number in _numbers(value):
        if abs(number) > _LARGEST[type(number)] and abs(number) != math.inf:
            raise UserError(f"{key}: {number!r} is beyond all sensible numbers. Correct {key}.")


def check_types(values: Values, target: Callable[..., Any], group: str) -> None:
    """Raise UserError unless the values of a group have the types of the parameters of `target`."""
    hints = _type_hints(target)
    for name in hints.keys() & values.keys():
        check_type(values[name], hints[name], f"{group}.{name}")


def _numbers(value: Any) -> Iterator[int | float]:
    """Yield the numbers in a config value."""
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(item)
    elif type(value) in _LARGEST:
        yield value


def _type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    with contextlib.suppress(NameError):  # a type that is imported for type checkers alone
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    return {}


def _options(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _matches(value: Any, hint: Any) -> bool:
    options = _options(hint)
    if len(options) > 1:
        return any(_matches(value, option) for option in options)
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (str, bool, int, type(None)):
        return type(value) is kind
    if kind is float:
        return type(value) in (float, int)
    if kind is Path:
        return type(value) is str
    if kind is Literal:
        return not isinstance(value, Mapping | list)  # the function itself names the choices
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(_matches(item, arguments[1]) for item in value.values() if arguments)
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        return isinstance(value, list) and all(_matches(item, arguments[0]) for item in value if arguments)
    return kind in (Any, object) or isinstance(value, Mapping)  # which describes an instance with `_target_`


def _describe(hint: Any) -> str:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a group of keys"
    if inspect.isclass(kind) and issubclass(kind, Sequence) and kind is not str:
        return f"a list, each entry {_describe(arguments[0])}" if arguments else "a list"
    return _NAMES.get(kind, "text")
