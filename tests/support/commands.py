"""Runs the commands and the scripts in this process, or a command in a process of its own."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import sys
from unittest.mock import patch

import pytest
from support.world import ROOT


def run_script(name, *arguments):
    """`run_script("ask", run_dir, "question")` gives (exit code, stdout, stderr)."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    out, err, code = io.StringIO(), io.StringIO(), 0
    words = [f"{name}.py", *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch.object(sys, "argv", words):
        try:
            spec.loader.exec_module(module)
            module.main()
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def assert_succeeds(result):
    """What a script printed that did not fail."""
    code, out, err = result
    assert code == 0, err
    assert err == ""
    return out


def assert_mistake(result):
    """The line on stderr of a script that ended with a user's mistake."""
    code, out, err = result
    assert (code, out) == (1, ""), (out, err)
    assert err.count("\n") == 1
    return err.strip()


def run_command(name, overrides, folder):
    """Runs a root script in this process, started in `folder`, and gives its exit code."""
    from hydra.core.global_hydra import GlobalHydra

    sys.modules.pop(f"dpr_lightning.commands.{name}", None)
    script = importlib.import_module(f"dpr_lightning.commands.{name}")
    level = logging.getLogger().level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *overrides])
        patch.chdir(folder)
        try:
            getattr(script, name)()
        except SystemExit as stop:
            return stop.code
        finally:
            GlobalHydra.instance().clear()
            os.environ.pop("HYDRA_FULL_ERROR", None)
            logging.captureWarnings(False)
            logging.getLogger().setLevel(level)
            for handler in list(logging.getLogger().handlers):
                if type(handler) in (logging.FileHandler, logging.StreamHandler):
                    logging.getLogger().removeHandler(handler)
                    handler.close()
    return 0


def finish_run(settings, folder):
    """Run all stages, started in `folder`, and return the run folder."""
    for name, *more in [("train",), ("encode",), ("encode", "side=query"), ("search",), ("evaluate",)]:
        assert run_command(name, [*settings, *more], folder) == 0
    return folder / "run"
