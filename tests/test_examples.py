"""The examples of use from Python: short, without Hydra, and they run from training to evaluation."""

import json
import re

import pytest
from support.processes import Script
from support.world import ROOT, question

EXAMPLES = ROOT / "examples" / "python"


def run(name, *words, folder):
    return Script(EXAMPLES / f"{name}.py", *words, folder=folder).finish()


@pytest.mark.parametrize("name", ["train", "encode", "search", "evaluate"])
def test_an_example_is_short_and_does_not_use_hydra(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 20
    assert not re.search("hydra|omegaconf|launch", text)


@pytest.mark.slow
def test_the_examples_run_from_training_to_evaluation(world, tiny_model, tmp_path):
    run_dir, corpus, queries = tmp_path / "run", world / "corpus.jsonl", world / "test.jsonl"
    assert "trained 4 steps" in run("train", world / "train.jsonl.gz", tiny_model, run_dir, folder=tmp_path)
    assert run("encode", run_dir, corpus, queries, folder=tmp_path).count("\n") == 3
    out = run("search", run_dir, corpus, question(0)["query"], folder=tmp_path)
    assert "12 queries x 20 of 40 passages" in out
    assert len(re.findall(r"^-?\d+\.\d{3} d\d+ ", out, re.MULTILINE)) == 3
    out = run("evaluate", run_dir, corpus, queries, folder=tmp_path)
    accuracy = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())["accuracy"]
    assert out.splitlines()[:3] == [f"top-{k} accuracy: {accuracy[k]:.3f}" for k in ("1", "5", "20")]
