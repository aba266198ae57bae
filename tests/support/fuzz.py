"""Wrong values for every key of the composed config, and how each command ends with them.

A command must end with exit code 0, 1 or 2, with at most one line on stderr, and never by a signal.
"""

import contextlib
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.commands import finish_run, run_command
from support.world import ROOT, save_tiny_model, settings_of, write_world

COMMANDS = {"train": ["overwrite=true"], "encode": [], "encode-query": ["side=query"]}
COMMANDS |= {
    "search": [],
    "search-index": ["index=Flat"],
    "search-hybrid": ["method=hybrid"],
    "reduce": [],
    "evaluate": [],
}
OUTPUTS = {"encode": ["embeddings"], "encode-query": ["embeddings/query"], "search": ["rankings"]}
OUTPUTS |= {"search-index": ["rankings"], "search-hybrid": ["rankings"], "evaluate": ["evaluation"]}
VALUES = ["-1", "0", "1", "0.5", "1.5", "-0.0", "nan", "inf", "1e30", "abc", "''", "é", "null", "true", "False"]
VALUES += ["[]", "[1]", "[abc]", "{}", "{a:1}", "9223372036854775807", "9223372036854775808"]
VALUES += ["-9223372036854775809", "1e-300", "../x", "2024"]
UNSAFE = {"trainer.num_nodes"}  # a training waits for as many machines
TIMEOUT_S = 120


class Case(NamedTuple):
    """One wrong value for one key of one command."""

    command: str
    key: str
    value: str


class Ending(NamedTuple):
    """The exit code of a command (negative for a signal), and what it wrote to stderr."""

    code: int
    stderr: str

    @property
    def is_clean(self):
        return self.code in (0, 1, 2) and self.stderr.count("\n") <= 1 and (self.code == 0) == (not self.stderr)


def keys_of(config):
    """Every dotted key of a composed config as plain objects: groups and leaves."""
    for key, value in config.items():
        yield key
        if isinstance(value, dict):
            yield from (f"{key}.{rest}" for rest in keys_of(value))


def cases(keys, *, count, seed):
    """Pseudo-random cases; the first ones go through all keys."""
    draw, keys = random.Random(seed), sorted(keys)
    draw.shuffle(keys)
    for number in range(count):
        key = keys[number % len(keys)]
        value = draw.choice([v for v in VALUES if key not in UNSAFE or (len(v) < 9 and v not in ("1e30", "inf"))])
        yield Case(draw.choice(list(COMMANDS)), key, value)


class SmallRun(NamedTuple):
    """A finished run folder of the small world, and what a command needs to make another like it."""

    run: Path
    settings: Callable[[Path], list[str]]
    keys: list[str]


def small_run(folder):
    """Make a finished run in `folder`."""
    world, model = write_world(folder / "world"), save_tiny_model(folder / "model")

    def settings(run):
        return [*settings_of(world, model, run), "trainer.max_steps=2"]

    finish_run(settings(folder / "run"), folder)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", ["experiment=nq"]))
    return SmallRun(folder / "run", settings, list(keys_of(config)))


def run_case(case, small, folder):
    """Run a command with a wrong value in a forked process, on a copy of a finished run folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(small.run, folder / "run")
    for output in OUTPUTS.get(case.command, []):
        shutil.rmtree(folder / "run" / output)
    name = case.command.partition("-")[0]
    words = [*small.settings(folder / "run"), *COMMANDS[case.command], f"{case.key}={case.value}"]
    child = os.fork()
    if child == 0:
        _run_and_exit(name, words, folder)
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ending(-signal.SIGALRM, "took too long\n")
        time.sleep(0.02)
    return Ending(os.waitstatus_to_exitcode(status), (folder / "stderr").read_text(errors="replace"))


def _run_and_exit(name, words, folder):
    code = 99
    with contextlib.suppress(BaseException):
        os.setsid()
        warnings.simplefilter("default")  # a user's process goes on after a warning, unlike a test
        for stream, file in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        try:
            code = run_command(name, words, Path(folder))
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
