"""A tiny random BERT, a small world of questions and passages, and the commands as functions."""

import gzip
import importlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data" / "nq-mini"
WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvz"]
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


def passage(number):
    """Passage `number` of the small world: its text names three words that no other passage combines."""
    words = [WORDS[number % 240], WORDS[(number * 7 + 3) % 240], WORDS[(number * 13 + 5) % 240]]
    return {"docid": f"d{number}", "title": words[0], "text": " ".join(words * (1 + number % 4))}


def question(number):
    """Question `number`, answered by passage `number`."""
    own = passage(number)
    return {"query_id": f"q{number}", "query": f"{own['title']} {own['text'].split()[1]}", "answers": [own["title"]]}


def training_row(number, negatives=3):
    """Question `number` with its passage and the next ones as hard negatives."""
    others = [passage((number + 1 + i) % 40) for i in range(negatives)]
    return {**question(number), "positive_passages": [passage(number)], "negative_passages": others}


def write_jsonl(path, rows):
    """Writes rows as JSON Lines, compressed where the name ends in .gz."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


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


def settings_of(world, model, run_dir):
    """Overrides that point a command at the files of `world`, a model and a run folder."""
    return [
        "data=files",
        f"data.train={world}/train.jsonl.gz",
        f"data.dev={world}/dev.jsonl",
        f"data.corpus={world}/corpus.jsonl",
        f"data.queries.test={world}/test.jsonl",
        f"data.qrels.test={world}/test.qrels",
        "data.batch_size=8",
        "data.num_workers=0",
        f"model.name_or_path={model}",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "trainer.log_every_n_steps=1",
        "trainer.enable_progress_bar=false",
        "num_shards=3",
        "depth=20",
        f"run_dir={run_dir}",
    ]


@pytest.fixture
def settings(world, tiny_model, tmp_path):
    """Overrides that point a command at the small world, the tiny model and a run folder of the test's own."""
    return settings_of(world, tiny_model, tmp_path / "run")


def run_script(name, overrides, folder):
    """Runs a root script in this process, started in `folder`, and gives its exit code."""
    from hydra.core.global_hydra import GlobalHydra

    sys.modules.pop(name, None)
    script = importlib.import_module(name)
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
            for handler in list(logging.getLogger().handlers):
                if type(handler) in (logging.FileHandler, logging.StreamHandler):
                    logging.getLogger().removeHandler(handler)
                    handler.close()
    return 0


@pytest.fixture
def command(capfd, tmp_path):
    """Runs a root script in this process: `command("train", *overrides)` gives (exit code, stdout, stderr)."""

    def run(name, *overrides):
        capfd.readouterr()
        code = run_script(name, overrides, tmp_path)
        return code, *capfd.readouterr()

    return run


@pytest.fixture(scope="session")
def _finished_run(world, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    given = settings_of(world, tiny_model, folder / "run")
    for name, *more in [("train",), ("encode",), ("encode", "side=query"), ("search",), ("evaluate",)]:
        assert run_script(name, [*given, *more], folder) == 0
    return folder / "run"


@pytest.fixture
def finished_run(_finished_run, tmp_path):
    """A copy, in the place that `settings` names, of a run folder in which all stages are finished."""
    return shutil.copytree(_finished_run, tmp_path / "run")
