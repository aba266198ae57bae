"""Settings of the trainer that are `auto`."""

import pytest
import torch

from dpr_lightning.training.automatic import automatic_settings, log_interval

AUTO = {"accelerator": "auto", "devices": "auto", "precision": "auto", "log_every_n_steps": "auto"}
OTHER = {"num_nodes": 1, "max_epochs": 5, "max_steps": -1, "accumulate_grad_batches": 1}


def settings(**changes):
    return automatic_settings({**AUTO, **OTHER, **changes}, batches_per_epoch=lambda processes: 100 // processes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_one_process_trains_on_the_cpu():
    found = settings()
    assert (found["accelerator"], found["devices"]) == ("cpu", 1)
    native = torch.cpu._is_avx512_bf16_supported()
    assert found["precision"] == ("bf16-mixed" if native else "32-true")
    assert found["log_every_n_steps"] == 10


def test_what_is_set_is_not_replaced():
    given = {"accelerator": "cpu", "devices": 2, "precision": "32-true", "log_every_n_steps": 7}
    assert settings(**given) == {}
    assert settings(**{**given, "log_every_n_steps": "auto"}) == {"log_every_n_steps": 5}


@pytest.mark.parametrize(
    ("changes", "batches", "interval"),
    [
        ({}, 1, 1),  # 5 steps
        ({}, 19, 1),
        ({"max_steps": 20}, 1000, 1),
        ({"accumulate_grad_batches": 4}, 400, 10),
        ({"max_epochs": 40}, 450, 360),
        ({"max_epochs": 400}, 450, 450),  # at least once per epoch
        ({"max_epochs": 40}, 10_000, 500),
        ({"max_epochs": -1}, 1000, 500),
        ({"max_epochs": "abc"}, 1000, 500),  # Lightning refuses it
    ],
)
def test_a_training_of_any_length_has_a_curve(changes, batches, interval):
    assert log_interval({**OTHER, **changes}, batches) == interval
