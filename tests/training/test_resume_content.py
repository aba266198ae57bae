"""An unfinished training resumes only with the data and the model that it began with, and with intact files."""

import gzip
import os
import shutil

import pytest
from omegaconf import OmegaConf

CHECKPOINTS = ("checkpoint.every_n_steps=1", "checkpoint.keep_last=2")
DAMAGED = [
    *(b"a: [b", b"\xff\xfe\x00\x01", b"- 1", b"", b"a: ${b}", b"a: ${b", b"5"),
    b"data: {}\nmodel: {}\ntrainer: {}\nfingerprints: 5",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def unfinished(command, settings, trained, tmp_path):
    """Return the folder of a training that was ended before its model was written."""
    run = tmp_path / "run"
    if not trained.exists():
        code, _, err = command("train", *settings, *CHECKPOINTS)
        assert code == 0, err
        shutil.rmtree(run / "model")
        shutil.copytree(run, trained)
        shutil.rmtree(run)
    return shutil.copytree(trained, run)


@pytest.fixture
def refused(command, settings):
    """Return a function that resumes the training, which must fail with one line, and returns this line."""

    def resume(*overrides):
        code, _, err = command("train", *settings, *CHECKPOINTS, *overrides)
        assert (code, err.count("\n")) == (1, 1), err
        assert "overwrite=true" in err and "Traceback" not in err
        return err

    return resume


@pytest.fixture
def own_inputs(settings, world, tiny_model, tmp_path):
    """Return overrides that name copies of the data and the model, which a test may change."""
    for name in ("train.jsonl.gz", "dev.jsonl"):
        shutil.copy(world / name, tmp_path)
    shutil.copytree(tiny_model, tmp_path / "base")
    data = [f"data.train={tmp_path}/train.jsonl.gz", f"data.dev={tmp_path}/dev.jsonl"]
    return [*data, f"model.name_or_path={tmp_path}/base"]


def rewrite(file):
    """Move the first row of a file to its end."""
    content = file.read_bytes()
    lines = (gzip.decompress(content) if file.suffix == ".gz" else content).splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[1:], lines[0]]))


def test_other_content_under_the_same_path_is_refused(command, settings, refused, own_inputs, tmp_path):
    run, options = tmp_path / "run", [*settings, *CHECKPOINTS, *own_inputs]
    assert command("train", *options)[0] == 0
    shutil.move(run / "model", tmp_path / "model")
    for key, name in (("data.train", "train.jsonl.gz"), ("data.dev", "dev.jsonl")):
        content = (tmp_path / name).read_bytes()
        rewrite(tmp_path / name)
        line = refused(*own_inputs)
        assert line.startswith(f"{key}: has other content (fingerprint ")
        assert f"than when the unfinished training in {run}/train began (" in line
        (tmp_path / name).write_bytes(content)
    weights = tmp_path / "base" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refused(*own_inputs).startswith("model.name_or_path: has other content (fingerprint ")
    shutil.move(tmp_path / "model", run / "model")
    assert refused(*own_inputs).startswith(f"{run}/model is finished already.")
    assert "the finished training in" in refused(*own_inputs, "skip_finished=true"), "is not skipped"
    shutil.rmtree(run / "model")
    forget_fingerprints(run)
    code, out, err = command("train", *options)
    assert (code, err) == (0, "") and "resumed from" in out, "as a training of an earlier version"


def forget_fingerprints(run):
    config = OmegaConf.load(run / "train" / "config.yaml")
    del config["fingerprints"]
    OmegaConf.save(config, run / "train" / "config.yaml")


def test_a_missing_or_damaged_config_is_named(refused, unfinished):
    file = unfinished / "train" / "config.yaml"
    for content in DAMAGED:
        file.write_bytes(content)
        assert refused().startswith(f"{file} is damaged: it is not the config of a training. Restore the file, ")
    file.unlink()
    assert refused().startswith(f"{file} is missing, which has the settings of the unfinished training. Restore ")


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"\xff")])
def test_only_damaged_checkpoints_are_refused(command, settings, refused, unfinished, damage):
    folder = unfinished / "train" / "checkpoints"
    newest, before = sorted(folder.glob("step-*.ckpt"), reverse=True)
    damage(before.with_suffix(".xxh3"))
    content = newest.read_bytes()
    os.truncate(newest, len(content) // 2)
    assert refused().startswith(f"{folder}: each checkpoint is damaged, or its .xxh3 file is missing. Restore one ")
    newest.write_bytes(content)
    code, out, err = command("train", *settings, *CHECKPOINTS)
    assert (code, err) == (0, "") and f"resumed from {newest}" in out
