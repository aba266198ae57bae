"""A tiny random BERT, a small world of questions and passages, and the commands as functions."""

import json
import os
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
from support.commands import finish_run, run_command
from support.world import ROOT, save_tiny_model, settings_of, write_world

sys.path.insert(0, str(ROOT))
hypothesis.settings.register_profile("no-deadline", deadline=None)  # a busy machine is not a failure
hypothesis.settings.load_profile("no-deadline")


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Keeps the cache of checked data out of the home folder."""
    import datasets

    folder = tmp_path_factory.mktemp("cache")
    os.environ["HF_DATASETS_CACHE"] = str(folder)
    datasets.config.HF_DATASETS_CACHE = folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a BERT with 2 layers of 32 units, random weights from a fixed seed, and a word-piece tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture
def no_dropout_model(tiny_model, tmp_path):
    """The tiny model without dropout."""
    folder = tmp_path / "tiny-bert-no-dropout"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Files of the small world: 40 passages, 32 training, 8 dev and 12 test questions, qrels."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def settings(world, tiny_model, tmp_path):
    """Overrides that point a command at the small world, the tiny model and a run folder of the test's own."""
    return settings_of(world, tiny_model, tmp_path / "run")


@pytest.fixture
def command(capfd, tmp_path):
    """Runs a root script in this process: `command("train", *overrides)` gives (exit code, stdout, stderr)."""

    def run(name, *overrides):
        capfd.readouterr()
        code = run_command(name, overrides, tmp_path)
        return code, *capfd.readouterr()

    return run


@pytest.fixture(scope="session")
def _finished_run(world, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return finish_run(settings_of(world, tiny_model, folder / "run"), folder)


@pytest.fixture
def finished_run(_finished_run, tmp_path):
    """A copy, in the place that `settings` names, of a run folder in which all stages are finished."""
    return shutil.copytree(_finished_run, tmp_path / "run")
