"""The composed config of a command: its values, and functions and objects that are called with them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from dpr_lightning.arguments import Arguments, check_type, check_types
from dpr_lightning.command_line import decoded_split
from dpr_lightning.errors import UserError

_KEY_TYPES: dict[str, Any] = {  # keys that no constructor checks before they matter
    **dict.fromkeys(("name", "run_dir", "split"), str),
    **dict.fromkeys(("model_dir", "run_file", "against"), str | None),
    **dict.fromkeys(("overwrite", "skip_finished", "plan"), bool),
    "seed": int,
}
_GROUPS = (
    *("data", "model", "loss", "optimizer", "scheduler", "trainer", "logger"),
    *("encode", "ann", "bm25", "hybrid", "evaluate", "grad_cache", "checkpoint", "early_stopping"),
)


class Config(Arguments):
    """A composed config: calls functions and makes objects with its values."""

    objective: float | None = None  # the value that a sweeper optimizes

    def __init__(self, values: Mapping[str, Any], composed: DictConfig | None = None) -> None:
        """Take the composed config; its values are plain objects after `resolve`."""
        super().__init__(values)
        self._composed = composed

    def resolve(self, **changes: str) -> None:
        """Replace values of the top level, and resolve those that refer to others."""
        assert self._composed is not None
        for key, value in changes.items():
            self._composed[key] = value
        values: Any = OmegaConf.to_container(self._composed, resolve=True)
        for name in ("queries", "qrels"):
            files = values["data"].get(name) if isinstance(values.get("data"), dict) else None
            if isinstance(files, dict):
                values["data"][name] = {decoded_split(split): file for split, file in files.items()}
        self.values = values

    def __getitem__(self, key: str) -> Any:
        """Return the value under a dotted key."""
        return self.select(key)

    @property
    def skips_finished(self) -> bool:
        """Whether an output that is finished already is skipped: in a sweep, or where a script calls all stages."""
        return bool(self["skip_finished"]) or HydraConfig.get().mode == RunMode.MULTIRUN

    def described(self, keys: Iterable[str]) -> str:
        """Return settings as a user would type them, those that are not set left out."""
        values = {key: self[key] for key in keys if self[key] is not None}
        return " ".join(
            f"{key}={str(value).lower() if value in (True, False) else value}" for key, value in values.items()
        )

    def check_keys(self) -> None:
        """Raise UserError for a group that is replaced by something else, or a value of the wrong type at the top."""
        for group in _GROUPS:
            if not isinstance(self[group], dict):
                raise UserError(
                    f"{group}: {self[group]!r} is not a group of keys. Set single keys of it, as {group}.KEY=…"
                )
        for key, hint in _KEY_TYPES.items():
            check_type(self[key], hint, key)
        if self["shard"] != "all":
            check_type(self["shard"], int | None, "shard")

    def instantiate(self, key: str, *, omit: Collection[str] = (), **given: Any) -> Any:
        """Make the object that a group with `_target_` describes; with `_partial_`, a function that makes it.

        Args:
            key: The group.
            omit: Keys of the group that are not arguments of the target.
            given: Arguments that override or extend those of the config.

        Raises:
            UserError: An argument that the target refuses, now or when the function is called; the message names `key`.
        """
        if not isinstance(group := self.select(key), Mapping) or not isinstance(group.get("_target_"), str):
            raise UserError(f"{key}: {group!r} is not a group of keys with a `_target_`. Choose an option of {key}.")
        configured = {name: value for name, value in group.items() if name not in omit}
        values = {**configured, **given}
        keys = {name: f"{key}.{name}" for name in values}
        self.keys = {**keys, **self.keys}
        with config_errors(key), self.named(keys):
            check_types(values, get_object(values["_target_"]), key)
            instance = instantiate(configured, **given, _convert_="all")
        if not values.get("_partial_"):
            return instance

        def instantiate_now(*args: Any, **kwargs: Any) -> Any:
            with config_errors(key), self.named(keys):
                return instance(*args, **kwargs)

        return instantiate_now


@contextlib.contextmanager
def config_errors(key: str) -> Iterator[None]:
    """Turn what a function raises at a wrong argument into a UserError that names the config key."""
    try:
        yield
    except (InstantiationException, TypeError, ValueError, ImportError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, UserError) or not isinstance(cause, TypeError | ValueError | OSError | ImportError):
            raise cause from cause.__cause__
        raise UserError(f"{key}: {str(cause).rstrip('.')}. Correct {key}.") from error
