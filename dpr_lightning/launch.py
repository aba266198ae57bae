"""Between Hydra and plain arguments: makes a function of a config a command with short errors and exit codes."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dpr_lightning.errors import UserError

_FULL_ERROR = "HYDRA_FULL_ERROR"


def command(task: Callable[[DictConfig], str]) -> Callable[[], None]:
    """Turns `task(config)`, defined in a script beside `conf/`, into the command that the script runs.

    The config of the script's name is composed with the command line, the task runs once or, with `-m`, for each
    combination, and the line that it returns is printed. A user's mistake ends the process with one line on stderr
    and exit code 1 (with a traceback if HYDRA_FULL_ERROR=1), Ctrl-C with 130.
    """
    script = Path(task.__code__.co_filename)
    wants_traceback = os.environ.get(_FULL_ERROR) == "1"

    @functools.wraps(task)
    def run(config: DictConfig) -> None:
        if not wants_traceback:
            os.environ.pop(_FULL_ERROR, None)
        with _mistakes_in_one_line(wants_traceback):
            print(task(config), flush=True)

    @functools.wraps(task)
    def entry() -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no report of the pooler that is left out
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # allowed in any place
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning 2.6 on a newer torch
        os.environ[_FULL_ERROR] = "1"  # while the config is composed: lets Hydra raise what it would print at length
        with _mistakes_in_one_line(wants_traceback):
            hydra.main(version_base="1.3", config_path=str(script.parent / "conf"), config_name=script.stem)(run)()

    return entry


@contextlib.contextmanager
def _mistakes_in_one_line(wants_traceback: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        print(_one_line(error), file=sys.stderr)
        sys.exit(1)


def plain(config: DictConfig, *keys: str) -> dict[str, Any]:
    """The values of a config, or of some of its keys, as plain Python objects."""
    values: Any = OmegaConf.to_container(config, resolve=True)
    return {key: values[key] for key in keys} if keys else values


def explicit_keys(group: str) -> list[str]:
    """The keys of a group that were set on the command line, e.g. `pooling` for `model.pooling=mean`."""
    names = [override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task]
    return [name.removeprefix(f"{group}.") for name in names if name.startswith(f"{group}.")]


def training_run_dir(config: DictConfig) -> Path:
    """The run folder of a training: `run_dir`, and in a sweep a folder below it that names the job's settings."""
    job = HydraConfig.get()
    settings = job.job.override_dirname
    if job.mode == RunMode.MULTIRUN and settings and "run_dir=" not in settings:
        return Path(config.run_dir) / re.sub(r"[^\w.=,+-]+", "_", settings)
    return Path(config.run_dir)


def _one_line(error: Exception) -> str:
    """The message of a mistake in one line; Hydra's own get what to do in our terms."""
    cause = error.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if unknown := re.match(r"Could not override '([^']+)'\.", text):
        return f"{unknown[1]}: there is no such config key. See `--cfg job` for all keys."
    if cause is not None and not isinstance(cause, HydraException | OmegaConfBaseException):
        text += f" ({' '.join(str(cause).split())})"
    return text
