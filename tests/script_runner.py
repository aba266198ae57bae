"""Runs a file of scripts/ in this process."""

import contextlib
import importlib.util
import io
import sys
from unittest.mock import patch

from conftest import ROOT


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


def succeed(result):
    """What a script printed that did not fail."""
    code, out, err = result
    assert code == 0, err
    assert err == ""
    return out


def mistake(result):
    """The line on stderr of a script that ended with a user's mistake."""
    code, out, err = result
    assert (code, out) == (1, ""), (out, err)
    assert err.count("\n") == 1
    return err.strip()
