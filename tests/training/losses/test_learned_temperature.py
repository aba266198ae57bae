"""A loss with a parameter: trained, clipped, synchronized, saved and resumed like those of the model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.metrics import logged
from support.processes import Script

from dpr_lightning.data.collate import Batch
from dpr_lightning.errors import UserError
from dpr_lightning.training.losses.in_batch import InBatchLoss
from dpr_lightning.training.losses.learned_temperature import LearnedTemperatureLoss

CACHED = ("grad_cache.query_chunk_size=3", "grad_cache.passage_chunk_size=5")
LEARNED = ("loss=learned_temperature", "loss.temperature=2", "optimizer.lr=1e-2", "checkpoint.keep_last=100")
CLIPPED = (
    "optimizer.eps=1",
    "optimizer.lr=0.5",
    "trainer.gradient_clip_val=0.1",
)  # with a large eps, AdamW does not undo the clipping
TWO_PROCESSES = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4")


@pytest.fixture
def batch():
    torch.manual_seed(0)
    queries, passages = torch.randn(4, 5), torch.randn(8, 5)
    return queries, passages, Batch({}, {}, torch.arange(4) * 2, torch.arange(8), torch.arange(4)[:, None] * 2, None)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 2.0])
def test_value_and_gradient_are_those_of_the_temperature(batch, temperature):
    learned = LearnedTemperatureLoss(temperature=temperature)
    loss = learned(*batch)
    assert loss.item() == pytest.approx(InBatchLoss(temperature=temperature)(*batch).item(), rel=1e-5)
    loss.backward()
    cooler, warmer = (InBatchLoss(temperature=temperature * factor)(*batch).item() for factor in (0.99, 1.01))
    slope = (cooler - warmer) / 0.02  # by the logarithm of the inverse
    assert learned.log_inverse_temperature.grad.item() == pytest.approx(slope, rel=1e-2, abs=1e-4)
    assert learned.log_inverse_temperature.dtype == torch.float32


@pytest.mark.parametrize(("beyond", "limit"), [(10.0, 100.0), (-10.0, 0.01)])
def test_the_parameter_is_clamped_and_keeps_its_gradient(batch, beyond, limit):
    learned = LearnedTemperatureLoss()
    with torch.no_grad():
        learned.log_inverse_temperature.fill_(beyond)
    learned(*batch).backward()
    assert learned.log_inverse_temperature.exp().item() == pytest.approx(limit, rel=1e-5)
    assert learned.log_inverse_temperature.grad != 0


@pytest.mark.parametrize("temperature", [0.0, 0.001, 1000.0])
def test_a_start_outside_the_range_is_refused(temperature):
    with pytest.raises(UserError, match=r"^temperature: .* is not within 0\.01 and 100"):
        LearnedTemperatureLoss(temperature=temperature)


def last_state(run):
    """Return the newest checkpoint's parameters."""
    return torch.load(run / "train" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_close(run, other):
    """Check that two trainings learned the same, up to sums in another order."""
    assert logged(run, "train/loss") == pytest.approx(logged(other, "train/loss"), rel=1e-4)
    start = LearnedTemperatureLoss(temperature=2).log_inverse_temperature
    moved, expected = (last_state(each)["loss.log_inverse_temperature"] - start for each in (run, other))
    assert moved.item() == pytest.approx(expected.item(), rel=1e-3)
    assert abs(moved) > 1e-3


def train_in_two_processes(*overrides):
    Script("train", *overrides, *TWO_PROCESSES, ranks=2).finish()


def test_direct_cached_and_two_processes_learn_the_same(command, settings, no_dropout_model, tmp_path):
    """The clipped gradient shows that its norm counts the loss's parameter everywhere."""
    common = [*settings, f"model.name_or_path={no_dropout_model}", "trainer.max_epochs=2", *LEARNED, *CLIPPED]
    for name, overrides in (("direct", ()), ("cached", CACHED)):
        code, _, err = command("train", *common, *overrides, f"run_dir={tmp_path}/{name}")
        assert code == 0, err
        train_in_two_processes(*common, *overrides, f"run_dir={tmp_path}/{name}-two")
    for name in ("cached", "direct-two", "cached-two"):
        assert_close(tmp_path / name, tmp_path / "direct")


@pytest.mark.parametrize("overrides", [(), CACHED], ids=["direct", "cached"])
def test_a_resumed_training_has_the_bits_of_an_undisturbed_one(command, settings, tmp_path, overrides):
    undisturbed, resumed = tmp_path / "undisturbed", tmp_path / "resumed"
    options = [*settings, *LEARNED, *overrides, "trainer.max_epochs=2", "checkpoint.every_n_steps=1"]
    assert command("train", *options, f"run_dir={undisturbed}")[0] == 0
    expected = last_state(undisturbed)
    shutil.copytree(undisturbed, resumed)
    shutil.rmtree(resumed / "model")
    for file in (resumed / "train" / "checkpoints").iterdir():
        if file.stem not in ("step-00000002", "step-00000003"):
            file.unlink()
    code, out, err = command("train", *options, f"run_dir={resumed}")
    assert code == 0, err
    assert "step-00000003.ckpt" in out
    found = last_state(resumed)
    assert found.keys() == expected.keys() and all(found[name].equal(expected[name]) for name in expected)
    assert logged(resumed, "train/loss") == logged(undisturbed, "train/loss")
    models = [load_file(run / "model" / "model.safetensors") for run in (resumed, undisturbed)]
    assert all(models[0][name].equal(models[1][name]) for name in models[1])


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [(), CACHED], ids=["direct", "cached"])
def test_a_parameter_that_one_process_uses_blocks_no_other(settings, tmp_path, overrides):
    target = "loss._target_=support.losses.BiasInFirstProcess"
    train_in_two_processes(*settings, *overrides, target, "optimizer.lr=1e-2")
    state = last_state(tmp_path / "run")
    assert state["loss.bias"] < 1
    assert state["loss.unused"] == 1
