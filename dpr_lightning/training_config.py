"""The config of a training, saved in its run folder: how it is written, read back and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from dpr_lightning.call_record import Call, read_calls
from dpr_lightning.command_line import decoded_split_key
from dpr_lightning.errors import UserError
from dpr_lightning.files import atomic_write, matching
from dpr_lightning.run_dir import TEXT_METHODS, RunDir

_FINGERPRINTS = "fingerprints"  # of data and model, a key of the saved config
_NAMES = ("name", "run_dir", "model_dir", "run_file", "overwrite", "skip_finished")  # settings that change no result


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

    remedy = "Restore the file, set overwrite=true to train from the start, or choose another run_dir"
    if not run.training_config.exists():
        raise UserError(f"{run.training_config} is missing, which has the settings of the {state} training. {remedy}.")
    saved = _read_training_config(run.training_config, remedy)
    began = saved.pop(_FINGERPRINTS, {})
    check_resume_settings(saved, values, run.training_config, state=state)
    check_fingerprints(began, fingerprints, run.training_config, state=state)


def check_finished_training(values: Mapping[str, Any], run: RunDir) -> None:
    """Raise UserError if a finished training in the run folder had settings that would give another result.

    A setting of the trainer that is `auto` may have had any value. The content of data and model is not compared.
    """
    if not (run.is_trained and run.training_config.exists()):
        return
    saved = _read_training_config(run.training_config, "Restore the file, or choose another run_dir")["trainer"]
    trainer = {key: saved.get(key, value) if value == "auto" else value for key, value in values["trainer"].items()}
    check_training_config({**values, "trainer": trainer}, run, {}, state="finished")


def recall_settings(values: dict[str, Any], run: RunDir, overrides: Sequence[str]) -> list[str]:
    """Take the settings of data, model and shards that nothing has named from the run's training.

    An experiment names all of them, an option of a group names the group's, and an override names its own key.

    Args:
        values: The config of a later command, which is changed.
        run: The run folder; without a training in it, nothing changes.
        overrides: The words of the command line, as in `data.corpus=FILE`.

    Returns:
        What has changed: some of `data.*`, `model.*` and `num_shards`.

    Raises:
        UserError: The saved config is damaged.
    """
    named = [word.lstrip("+").partition("=")[0] for word in overrides if word != "experiment=null"]
    if "experiment" in named or not run.training_config.exists():
        return []
    saved = _read_training_config(run.training_config, "Restore the file, or name the data of this command (data=…)")
    groups = {"data"} if values["model_dir"] else {"data", "model"}
    recalled = {}
    for group in sorted(group for group in groups - {name.partition("/")[0] for name in named} if group in values):
        recalled[group] = {**values[group], **saved[group]}
        for name in named:
            if name.startswith(f"{group}."):
                _copy_key(decoded_split_key(name), values, recalled)
    if "num_shards" not in named and "num_shards" in saved:
        recalled["num_shards"] = saved["num_shards"]
    changed = [name for name, value in recalled.items() if value != values[name]]
    values |= recalled
    return [f"{name}.*" if name in groups else name for name in changed]


def training_corpus(run: RunDir) -> dict[str, Any]:
    """Return the arguments of `open_corpus` that a run's training names: `files`, `skip_invalid`, `format`.

    Raises:
        UserError: The run has no training, or one that names no corpus.
    """
    remedy = "give it with --corpus FILE"
    if not run.training_config.exists():
        raise UserError(f"corpus: {run.path} has no training that names its corpus; {remedy}.")
    data = _read_training_config(run.training_config, remedy.capitalize())["data"]
    if data.get("corpus") is None:
        raise UserError(f"corpus: {run.training_config} names no `data.corpus`; {remedy}.")
    return {"files": data["corpus"], "skip_invalid": data.get("skip_invalid", False), "format": data.get("format")}


class RunSettings(NamedTuple):
    """What a run was evaluated or trained with.

    `data` has the keys of the group `data` that are set; `model_dir` is the model that encoded the queries, None for
    the run's own.
    """

    run: RunDir
    split: str
    data: dict[str, Any]
    model_dir: Path | None

    def files(self, name: str) -> Any:
        """Return the files of `queries`, `corpus`, `qrels` or `train`; None for qrels and train that are unknown.

        Raises:
            UserError: The queries or the corpus are unknown.
        """
        files = self.data.get(name)
        if name in ("queries", "qrels"):
            files = (files or {}).get(self.split)
        if files is None and name in ("queries", "corpus"):
            raise UserError(
                f"{name}: the logs and the training of {self.run.path} name no files. Give them with --{name} FILE."
            )
        return files


def run_settings(run: RunDir, split: str, method: str | None = None) -> RunSettings:
    """Return the settings of a run: those of its training, and of its newest call that names the split's questions.

    Only calls that have succeeded count. An evaluation counts more than a later call of another command, and that of
    the search method most.
    """
    data: dict[str, Any] = {}
    if run.training_config.exists():
        data = _read_training_config(run.training_config, "Restore the file")["data"]
    model_dir, order = None, ("encode", "search", "evaluate")
    calls = [call for call in read_calls(run.logs) if call.has_succeeded and call.words[0] in order]
    for call in sorted(calls, key=lambda call: (order.index(call.words[0]), _is_of_method(call, method))):
        own = call.settings.get("data") or {}
        if (own.get("queries") or {}).get(split):
            data = {**data, **{key: value for key, value in own.items() if value is not None}}
            if call.settings.get("side") == "query":
                model_dir = call.settings.get("model_dir")
    return RunSettings(run, split, data, Path(model_dir) if model_dir else None)


def _is_of_method(call: Call, method: str | None) -> bool:
    """Return whether the results of a call have the name of those of a search method; dense methods share one."""
    own = call.settings.get("method")
    return (own if own in TEXT_METHODS else None) == (method if method in TEXT_METHODS else None)


def differing_settings(runs: Mapping[str, RunDir]) -> dict[str, dict[str, Any]]:
    """Return the settings in which the trainings of runs differ, by run and key; nothing unless each has a training.

    Names and folders do not count. A run that lacks a setting, which it was trained without, has None.
    """
    if not all(run.training_config.exists() for run in runs.values()):
        return {}
    saved = {name: _read_training_config(run.training_config, "Restore the file") for name, run in runs.items()}
    flat = {name: {key: value for key, value in _leaves(config) if key not in _NAMES} for name, config in saved.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    differing = [key for key in keys if len({repr(values.get(key)) for values in flat.values()}) > 1]
    return {name: {key: values.get(key) for key in differing} for name, values in flat.items()} if differing else {}


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of a config, without those of fingerprints and loggers."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value and f"{prefix}{name}" not in (_FINGERPRINTS, "logger"):
            yield from _leaves(value, f"{prefix}{name}.")
        elif f"{prefix}{name}" not in (_FINGERPRINTS, "logger"):
            yield f"{prefix}{name}", value


def _copy_key(key: str, source: Mapping[str, Any], target: dict[str, Any]) -> None:
    """Copy the value under a dotted key; groups above it are made if they are missing."""
    *above, last = key.split(".")
    for part in above:
        source = source[part]
        target[part] = target = dict(target.get(part) or {})
    target[last] = source[last]


def _read_training_config(file: Path, remedy: str) -> dict[str, Any]:
    try:
        saved: Any = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))
        if not all(isinstance(saved[group], dict) for group in ("data", "model", "trainer")):
            raise ValueError("a group is missing")
        if not isinstance(saved.get(_FINGERPRINTS, {}), dict):
            raise ValueError("the fingerprints are not a mapping")
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
