"""A killed and resumed training ends with the weights of an undisturbed one; real processes, real kills."""

import os

import pytest
from support.trainings import CACHED, assert_same, logged_steps, overridden, signal_at, start


@pytest.fixture
def undisturbed(command, settings, tmp_path):
    """Train without a disturbance, and return the run folder."""

    def train(*overrides):
        code, _, err = command("train", *overridden(settings, tmp_path / "undisturbed", *overrides))
        assert code == 0, err
        return tmp_path / "undisturbed"

    return train


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [("data.num_workers=2",), CACHED], ids=["workers", "cached"])
def test_a_killed_training_ends_with_the_same_bits(settings, undisturbed, tmp_path, overrides):
    run = tmp_path / "killed"
    signal_at(2, start(settings, run, *overrides), run)
    signal_at(17, start(settings, run, *overrides), run)
    assert "resumed from" in start(settings, run, *overrides).finish()
    assert_same(run, undisturbed(*[override for override in overrides if "workers" not in override]))
    assert len(logged_steps(run)) == 40


@pytest.mark.slow
def test_a_damaged_checkpoint_is_skipped(settings, undisturbed, tmp_path):
    run = tmp_path / "damaged"
    signal_at(5, start(settings, run), run)
    newest, before = sorted((run / "train" / "checkpoints").glob("step-*.ckpt"), reverse=True)[:2]
    os.truncate(newest, newest.stat().st_size // 2)
    out = start(settings, run).finish()
    assert f"{newest} is damaged" in out
    assert f"resumed from {before}" in out
    assert_same(run, undisturbed())


@pytest.mark.slow
def test_an_unfinished_training_does_not_resume_with_other_settings(command, settings, tmp_path):
    run = tmp_path / "run"
    signal_at(5, start(settings, run), run)
    same = overridden(settings, run)
    for override in ("optimizer.lr=3e-3", "trainer.max_epochs=11", "trainer.devices=2", "trainer.precision=bf16-mixed"):
        code, _, err = command("train", *same, override)
        assert code == 1
        assert err.startswith(f"{override.partition('=')[0]}: is ") and err.count("\n") == 1
        assert f"as in {run}/train/config.yaml" in err
        assert not (run / "model").exists()
    code, out, err = command("train", *same, "trainer.log_every_n_steps=2", "checkpoint.every_n_steps=9")
    assert (code, err) == (0, "")
    assert "resumed from" in out
