"""Between Hydra and plain arguments: makes a function of a config a command with short errors and exit codes."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import re
import shutil
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dpr_lightning.errors import UserError, report_user_errors

_FULL_ERROR = "HYDRA_FULL_ERROR"
_MULTIRUN = ("-m", "--multirun")
_KEY_TYPES: dict[str, Any] = {  # of keys that no constructor checks before they matter
    **dict.fromkeys(("name", "run_dir", "model_dir", "run_file", "split"), str),
    **dict.fromkeys(("overwrite", "data.skip_invalid", "data.match_title"), bool),
    "seed": int,
    "shard": int | None,
}
_SCALARS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}


def command(task: Callable[[DictConfig], str]) -> Callable[[], None]:
    """Turns `task(config)`, defined in a script beside `conf/`, into the command that the script runs.

    The config of the script's name is composed with the command line, the task runs once or, with `-m`, for each
    combination, and the line that it returns is printed. A user's mistake ends the process with one line on stderr
    and exit code 1 (with a traceback if HYDRA_FULL_ERROR=1), Ctrl-C with 130. Warnings go to the log.
    """
    script = Path(task.__code__.co_filename)
    wants_traceback = os.environ.get(_FULL_ERROR) == "1"
    mistakes = functools.partial(
        report_user_errors,
        HydraException,
        OmegaConfBaseException,
        message=_message,
        traceback=wants_traceback,
    )

    @functools.wraps(task)
    def run(config: DictConfig) -> None:
        if not wants_traceback:
            os.environ.pop(_FULL_ERROR, None)
        again = "the same command without overwrite=true" if config.get("overwrite") else "the same command"
        with mistakes(interrupted=f"interrupted; {again} goes on from here"), _environment_kept():
            for key, hint in _KEY_TYPES.items():
                _check_type(OmegaConf.select(config, key), hint, key)
            if summary := task(config):
                print(summary, flush=True)

    @functools.wraps(task)
    def entry() -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no report of the pooler that is left out
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # no report of each attempt to reach the hub
        logging.captureWarnings(True)
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning 2.6 on a newer torch
        os.environ[_FULL_ERROR] = "1"  # while the config is composed: lets Hydra raise what it would print at length
        with mistakes():
            sys.argv[1:] = _hydra_arguments(sys.argv[1:])
            hydra.main(version_base="1.3", config_path=str(script.parent / "conf"), config_name=script.stem)(run)()

    return entry


def plain(config: DictConfig, *keys: str) -> dict[str, Any]:
    """The values of a config, or of some of its keys, as plain Python objects."""
    values: Any = OmegaConf.to_container(config, resolve=True)
    return {key: values[key] for key in keys} if keys else values


def make(config: DictConfig, key: str, **arguments: Any) -> Any:
    """The object that the config describes under `key`; with `_partial_`, a function that makes it.

    Args:
        config: the whole config.
        key: of a group with `_target_`.
        arguments: override or extend those of the config.

    Raises:
        UserError: an argument of the wrong type, or one that the target refuses, now or when the function is called;
            the message names `key`.
    """
    group: Any = OmegaConf.select(config, key)
    values = plain(group) | arguments
    with naming(key):
        _check_arguments(get_object(values["_target_"]), values, key)
        made = instantiate(group, **arguments, _convert_="all")
    if not values.get("_partial_"):
        return made

    def make_now(*args: Any, **kwargs: Any) -> Any:
        with naming(key):
            return made(*args, **kwargs)

    return make_now


@contextlib.contextmanager
def naming(key: str) -> Iterator[None]:
    """Turns what a function raises at a wrong argument into a UserError that names the config key."""
    try:
        yield
    except (InstantiationException, TypeError, ValueError, ImportError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, UserError) or not isinstance(cause, TypeError | ValueError | OSError | ImportError):
            raise cause from cause.__cause__
        raise UserError(f"{key}: {str(cause).rstrip('.')}. Correct {key}.") from error


def explicit_keys(group: str) -> list[str]:
    """The keys of a group that were set on the command line, e.g. `pooling` for `model.pooling=mean`."""
    names = [override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task]
    return [name.removeprefix(f"{group}.") for name in names if name.startswith(f"{group}.")]


def this_command(script: str, folder: str, *overrides: str) -> list[str]:
    """The command line that runs this command (of a sweep, this one job) once more.

    Args:
        script: the file of the command.
        folder: of its logs, below those of this one.
        overrides: come last, so that they win.
    """
    job = HydraConfig.get()
    words = job.overrides.task if job.mode == RunMode.MULTIRUN else sys.argv[1:]
    logs = _quoted(Path(job.runtime.output_dir) / folder)
    return [sys.executable, script, *words, *overrides, f"hydra.run.dir={logs}"]


def training_run_dir(config: DictConfig) -> Path:
    """The run folder of a training: `run_dir`, and in a sweep a folder below it that names what the job varies.

    In a sweep, `sys.argv` becomes the command line of this one job: with it Lightning starts the processes of the
    other devices, which must not start the sweep again.
    """
    job = HydraConfig.get()
    folder = Path(config.run_dir)
    if job.mode == RunMode.MULTIRUN:
        varied = job.job.override_dirname
        if varied and "run_dir-" not in varied:
            folder /= re.sub(r"[^\w.+-]+", "_", varied)
        sys.argv[1:] = [*job.overrides.task, f"run_dir={_quoted(folder)}"]
    return folder


def _quoted(path: Path) -> str:
    """A path as the value of an override, whatever characters it holds."""
    escaped = str(path).replace("'", r"\'")
    return f"'{escaped}'"


def keep_settings(config: DictConfig, folder: Path) -> None:
    """Writes the config of a training into its folder.

    Raises:
        UserError: the folder holds resume points of a training with other settings, which this one would continue.
    """
    from dpr_lightning.training.resume_settings import check_resume_settings

    file, settings = folder / "config.yaml", plain(config)
    if file.exists() and any(folder.glob("checkpoints/step-*.ckpt")):
        began: Any = OmegaConf.to_container(OmegaConf.load(file))
        check_resume_settings(began, settings, file)
    OmegaConf.save(settings, file)


def _hydra_arguments(words: list[str]) -> list[str]:
    """The command line as Hydra takes it.

    `-m` may stand in any place, `data.queries` and `data.qrels` take splits of any name, `index` takes a value with
    commas, and in a sweep the name of a job is made of what varies alone (and of `experiment` only where it does not
    give the run folder its name).
    """
    words = [re.sub(r"^(data\.(?:queries|qrels)\.)", r"++\1", word) for word in words]
    words = [re.sub(r"^index=(?!['\"]|choice\()(.*[,(].*)", r"index='\1'", word) for word in words]
    rest = [word for word in words if word not in _MULTIRUN]
    if len(rest) == len(words):
        return words
    if any(word.startswith("hydra/launcher=slurm") for word in words) and not shutil.which("srun"):
        raise UserError("hydra/launcher: there is no SLURM here (no srun). Leave it out, or start this where SLURM is.")
    parser = OverridesParser.create()
    overrides = parser.parse_overrides([word for word in rest if "=" in word and not word.startswith("-")])
    fixed = {override.key_or_group for override in overrides if not override.is_sweep_override()} | {"overwrite"}
    if "run_dir" not in fixed:
        fixed.add("experiment")
    return ["-m", *rest, f"hydra.job.config.override_dirname.exclude_keys=[{','.join(sorted(fixed))}]"]


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Restores the environment variables, some of which Lightning sets for other processes, for a sweep's next job."""
    kept = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _message(error: Exception) -> str:
    """What to tell the user; Hydra's own errors get what to do in our terms."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}={option}: there is no such option. Set {group} to one of: {', '.join(error.options)}."
    if unknown := re.match(r"Could not override '([^']+)'\.", str(error)):
        return f"{unknown[1]}: there is no such config key. See `--cfg job` for all keys."
    return str(error)


def _check_arguments(target: Callable[..., Any], values: Mapping[str, Any], key: str) -> None:
    hints: dict[str, Any] = {}
    with contextlib.suppress(NameError):  # a type that is imported for type checkers alone
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name in hints.keys() & values.keys():
        _check_type(values[name], hints[name], f"{key}.{name}")


def _check_type(value: Any, hint: Any, key: str) -> None:
    """Raises UserError for text, a number, a truth value or null where the type hint takes something else."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(value) not in _SCALARS or any(option is Any or get_origin(option) is not None for option in options):
        return
    if type(value) not in options and not (type(value) is int and float in options):
        wanted = " or ".join(_SCALARS[option] for option in options if option in _SCALARS)
        raise UserError(f"{key}: {value!r} is not {wanted or 'possible'}. Correct {key}.")
