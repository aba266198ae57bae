"""Commands and scripts import large packages only where they use them, because importing takes seconds."""

import subprocess
import sys

import pytest
from support.world import ROOT, question

LARGE = {"torch", "pytorch_lightning", "transformers", "datasets", "faiss", "sentence_transformers", "matplotlib"}


def large_imports(*words, folder):
    """The large packages that `python WORDS` imports."""
    command = [sys.executable, "-X", "importtime", *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 100
    return LARGE & {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["search.py"], {"faiss"}),
        (["evaluate.py"], {"datasets", "matplotlib"}),
        (["encode.py", "side=query"], {"torch", "transformers", "datasets"}),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_command_imports_what_it_uses(settings, finished_run, tmp_path, words, expected):
    words = [ROOT / words[0], *words[1:], *settings, "overwrite=true"]
    assert large_imports(*words, folder=tmp_path) == expected


def test_asking_imports_no_trainer(finished_run, tmp_path):
    words = [ROOT / "scripts" / "ask.py", finished_run, question(3)["query"]]
    assert large_imports(*words, folder=tmp_path) == {"torch", "transformers", "datasets", "faiss"}


def test_help_imports_nothing_large(tmp_path):
    assert large_imports(ROOT / "train.py", "--help", folder=tmp_path) == set()


def test_nothing_large_is_imported_before_the_command_line_is_read(tmp_path):
    """All commands, all scripts and the package itself, in one process."""
    code = "import runpy, sys, dpr_lightning; [runpy.run_path(path) for path in sys.argv[1:]]"
    files = [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")]
    assert len(files) > 15
    assert large_imports("-c", code, *files, folder=tmp_path) == set()
