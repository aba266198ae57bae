"""The curves of a training: from any metrics file, and at every end of a training."""

import re
import sys

import pytest

from dpr_lightning.training_curves import read_curves, training_panels, write_training_curves


def write(folder, *lines):
    file = folder / "metrics.csv"
    file.write_text("".join(f"{line}\n" for line in ("step,train/loss,val/mrr,val/mean_rank,train/lr", *lines)))
    return file


def test_missing_and_damaged_values_are_left_out(tmp_path):
    file = write(tmp_path, "0,5.0,,,1", "1,nan,0.25,30,1", "x,1,1,1,1", "2,4.0,0.5,20,1", "3,three,", "4,1,2,3,4,5,6")
    assert read_curves(file) == {
        "train/loss": ([0, 2, 4], [5.0, 4.0, 1.0]),
        "val/mrr": ([1, 2, 4], [0.25, 0.5, 2.0]),
        "val/mean_rank": ([1, 2, 4], [30.0, 20.0, 3.0]),
    }


def test_measures_between_0_and_1_share_a_chart(tmp_path):
    file = write(tmp_path, "0,5.0,,,", "1,4.0,0.25,30,", "2,3.0,0.5,20,")
    loss, shares, ranks = training_panels(file)
    assert (loss.names, shares.names, ranks.names) == (["train/loss"], ["val/mrr"], ["val/mean_rank"])
    assert loss.lines["train/loss"] == ([0, 1, 2], [5.0, 4.0, 3.0])


def test_a_long_training_is_drawn_as_means_with_the_same_mean(tmp_path):
    (loss,) = training_panels(write(tmp_path, *(f"{i},{i % 7}" for i in range(80_000))))
    steps, values = loss.lines["train/loss"]
    assert len(steps) == len(values) == 400
    assert sum(values) / 400 == pytest.approx(sum(i % 7 for i in range(80_000)) / 80_000)
    assert loss.y == "train/loss, mean of 200 logged steps"
    write_training_curves(tmp_path)
    assert (tmp_path / "curves.svg").stat().st_size < 50_000


def test_nothing_is_drawn_before_the_first_logged_step(tmp_path):
    write_training_curves(tmp_path)
    write(tmp_path)
    write_training_curves(tmp_path)
    assert not (tmp_path / "curves.svg").exists()


def test_a_training_ends_with_its_curves(finished_run):
    svg = (finished_run / "train" / "curves.svg").read_text()
    assert {"train/loss", "val/mrr"} <= set(re.findall(r">([^<>\n]+)</text>", svg))


def test_without_matplotlib_a_training_ends_as_ever(command, settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = command("train", *settings, "trainer.max_steps=1")
    assert (code, (tmp_path / "run" / "model").is_dir()) == (0, True)
    assert f"{tmp_path}/run/train/curves.svg is left out: charts and reports need matplotlib." in out + err
    assert not (tmp_path / "run" / "train" / "curves.svg").exists()
