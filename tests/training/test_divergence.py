"""A training that diverges ends with one line and without a model."""

import math

import pytest
import pytorch_lightning as pl
import torch
from support.metrics import logged
from support.world import training_row, write_jsonl

from dpr_lightning.errors import UserError
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.training.divergence import StopOnDivergence, refuse_diverged

DIVERGED = "loss: the training has diverged: at step "
CACHED = ("grad_cache.query_chunk_size=3", "grad_cache.passage_chunk_size=5")


@pytest.fixture
def diverges(command, settings, tmp_path):
    """Train with some overrides, check that it ends as a divergence must, and return the line."""

    def check(*overrides):
        code, out, err = command("train", *settings, *overrides)
        assert code == 1, out
        assert err.startswith(DIVERGED) and err.count("\n") == 1
        assert "learning rate" in err and "overwrite=true" in err
        assert not (tmp_path / "run" / "model").exists()
        return err

    return check


@pytest.mark.parametrize("warmup", [0, 0.1])
@pytest.mark.parametrize(
    "overrides", [(), ("checkpoint.best=val/mean_rank",), CACHED], ids=["direct", "best", "cached"]
)
def test_a_huge_learning_rate_exports_no_model(diverges, overrides, warmup, tmp_path):
    diverges("optimizer.lr=1e30", f"scheduler.warmup={warmup}", "trainer.max_epochs=2", *overrides)
    assert all(accuracy == 0 for accuracy in logged(tmp_path / "run", "val/accuracy"))


@pytest.mark.parametrize("steps", [1, 2])
def test_weights_too_large_for_finite_embeddings_are_not_exported(diverges, steps):
    """The last update made the weights huge, and no loss has seen them."""
    err = diverges("optimizer.lr=1e30", "scheduler.warmup=0", f"trainer.max_steps={steps}")
    assert f"at step {steps}, " in err


def test_training_stops_after_25_losses_that_are_not_finite(diverges, tmp_path):
    err = diverges("optimizer.lr=1e30", "scheduler.warmup=0", "trainer.max_epochs=100", "data.dev=null")
    assert "the loss of 25 batches in succession is not finite" in err
    assert len(logged(tmp_path / "run", "train/loss")) <= 50


def test_teacher_scores_beyond_float32_stop_the_training(diverges, tmp_path):
    rows = [training_row(i) | {"scores": [3e38, -3e38, 2.0, 1.0]} for i in range(16)]
    train = write_jsonl(tmp_path / "scored.jsonl", rows)
    diverges(f"data.train={train}", "loss=distillation", "trainer.max_epochs=20")


def test_a_weight_that_is_not_finite_is_named(tiny_model):
    bi_encoder = load_bi_encoder(tiny_model)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    refuse_diverged(trainer, bi_encoder)
    name, weight = list(bi_encoder.named_parameters())[-1]
    with torch.no_grad():
        weight[0] = math.nan
    with pytest.raises(UserError, match=f"the weight {name} is not finite"):
        refuse_diverged(trainer, bi_encoder)


def test_single_losses_that_are_not_finite_stop_nothing():
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    stop = StopOnDivergence(steps=3)
    for number, loss in enumerate([math.nan, math.inf, 1.0, 2.0, math.nan, math.nan, 3.0, math.nan, math.nan]):
        stop.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, number)
    assert not stop.has_stopped and not trainer.should_stop
    for number in range(3):
        stop.on_train_batch_end(trainer, None, {"loss": torch.tensor(math.nan)}, None, number)
    assert stop.has_stopped and trainer.should_stop


def test_a_number_of_batches_below_1_is_refused():
    with pytest.raises(UserError, match=r"^steps: 0 "):
        StopOnDivergence(steps=0)
