"""The wheel: its console scripts compose the shipped configs, and a user's own, from any folder."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml
from support.world import ROOT

COMMANDS = ["train", "encode", "search", "reduce", "evaluate"]
pytestmark = pytest.mark.slow


def run(program, *words, folder):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([program, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `bin` folder of a fresh environment with the wheel, whose dependencies are those of this environment."""
    source, fresh = (tmp_path_factory.mktemp(name) for name in ("source", "fresh"))
    for name in ("dpr_lightning", "conf"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", ".", "--wheel-dir", "dist", folder=source)
    (wheel,) = (source / "dist").glob("*.whl")
    venv.create(fresh, with_pip=False, symlinks=True)
    run(*pip, "--python", fresh / "bin" / "python", "install", "--no-deps", wheel, folder=source)
    (packages,) = fresh.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(ours))
    return fresh / "bin"


def test_the_package_of_the_wheel_is_the_one_that_runs(installed, tmp_path):
    file = run(installed / "python", "-c", "import dpr_lightning; print(dpr_lightning.__file__)", folder=tmp_path)
    assert Path(file).is_relative_to(installed.parent)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_console_script_composes_an_experiment_anywhere(installed, tmp_path, name):
    config = yaml.safe_load(run(installed / f"dpr-{name}", "experiment=nq_untie", "--cfg", "job", folder=tmp_path))
    assert (config["name"], config["model"]["tied"], config["data"]["batch_size"]) == ("nq_untie", False, 32)
    assert list(tmp_path.iterdir()) == []


def test_every_config_file_is_in_the_wheel(installed):
    (shipped,) = installed.parent.glob("lib/python*/site-packages/dpr_lightning/conf")
    files = {path.relative_to(ROOT / "conf"): path.read_text() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {path.relative_to(shipped): path.read_text() for path in shipped.rglob("*.*")} == files
    assert Path("hydra/launcher/slurm_gpu.yaml") in files
    assert (shipped.parent / "serving" / "page.html").is_file()


def test_the_template_of_the_report_is_in_the_wheel(installed):
    (folder,) = installed.parent.glob("lib/python*/site-packages/dpr_lightning/evaluation/report")
    assert {"report.html.j2", "report.css", "report.js"} <= {path.name for path in folder.iterdir()}


def test_a_users_own_experiment_comes_from_config_dir(installed, tmp_path):
    own, empty = tmp_path / "own", tmp_path / "empty"
    (own / "experiment").mkdir(parents=True)
    empty.mkdir()
    text = "# @package _global_\ndefaults:\n  - override /data: trivia\n\nname: mine\n"
    (own / "experiment" / "mine.yaml").write_text(text)
    words = ["--config-dir", own, "experiment=mine", "--cfg", "job"]
    config = yaml.safe_load(run(installed / "dpr-train", *words, folder=empty))
    assert config["name"] == "mine"
    assert "trivia" in str(config["data"]["train"])
