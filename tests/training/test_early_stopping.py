"""Early stopping and best weights, also when interrupted at any step."""

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.metrics import logged, logged_rows

from dpr_lightning.training.best_weights import BestWeights

STEPS_PER_EPOCH = 4
RISING_AND_FALLING = ("optimizer.lr=3e-2", "trainer.max_epochs=6", "scheduler.warmup=0")  # so high that it gets worse
VALUES = ("step", "train/loss", "val/mrr", "val/accuracy", "val/mean_rank")


def rows(run):
    return [tuple(row.get(name, "") for name in VALUES) for row in logged_rows(run)]


def train(command, settings, run, *overrides):
    code, out, err = command("train", *settings, *RISING_AND_FALLING, *overrides, f"run_dir={run}")
    assert code == 0, err
    return out


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def same(found, expected):
    return found.keys() == expected.keys() and all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize(("metric", "best_of"), [("val/mrr", max), ("val/mean_rank", min)])
def test_the_weights_of_the_best_validation_are_exported(command, settings, tmp_path, metric, best_of):
    run = tmp_path / "best"
    train(command, settings, run, f"checkpoint.best={metric}")
    values = logged(run, metric)
    best = values.index(best_of(values))
    assert best < len(values) - 1, "the last epoch is the best, so the test shows nothing"
    stopped = tmp_path / "stopped"
    train(command, settings, stopped, f"trainer.max_epochs={len(values)}", "checkpoint.keep_last=100")
    checkpoint = stopped / "train" / "checkpoints" / f"step-{(best + 1) * STEPS_PER_EPOCH:08d}.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    prefix = "bi_encoder.passage.transformer."
    wanted = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    assert same(weights(run), wanted)


@pytest.mark.parametrize("metric", ["val/mrr", "val/mean_rank"])
def test_nan_is_never_the_best_value(metric):
    callback = BestWeights("unused", metric)
    assert not callback._improves(math.nan)
    assert callback._improves(0.5)
    callback.best = 0.5
    assert not callback._improves(math.nan)


def test_training_stops_after_patience_validations(command, settings, tmp_path):
    run = tmp_path / "run"
    patient = tmp_path / "patient"
    train(command, settings, patient)
    train(command, settings, run, "early_stopping.patience=1")
    values = logged(patient, "val/mrr")
    last = next(i for i in range(1, len(values)) if values[i] <= max(values[:i]))
    assert last < len(values) - 1, "each epoch is better, so the test shows nothing"
    assert logged(run, "val/mrr") == values[: last + 1]


@pytest.mark.parametrize(
    ("step", "interval", "lora"), [(3, 1.0, "none"), (4, 1.0, "default"), (10, 0.5, "none"), (8, 0.5, "none")]
)
def test_validation_decides_the_same_after_an_interruption(command, settings, tmp_path, step, interval, lora):
    """The interruption is within an epoch, at its end, and at a validation within an epoch."""
    options = ["checkpoint.best=val/mrr", "early_stopping.patience=2", "checkpoint.every_n_steps=1"]
    options += ["checkpoint.keep_last=100", f"trainer.val_check_interval={interval}", f"model/lora={lora}"]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "interrupted"
    train(command, settings, undisturbed, *options)
    shutil.copytree(undisturbed, run)
    shutil.rmtree(run / "model")
    for file in (run / "train" / "checkpoints").glob("step-*"):
        if int(file.stem.removeprefix("step-")) > step:
            file.unlink()
    (run / "train" / "metrics.csv").unlink()
    assert f"step-{step:08d}.ckpt" in train(command, settings, run, *options)
    assert rows(run) == rows(undisturbed)[step:]
    assert same(weights(run), weights(undisturbed))


def test_a_run_that_stopped_early_does_not_continue(command, settings, tmp_path):
    run = tmp_path / "run"
    train(command, settings, run, "early_stopping.patience=1")
    before = rows(run)
    shutil.rmtree(run / "model")  # as if killed before the export
    train(command, settings, run, "early_stopping.patience=1")
    assert rows(run) == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["checkpoint.best=val/mrr", "data.dev=null"],
            "checkpoint.best: is decided by validation, and data.dev is not set.",
        ),
        (
            ["early_stopping.patience=2", "data.dev=null"],
            "early_stopping.patience: is decided by validation, and data.dev is not set.",
        ),
        (["checkpoint.best=val/loss"], "checkpoint.best: 'val/loss' is not possible."),
        (["early_stopping.patience=1", "early_stopping.monitor=mrr"], "early_stopping.monitor: 'mrr' is not possible."),
        (["early_stopping.patience=1", "early_stopping.mode=up"], "early_stopping.mode: 'up' is not possible."),
        (["early_stopping.patience=0"], "early_stopping.patience: 0 is not a whole number of at least 1."),
    ],
)
def test_impossible_settings_are_refused_before_training(command, settings, tmp_path, overrides, message):
    code, _, err = command("train", *settings, *overrides)
    assert code == 1
    assert err.startswith(message) and err.count("\n") == 1
    assert not (tmp_path / "run" / "train" / "metrics.csv").exists()
