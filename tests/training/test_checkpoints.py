"""Checkpoints on disk: their number, and what happens when the disk is full."""

import subprocess

import pytest

from dpr_lightning import machine

LARGE = "size=8m"
FULL_DISKS = {  # a checkpoint takes 380 kB, the weights 130 kB
    "checkpoint": ("size=200k", "train/checkpoints/step-00000004.ckpt", ()),
    "best weights": (
        "size=480k",
        "train/checkpoints/best.safetensors",
        ("checkpoint.best=val/mrr", "checkpoint.every_n_steps=2"),
    ),
    "model": ("size=480k", "model", ()),
}


@pytest.fixture
def mounted(tmp_path):
    """Mount a file system with some options, or mount it again with others; it is unmounted after the test."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting needs root")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


def test_only_the_newest_checkpoints_are_kept(command, settings, tmp_path):
    code, _, err = command("train", *settings, "checkpoint.every_n_steps=1", "checkpoint.keep_last=2")
    assert code == 0, err
    folder = tmp_path / "run" / "train" / "checkpoints"
    names = {file.name for file in folder.iterdir()}
    assert names == {f"step-0000000{n}.{end}" for n in (3, 4) for end in ("ckpt", "xxh3")} | {"last.ckpt"}
    assert (folder / "last.ckpt").samefile(folder / "step-00000004.ckpt")


@pytest.mark.parametrize("kind", FULL_DISKS)
def test_a_full_disk_leaves_no_temporary_file_and_training_resumes(command, settings, mounted, monkeypatch, kind):
    """The disk is filled after the check at the start of the training."""
    size, path, overrides = FULL_DISKS[kind]
    monkeypatch.setattr(machine, "free_space", lambda folder: 1 << 40)
    disk = mounted(size)
    run = disk / "run"
    settings = [*settings, f"run_dir={run}", f"hydra.run.dir={disk.parent}/logs", *overrides]
    code, _, err = command("train", *settings)
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"{run / path} cannot be written (") and "No space left on device" in err
    assert [file for file in run.rglob("*") if ".tmp" in file.name] == []
    mounted("remount," + LARGE)
    code, out, err = command("train", *settings)
    assert code == 0, err
    assert ("resumed from" in out) == (kind != "checkpoint")
    assert (run / "model" / "model.safetensors").exists()
