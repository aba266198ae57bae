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

import pytest
from support.commands import run_command
from support.world import ROOT, WORDS, passage, question, settings_of, training_row, write_jsonl

sys.path.insert(0, str(ROOT))


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
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "initializer_range": 0.2,
    }
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=160, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


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
    folder = tmp_path_factory.mktemp("world")
    write_jsonl(folder / "corpus.jsonl", [passage(i) for i in range(40)])
    write_jsonl(folder / "train.jsonl.gz", [training_row(i) for i in range(32)])
    write_jsonl(folder / "dev.jsonl", [training_row(i) for i in range(32, 40)])
    write_jsonl(folder / "test.jsonl", [question(i) for i in range(0, 36, 3)])
    (folder / "test.qrels").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(0, 36, 3)))
    return folder


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
    given = settings_of(world, tiny_model, folder / "run")
    for name, *more in [("train",), ("encode",), ("encode", "side=query"), ("search",), ("evaluate",)]:
        assert run_command(name, [*given, *more], folder) == 0
    return folder / "run"


@pytest.fixture
def finished_run(_finished_run, tmp_path):
    """A copy, in the place that `settings` names, of a run folder in which all stages are finished."""
    return shutil.copytree(_finished_run, tmp_path / "run")
