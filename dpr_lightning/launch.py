"""Turns a function of a config into a Hydra command with one-line errors and exit codes."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dpr_lightning.call_record import command_text, forgotten_if_refused, recorded_end, write_call_record
from dpr_lightning.command_line import hydra_words, quoted, typed_word, with_name
from dpr_lightning.composition import help_text
from dpr_lightning.config import Config
from dpr_lightning.config_folders import config_dir_option, config_folder
from dpr_lightning.errors import FinishedError, error_line, report_user_errors
from dpr_lightning.guidance import error_message, next_command
from dpr_lightning.plan import Check, Plan
from dpr_lightning.run_dir import RunDir, folder_name
from dpr_lightning.slurm import queued_again
from dpr_lightning.submitted import failures_in_one_line, passed_to_launching_command
from dpr_lightning.training_config import recall_settings

_FULL_ERROR = "HYDRA_FULL_ERROR"
_log = logging.getLogger(__name__)


def command(
    *, checks: Callable[[Config], Iterable[Check]], plan: Callable[[Config, Plan], None]
) -> Callable[[Callable[[Config], str]], Callable[[], None]]:
    """Return a decorator that turns `task(config)` into the command of its name.

    Args:
        checks: Returns the checks that are made before the task. They import neither torch nor a model.
        plan: Adds what the task would do to a plan. With `plan=true`, the plan is printed instead, with the problems
            that all checks find.
    """
    return lambda task: _command(task, checks, plan)


def _command(
    task: Callable[[Config], str], checks: Callable[[Config], Iterable[Check]], plan: Callable[[Config, Plan], None]
) -> Callable[[], None]:
    """Turn a task into a command; see `command`.

    Hydra composes `conf/NAME.yaml` with the command line. The task runs once or, with `-m`, for each combination, and
    the text that it returns is printed. A user's mistake ends the process with one line on stderr and exit code 1
    (with a traceback if HYDRA_FULL_ERROR=1), Ctrl-C with 130. Everything printed, warnings included, is in the log.
    """
    wants_traceback = os.environ.get(_FULL_ERROR) == "1"
    report = functools.partial(report_user_errors, HydraException, OmegaConfBaseException, traceback=wants_traceback)

    @functools.wraps(task)
    def run(composed: DictConfig) -> float | None:
        if not wants_traceback:
            os.environ.pop(_FULL_ERROR, None)
        config = Config(dict.fromkeys(composed), composed)
        but = " without overwrite=true" if composed.get("overwrite") else ""
        interrupted = f"interrupted; the same command{but} continues"
        folder = Path(HydraConfig.get().runtime.output_dir)
        with (
            passed_to_launching_command(folder),
            forgotten_if_refused(folder),
            recorded_end(folder) as end,
            report(message=lambda error: _logged(error_message(error, config, task.__name__)), interrupted=interrupted),
            _restored_environment(),
        ):
            config.resolve()
            recalled = _recall(task.__name__, config)
            _record_call(config)
            config.check_keys()
            if recalled:
                _log.info(recalled)
            if config["plan"]:
                _show_plan(task.__name__, config, checks, plan)
                return None
            for check in checks(config):
                check()
            if text := _run_or_skip(task, config, end):
                print(_logged(text), flush=True)
                end["line"] = text.partition("\n")[0]
            return config.objective

    @functools.wraps(task)
    def entry() -> None:
        if "--version" in sys.argv[1:]:
            print(f"dpr_lightning {version('dpr_lightning')}")
            return
        for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):  # no report of the unused pooler, or of retries
            os.environ.setdefault(name, "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        logging.captureWarnings(True)
        logging.raiseExceptions = False  # a full disk under the log prints no tracebacks
        for message in (".*LeafSpec", ".*srun. command is av", "The version_base par", "hydra.utils.instantiate"):
            warnings.filterwarnings("ignore", message)  # Lightning on a newer torch and on a login node; Hydra 1.4
        os.environ[_FULL_ERROR] = "1"  # makes Hydra raise errors while it composes, instead of printing them
        with (
            report(message=lambda error: error_message(error, Config({}), task.__name__)),
            failures_in_one_line(),
            _without_traces(hydra_words(with_name(sys.argv[1:]))) as words,
        ):
            sys.argv[1:] = words
            if {"--help", "-h"} & set(words):
                print(help_text(task.__name__, words))
                return
            hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=task.__name__)(run)()

    return entry


@contextlib.contextmanager
def _without_traces(words: list[str]) -> Iterator[list[str]]:
    """Yield a command line; with `plan=true` it runs here, and its log folder is deleted at the end."""
    plans = [word.partition("=")[2].lower() for word in words if word.lstrip("+").startswith("plan=")]
    if plans[-1:] != ["true"]:
        yield words
        return
    words = [word for word in words if not word.startswith(("hydra/launcher=", "hydra.launcher."))]
    with tempfile.TemporaryDirectory(prefix="dpr_lightning-plan-") as folder:
        yield [*words, f"hydra.run.dir={quoted(folder)}", f"hydra.sweep.dir={quoted(folder)}"]


def _show_plan(
    command: str,
    config: Config,
    checks: Callable[[Config], Iterable[Check]],
    add_plan: Callable[[Config, Plan], None],
) -> None:
    """Print what a command would do, and on stderr a line for each problem; with problems, end with exit code 1."""
    plan = Plan()
    plan.check(checks(config))
    with plan.collected():
        add_plan(config, plan)
    print(plan, flush=True)
    for problem in plan.problems:
        print(error_line(problem, lambda error: error_message(error, config, command)), file=sys.stderr)
    if plan.problems:
        raise SystemExit(1)


def _recall(command: str, config: Config) -> str:
    """Take what nothing has named from the training of the run; return a line that says so, or an empty string."""
    if command not in ("encode", "search", "evaluate") or not isinstance(config["run_dir"], str):
        return ""
    run = RunDir(Path(config["run_dir"]))
    recalled = recall_settings(config.values, run, HydraConfig.get().overrides.task)
    return f"{', '.join(recalled)}: as in the training, {run.training_config}" if recalled else ""


def _run_or_skip(task: Callable[[Config], str], config: Config, end: dict[str, Any]) -> str:
    """Run the task and name the next command; skip a finished output in a sweep, or where a script calls all stages.

    Set `is_finished` of `end` if the output is skipped.
    """
    try:
        with queued_again():
            text = task(config)
    except FinishedError as error:
        if not config.skips_finished:
            raise
        end["is_finished"] = True
        return f"{error.path}: finished already, skipped"
    following = next_command(task.__name__, config) if text and not config["skip_finished"] else None
    return f"{text}\nnext: {following}" if following else text


def _record_call(config: Config, *changes: str) -> None:
    """Write the record of this call, of a sweep that of this one job, with some overrides changed."""
    settings = OmegaConf.to_yaml(OmegaConf.create(dict(config.values)))
    write_call_record(Path(HydraConfig.get().runtime.output_dir), _words(*changes), settings)


def _words(*changes: str) -> list[str]:
    """Return the name of this command and the words after it as a user types them, with some overrides changed."""
    job, changed = HydraConfig.get(), {word.partition("=")[0] for word in changes}
    words = [typed_word(word) for word in job.overrides.task if word.partition("=")[0] not in changed]
    return [job.job.name, *config_dir_option(sys.argv[1:]), *words, *changes]


def this_call(config: Config) -> dict[str, Any]:
    """Return what `evaluate` takes as its `call`: the command line, the log folder and the seed of this call."""
    log = HydraConfig.get().runtime.output_dir
    return {"command": command_text(_words()), "log": log, "seed": config["seed"]}


def explicit_keys(group: str) -> list[str]:
    """Return the keys of a group that were set on the command line, e.g. `pooling` for `model.pooling=mean`."""
    names = [override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task]
    return [name.removeprefix(f"{group}.") for name in names if name.startswith(f"{group}.")]


def this_command(module: str, folder: str, *overrides: str) -> list[str]:
    """Return the command line that runs this command (of a sweep, this one job) once more.

    Args:
        module: The command's module, `__name__` there.
        folder: Subfolder of this command's log folder, for the logs of the new one.
        overrides: Added last, so that they win.
    """
    job = HydraConfig.get()
    words = job.overrides.task if job.mode == RunMode.MULTIRUN else sys.argv[1:]
    logs = quoted(str(Path(job.runtime.output_dir) / folder))
    return [sys.executable, "-m", module, *words, *overrides, f"hydra.run.dir={logs}"]


def training_run(config: Config) -> RunDir:
    """Return the run folder of a training: `run_dir`, or in a sweep a subfolder that names what the job varies.

    In a sweep, `run_dir` becomes that subfolder, and `sys.argv` becomes the command line of this one job: Lightning
    starts the processes of the other devices with it, and these must not start the sweep again.
    """
    job = HydraConfig.get()
    folder = Path(config["run_dir"])
    if job.mode == RunMode.MULTIRUN:
        if job.job.override_dirname:
            folder /= folder_name(job.job.override_dirname)
        sys.argv[1:] = [*job.overrides.task, f"run_dir={quoted(str(folder))}"]
        config.resolve(run_dir=str(folder))
        _record_call(config, f"run_dir={folder}")
    return RunDir(folder)


@contextlib.contextmanager
def _restored_environment() -> Iterator[None]:
    """Restore the environment for a sweep's next job: Lightning sets variables for the processes that it starts."""
    kept = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _logged(text: str) -> str:
    """Append the text to the log file of this job, and return it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(logging.LogRecord(__name__, logging.INFO, __file__, 0, text, None, None))
    return text
