"""Translates the command line into Hydra's grammar, so that paths and names may contain any characters."""

from __future__ import annotations

import re
import shutil
from pathlib import PurePath

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException

from dpr_lightning.config_folders import experiment_file
from dpr_lightning.errors import UserError

_BASE = "nq"  # the experiment whose settings and name are those of conf/base.yaml
_MULTIRUN = ("-m", "--multirun")
_GROUPS = ("experiment", "data", "model", "model/lora", "loss", "optimizer", "scheduler", "trainer", "logger")
_ADDED_KEY = re.compile(
    r"\+{1,2}((?:model|encode|ann|grad_cache|checkpoint|early_stopping|data)\.(?!queries\.|qrels\.)[^=]*)="
)
_TEXT_KEYS = re.compile(
    r"\+{0,2}(?:name|run_dir|model_dir|run_file|against|split|index|data\.(?:train|dev|corpus|root|set)|data\.(?:queries|qrels)\.[^=]+|"
    r"model\.(?:name_or_path|separator|query_prompt|passage_prompt))"
)
_GRAMMAR = re.compile(r"""null|'.*'|".*"|(?:choice|glob|range|shuffle|sort)\(.*\)|.*\$\{[^{}]+\}.*""", re.DOTALL)
_SPLIT = re.compile(r"\+{0,2}(data\.(?:queries|qrels)\.)([^=]+)=(.*)", re.DOTALL)
_ENCODED = "hex_"  # starts a split's name that Hydra's grammar does not allow, followed by its UTF-8 bytes


def hydra_words(words: list[str]) -> list[str]:
    """Return the command line in Hydra's grammar.

    `-m` may stand anywhere, `data.queries` and `data.qrels` take splits of any name, and keys whose values are text
    take any characters. A job of a sweep is named after the values that vary, without those that name the run
    folder: `run_dir`, and `experiment` where neither `run_dir` nor `name` is set.

    Raises:
        UserError: A value that Hydra cannot read, or a launcher without a sweep; the message names the key.
    """
    sweep = any(word in _MULTIRUN for word in words)
    words = [_quote_text(word, sweep) for word in words]
    words = [_add_split(word) for word in words]
    for word in words:
        if added := _ADDED_KEY.match(word):
            raise UserError(f"{added[1]}: the config key does not exist. See `--cfg job` for all keys.")
    overrides = [_parse(word) for word in words if "=" in word and not word.startswith("-")]
    launcher = next((word for word in words if word.startswith("hydra/launcher=")), None)
    if not sweep:
        if launcher:
            raise UserError(f"hydra/launcher: {launcher} is for sweeps. Add -m, also for one job, or leave it out.")
        return words
    if launcher and launcher.startswith("hydra/launcher=slurm") and not shutil.which("srun"):
        raise UserError("hydra/launcher: this machine has no srun. Leave it out, or run this on a SLURM machine.")
    fixed = {override.key_or_group for override in overrides if not override.is_sweep_override()}
    fixed |= {"overwrite", "run_dir"}
    if not any(override.key_or_group in ("run_dir", "name") for override in overrides):
        fixed.add("experiment")
    rest = [word for word in words if word not in _MULTIRUN]
    return ["-m", *rest, f"hydra.job.config.override_dirname.exclude_keys=[{','.join(sorted(fixed))}]"]


def with_name(words: list[str]) -> list[str]:
    """Name a run after its experiment, its folder or its data, where neither the user nor the experiment names it."""
    values = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("-"))
    experiment = values.get("experiment")
    if "name" in values or experiment in ("null", _BASE):
        return words
    if experiment is not None:
        file = experiment_file(experiment, words)
        is_named = file is None or re.search("^name:", file.read_text(errors="replace"), re.MULTILINE)
        return words if is_named else [f"name={PurePath(experiment).name}", *words]
    named_after = values.get("run_dir", values.get("data", ""))
    is_sweep = "," in named_after and any(word in _MULTIRUN for word in words)
    name = PurePath(named_after).name
    if not name or is_sweep or _GRAMMAR.fullmatch(named_after):
        return words
    return [f"name={name}", *words]


def quoted(text: str) -> str:
    """Return text as the value of an override, whatever characters it holds."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"


def typed_word(word: str) -> str:
    """Return an override of `hydra_words` as a user types it."""
    key, equals, value = word.partition("=")
    key = decoded_split_key(key)
    if re.fullmatch(r"'[^'\\$]*'", value):
        value = value[1:-1]
    return f"{key}{equals}{value}"


def decoded_split_key(key: str) -> str:
    """Return the key of an override as it is in the config."""
    match = re.fullmatch(r"\+{0,2}(data\.(?:queries|qrels)\.)(.+)", key)
    return f"{match[1]}{decoded_split(match[2])}" if match else key


def decoded_split(name: str) -> str:
    """Return the name of a split that `hydra_words` may have encoded."""
    return bytes.fromhex(name.removeprefix(_ENCODED)).decode() if name.startswith(_ENCODED) else name


def _quote_text(word: str, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    if not (equals and value and _TEXT_KEYS.fullmatch(key)) or _GRAMMAR.fullmatch(value):
        return word
    if value[0] == "[" and value[-1] == "]":
        return f"{key}=[{_quote_parts(value[1:-1].split(','))}]"
    return f"{key}={_quote_parts(value.split(',') if sweep and not key.endswith('index') else [value])}"


def _quote_parts(parts: list[str]) -> str:
    parts = [part.strip() for part in parts] if len(parts) > 1 else parts
    return ",".join(part if not part or _GRAMMAR.fullmatch(part) else quoted(part) for part in parts)


def _add_split(word: str) -> str:
    """Return the override that adds a file of a split, whatever the split's name."""
    if not (match := _SPLIT.fullmatch(word)):
        return word
    group, split, value = match.groups()
    if not re.fullmatch(r"[A-Za-z_][\w.]*", split, re.ASCII):
        split = f"{_ENCODED}{split.encode().hex()}"
    return f"++{group}{split}={value}"


def _parse(word: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(word)
        group, option = override.key_or_group, override.value()
        options = option if isinstance(option, list) else [option]
        is_default = group == "experiment" and option is None
        if group in _GROUPS and not is_default and not all(isinstance(one, str | dict | Sweep) for one in options):
            raise UserError(f"{word}: the option does not exist. Choose one of conf/{group}/.")
        return override
    except HydraException as error:
        key, _, value = word.partition("=")
        raise UserError(
            f"{key}: {value!r} is not a value that Hydra can read. Put it in two pairs of quotes: \"{key}='…'\"."
        ) from error
