"""The model card of a trained model, and what would be uploaded with it."""

import json
import shutil

import huggingface_hub
import pytest
import torch
import yaml
from support.commands import assert_mistake, assert_succeeds, run_script

from dpr_lightning.data.sources import open_training
from dpr_lightning.model.card import with_figures

NAME = "someone/retriever"


@pytest.fixture
def card(finished_run):
    return (finished_run / "model" / "README.md").read_text()


def test_the_card_says_how_the_model_was_made_and_how_to_load_it(card, finished_run, world):
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "sentence-transformers"
    assert "base_model" not in header, "a local folder is not a model of the hub"
    assert "for 4 steps" in card
    train = open_training(str(world / "train.jsonl.gz"))
    assert f"| train | `32 rows, fingerprint {train.fingerprint}` |" in card
    assert f"| torch | `{torch.__version__}` |" in card
    assert "| command | `" in card and "trainer.max_epochs=1" in card
    config = card.partition("```yaml\n")[2].partition("\n```")[0]
    assert yaml.safe_load(config) == yaml.safe_load((finished_run / "train" / "config.yaml").read_text())
    assert "## Figures" not in card, "evaluation comes after training"
    usage = card.partition("```python\n")[2].partition("\n```")[0]
    names = {}
    exec(usage.replace("PATH_OR_NAME", str(finished_run / "model")), names)
    assert names["scores"].shape == (1, 1)


def test_a_dry_run_shows_the_figures_with_intervals_and_uploads_nothing(finished_run, card):
    out = assert_succeeds(run_script("push_to_hub", finished_run, NAME, "--dry-run"))
    metrics = json.loads((finished_run / "evaluation" / "test" / "metrics.json").read_text())
    low, high = metrics["interval"]["5"]
    line = f"| test | answer accuracy@5 | {metrics['accuracy']['5']:.3f} | [{low:.3f}, {high:.3f}] | 12 |"
    assert line in out
    assert f"| test | RR | {metrics['qrels']['RR']:.3f} |" in out
    assert "model.safetensors" in out and "dpr_lightning.json" in out
    assert out.splitlines()[-1].endswith("nothing was uploaded")
    assert (finished_run / "model" / "README.md").read_text() == card
    figures = {"test": metrics}
    assert with_figures(with_figures(card, figures), figures) == with_figures(card, figures), "figures are replaced"
    assert with_figures(with_figures(card, figures), {}) == card


def test_the_upload_is_one_commit_of_all_files(finished_run, monkeypatch):
    commits = []

    class Hub:
        def create_repo(self, name, *, private, exist_ok):
            assert (name, private, exist_ok) == (NAME, True, True)

        def create_commit(self, name, operations, *, commit_message):
            commits.append({one.path_in_repo: one.path_or_fileobj for one in operations})
            return type("Commit", (), {"commit_url": "https://hub/commit/1"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    out = assert_succeeds(run_script("push_to_hub", finished_run, NAME, "--private"))
    assert out.startswith("https://hub/commit/1: ")
    (files,) = commits
    model = finished_run / "model"
    assert set(files) == {str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()}
    assert b"## Figures" in files["README.md"]


def test_a_wrong_name_a_missing_model_and_no_hub_are_one_line(finished_run):
    unnamed = assert_mistake(run_script("push_to_hub", finished_run, "retriever"))
    assert "'retriever' is not the name of a repository" in unnamed
    assert "the hub refused the upload" in assert_mistake(run_script("push_to_hub", finished_run, NAME)), (
        "HF_HUB_OFFLINE"
    )
    shutil.rmtree(finished_run / "model")
    assert "has no README.md. Train the model" in assert_mistake(run_script("push_to_hub", finished_run, NAME))
