"""Every script is short, documents its use, runs from any folder, and reports a mistake in one line."""

import subprocess
import sys

import pytest
from support.world import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def test_the_documented_scripts_exist():
    names = {path.stem for path in SCRIPTS}
    assert names >= {"ask", "compare", "convert_run", "mine_negatives", "verify_embeddings"}
    assert names >= {"import_model", "import_embeddings", "export_embeddings", "push_to_hub", "fuse"}
    assert names >= {"replicate", "status", "prepare", "serve", "explain"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_its_docstring_shows_its_use(path):
    text = path.read_text()
    assert len(text.splitlines()) < 100
    assert f"\n    python scripts/{path.name} " in text.split('"""')[1]


@pytest.mark.parametrize("name", ["ask", "compare", "convert_run", "mine_negatives"])
def test_a_script_runs_from_any_folder(name, tmp_path):
    command = [sys.executable, ROOT / "scripts" / f"{name}.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python scripts/{name}.py" in done.stdout


def test_a_mistake_gives_one_line_on_stderr_and_exit_code_1(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "convert_run.py", "absent.trec", "out.txt", "--to", "text"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "absent.trec does not exist. Run search.py, or set run_file.\n"
