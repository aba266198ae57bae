"""The run folder before and after training: overwriting, symbolic links, and a model that cannot be replaced."""

import pytest
from support.metrics import logged

from dpr_lightning.errors import UserError
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training.fit import prepare_run


@pytest.fixture
def finished(tmp_path):
    """A run whose `model` and `train` are links to folders with files."""
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    for link in (run.model, run.train):
        target = tmp_path / "scratch" / link.name
        target.mkdir(parents=True)
        (target / "old").write_text("old")
        link.symlink_to(target)
    return run


def test_a_finished_model_behind_a_link_is_not_overwritten(finished):
    with pytest.raises(UserError, match="is finished already"):
        prepare_run(finished, overwrite=False)
    assert (finished.model / "old").exists() and (finished.train / "old").exists()


def test_overwriting_removes_what_is_behind_links(finished):
    prepare_run(finished, overwrite=True)
    assert finished.train.is_symlink() and list(finished.train.iterdir()) == []
    assert finished.model.is_symlink() and not finished.model.exists()
    prepare_run(finished, overwrite=False)  # an interrupted training resumes without `overwrite`


def test_links_to_missing_folders_are_followed(tmp_path):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    for link in (run.model, run.train):
        link.symlink_to(tmp_path / "scratch" / link.name)
    prepare_run(run, overwrite=False)
    assert (tmp_path / "scratch" / "train").is_dir()


def test_an_empty_folder_behind_a_link_is_not_a_finished_model(finished):
    (finished.model / "old").unlink()
    prepare_run(finished, overwrite=False)
    assert (finished.train / "old").exists()


def test_a_file_in_place_of_the_model_is_refused_before_training(tmp_path):
    run = RunDir(tmp_path)
    run.model.touch()
    with pytest.raises(UserError, match=f"{run.model} cannot be replaced by the trained model"):
        prepare_run(run, overwrite=True)


def test_a_folder_that_cannot_be_emptied_is_an_error(finished, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "old")

    monkeypatch.setattr("os.unlink", refuse)
    with pytest.raises(PermissionError):
        prepare_run(finished, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_training_through_links_writes_the_model_to_their_targets(command, settings, finished, tmp_path, overwrite):
    """An old training behind the link must not be resumed, and the new model must not be lost at the end."""
    if not overwrite:
        for name in ("model", "train"):
            (tmp_path / "scratch" / name / "old").unlink()
    for epochs, again in ((1, overwrite), (2, True)):
        options = [f"trainer.max_epochs={epochs}", f"overwrite={str(again).lower()}"]
        code, out, err = command("train", *settings, *options)
        assert (code, err) == (0, "")
        assert f"trained {4 * epochs} steps" in out and "resumed" not in out
    assert finished.model.is_symlink() and finished.train.is_symlink()
    assert (tmp_path / "scratch" / "model" / "model.safetensors").exists()
    assert not (finished.model / "old").exists()
    assert len(logged(finished.path, "train/loss")) == 8


@pytest.mark.parametrize("mistake", ["optimizer.lr=-1", "scheduler.warmup=-1", "trainer.gradient_clip_val=-1"])
def test_a_mistake_with_overwrite_keeps_the_finished_model(command, settings, finished_run, mistake):
    code, _, err = command("train", *settings, "overwrite=true", mistake)
    assert code == 1
    assert err.startswith(mistake.partition(".")[0]) and err.count("\n") == 1
    assert (finished_run / "model" / "model.safetensors").exists()
    assert logged(finished_run, "train/loss")
