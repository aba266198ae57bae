"""The config of a training, saved in its run folder: how it is written, read back and compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dpr_lightning.errors import UserError
from dpr_lightning.files import atomic_write, matching
from dpr_lightning.run_dir import RunDir

_FINGERPRINTS = "fingerprints"  # of data and model, a key of the saved config


def check_training_config(
    values: Mapping[str, Any], run: RunDir, fingerprints: Mapping[str, Any], *, state: str
) -> None:
    """Raise UserError if the training in a run folder began with settings or content that would change its result.

    Args:
        values: The config of this training.
        run: The run folder.
        fingerprints: By group and key, the fingerprint of the data or the model that the key names.
        state: `finished` or `unfinished`, for the message.
    """
    from dpr_lightning.training.resume_settings import check_fingerprints, check_resume_settings

    saved = _read_training_config(run.training_config, state)
    began = saved.pop(_FINGERPRINTS, {})
    check_resume_settings(saved, values, run.training_config, state=state)
    check_fingerprints(began, fingerprints, run.training_config, state=state)


def _read_training_config(file: Path, state: str) -> dict[str, Any]:
    remedy = "Restore the file, set overwrite=true to train from the start, or choose another run_dir"
    try:
        saved: Any = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))
        if not all(isinstance(saved[group], dict) for group in ("data", "model", "trainer")):
            raise ValueError("a group is missing")
        if not isinstance(saved.get(_FINGERPRINTS, {}), dict):
            raise ValueError("the fingerprints are not a mapping")
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing, which has the settings of the {state} training. {remedy}.") from error
    except OSError:
        raise
    except Exception as error:  # those of the YAML parser, of OmegaConf and ours
        raise UserError(f"{file} is damaged: it is not the config of a training. {remedy}.") from error
    return dict(saved)


def save_training_config(values: Mapping[str, Any], run: RunDir, fingerprints: Mapping[str, Any]) -> None:
    """Write the config of a training, and the fingerprints of what it names, into its run folder.

    Raises:
        UserError: The folder has checkpoints of a training whose result other settings or content would change.
    """
    if matching(run.checkpoints, "step-*.ckpt"):
        check_training_config(values, run, fingerprints, state="unfinished")
    with atomic_write(run.training_config) as file:
        OmegaConf.save(OmegaConf.create({**values, _FINGERPRINTS: fingerprints}), file)
