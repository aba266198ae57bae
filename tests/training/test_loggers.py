"""Loggers beside `metrics.csv`: one that writes into the run folder, and those whose package is missing."""

from importlib.util import find_spec

import pytest


def test_tensorboard_logs_what_the_csv_file_has(command, settings, tmp_path):
    code, _, err = command("train", *settings, "trainer.max_steps=1", "logger=tensorboard")
    assert code == 0, err
    (events,) = (tmp_path / "run" / "train" / "tensorboard").glob("events*")
    assert b"train/loss" in events.read_bytes()
    assert "train/loss" in (tmp_path / "run" / "train" / "metrics.csv").read_text()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_without_its_package_is_one_line(command, settings, tmp_path, name):
    if find_spec(name):
        pytest.skip(f"{name} is installed")
    code, _, err = command("train", *settings, f"logger={name}")
    assert (code, len(err.splitlines())) == (1, 1)
    assert err.startswith(f"logger.{name}: ") and f"pip install -U '{name}" in err
    assert not (tmp_path / "run" / "train").exists()
