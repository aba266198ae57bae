"""Messages that tell the user what to type: a key that was meant, the command that is missing, the next command."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dpr_lightning.arguments import Arguments
from dpr_lightning.command_line import typed_word
from dpr_lightning.composition import composed
from dpr_lightning.config_folders import config_dir_option, config_folder
from dpr_lightning.files import matching
from dpr_lightning.overrides import COMMANDS, is_kept
from dpr_lightning.run_dir import RunDir

_UNKNOWN_KEY = re.compile(r"(?:Could not override '([^']+)'\.|([^\s:]+): the config key does not exist)")
_COMMAND = re.compile(rf"`(?:python )?({'|'.join(COMMANDS)})\.py\b ?([^`]*)`")


def error_message(error: Exception, config: Arguments, command: str) -> str:
    """Return what to tell the user; errors of Hydra get a remedy in terms of our keys and commands.

    Args:
        error: The error.
        config: The config, whose functions may have raised the error.
        command: The name of the command that has failed.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option}: the option does not exist. Set {group} to one of: {', '.join(error.options)}."
    if unknown := _UNKNOWN_KEY.match(str(error)):
        key = unknown[1] or unknown[2]
        meant = closest_key(key, _composed_keys(command))
        hint = f"Did you mean {meant}? " if meant else ""
        return f"{key}: the config key does not exist. {hint}See `--cfg job` for all keys."
    if unmerged := re.match(r"Error merging override (?:\+\+)?([^=]+)=", str(error)):
        return f"{unmerged[1]}: it is a group of keys, which this value cannot replace. Set its keys."
    if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return f"{missing[1]}: is not set. Set it on the command line: {missing[1]}=…"
    message = config.message(error)
    if not HydraConfig.initialized():
        return message
    return _COMMAND.sub(lambda found: f"`{command_line(found[1], config, *found[2].split())}`", message)


def closest_key(key: str, keys: Sequence[str]) -> str | None:
    """Return the key that was probably meant, or None: one with the same last part, or else the most similar one."""
    last = key.rpartition(".")[2]
    same_end = [known for known in keys if known.rpartition(".")[2] == last]
    if matches := difflib.get_close_matches(key, same_end, n=1, cutoff=0) or difflib.get_close_matches(key, keys, n=1):
        return matches[0]
    ends = {known.rpartition(".")[2]: known for known in reversed(keys)}
    return next((ends[end] for end in difflib.get_close_matches(last, list(ends), n=1, cutoff=0.75)), None)


def _composed_keys(command: str) -> list[str]:
    """Return all keys of a command's config with the groups that the command line has chosen."""
    groups = {group.relative_to(config_folder()).as_posix() for group in config_folder().rglob("*") if group.is_dir()}
    chosen = [word for word in sys.argv[1:] if word.partition("=")[0] in groups - {"hydra/launcher"}]
    for overrides in (chosen, []):
        try:
            return list(_dotted(composed(command, overrides)))
        except (HydraException, OmegaConfBaseException):  # an option of the user's own folder, or a sweep over options
            continue
    return []


def _dotted(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for name, value in config.items_ex(resolve=False):
        key = f"{prefix}{name!s}"
        yield key
        if isinstance(value, DictConfig):
            yield from _dotted(value, f"{key}.")


def command_line(command: str, config: Arguments, *overrides: str, is_recalled: bool = False) -> str:
    """Return another command for the same run, with those of the user's own overrides that matter to it.

    Args:
        command: The name of the command, such as `encode`.
        config: The config of this command.
        overrides: Added to the user's own, instead of those with the same keys.
        is_recalled: The command knows data and shards from the training, unless an experiment names them.
    """
    job = HydraConfig.get()
    words = [typed_word(word) for word in job.overrides.task]
    if job.mode == RunMode.MULTIRUN and any(word.startswith("run_dir=") for word in words):
        words = [f"run_dir={config.select('run_dir')}" if word.startswith("run_dir=") else word for word in words]
    run_dir, name = config.select("run_dir"), f"name={config.select('name')}"
    is_clear = Path(run_dir).name == config.select("name") and any(word.startswith("run_dir=") for word in words)
    if name in words and (is_clear or f"experiment={config.select('name')}" in words):
        words.remove(name)
    if is_recalled and not any(word.startswith("experiment=") for word in words):
        words = [word for word in words if not re.match(r"(?:data|data\..+|num_shards)=", word)]
    given = {word.partition("=")[0] for word in overrides}
    words = [word for word in words if is_kept(word.partition("=")[0], command) and word.partition("=")[0] not in given]
    return shlex.join([*_program(command), *config_dir_option(sys.argv[1:]), *words, *overrides]).replace("'…'", "…")


def _program(command: str) -> list[str]:
    """Return the start of a command line, in the form in which this command was started."""
    this = Path(sys.argv[0])
    if this.stem.removeprefix("dpr-") not in COMMANDS:  # a job of SLURM
        return ["python", f"{command}.py"]
    if this.parent == Path(__file__).parent / "commands":  # python -m dpr_lightning.commands.train
        return [f"dpr-{command}"]
    if this.suffix == ".py":
        return ["python", str(this.with_name(f"{command}.py"))]
    return [f"dpr-{command}"]


def next_command(command: str, config: Arguments) -> str | None:
    """Return the command that follows a finished one; None after the last, and after one of several shards."""
    run, split = RunDir(Path(config.select("run_dir"))), config.select("split")
    if command == "train":
        return command_line("encode", config, is_recalled=True)
    if command not in COMMANDS or command == "evaluate" or config.select("shard") not in (None, "all"):
        return None
    if command == "search" and config.select("shard") == "all":
        return command_line("reduce", config)
    if command != "encode":
        return command_line("evaluate", config)
    if not run.query_embeddings(split).exists():
        return command_line("encode", config, "side=query")
    if not matching(run.passage_shards, "*.safetensors"):
        return command_line("encode", config)
    return command_line("search", config)
