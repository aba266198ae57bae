"""Train a bi-encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpr_lightning.config import Config, config_errors
from dpr_lightning.data.readers import find_files
from dpr_lightning.errors import FinishedError
from dpr_lightning.launch import command, explicit_keys, training_run
from dpr_lightning.plan import Check, Plan
from dpr_lightning.run_dir import RunDir
from dpr_lightning.training_config import check_finished_training, check_training_config, save_training_config

if TYPE_CHECKING:
    from dpr_lightning.model.bi_encoder import BiEncoder
    from dpr_lightning.training.space import Length

_PLANNED = (
    *("model.tied", "model.pooling", "model.query_max_length", "model.passage_max_length"),
    *("data.batch_size", "data.passages_per_query", "grad_cache.query_chunk_size", "grad_cache.passage_chunk_size"),
    *("optimizer.lr", "scheduler.warmup", "trainer.accelerator", "trainer.devices", "trainer.precision", "seed"),
)


def checks(config: Config) -> Iterator[Check]:
    """Yield the checks of the settings, of the paths of data and model, of devices and of a finished model."""
    from dpr_lightning.data.checks import check_loading, check_sampling, check_weights
    from dpr_lightning.model.folder import check_model
    from dpr_lightning.model.settings import Settings
    from dpr_lightning.training.checks import check_checkpoints, check_devices, check_grad_cache, check_validation

    def model() -> None:
        settings = config.call(Settings, "model")
        config.call(check_model, "model", settings=settings, explicit=explicit_keys("model"))

    def validation() -> None:
        config.keys["dev"] = "data.dev"
        stopping = {name: f"early_stopping.{name}" for name in ("patience", "monitor", "mode")}
        config.call(check_validation, "checkpoint", keys=stopping, validates=bool(config["data.dev"]))

    yield partial(_refuse_finished, config)
    yield partial(config.call, check_sampling, "data")
    yield partial(config.call, check_loading, "data", "")
    yield partial(config.call, check_weights, "data")
    yield partial(find_files, config["data.train"], name="data.train", hub="skip")
    if config["data.dev"]:
        yield partial(find_files, config["data.dev"], name="data.dev", hub="skip")
    yield model
    yield partial(config.call, check_grad_cache, "grad_cache")
    yield partial(config.call, check_checkpoints, "checkpoint")
    yield validation
    yield partial(config.call, check_devices, "trainer")


def _refuse_finished(config: Config) -> None:
    run = RunDir(Path(config["run_dir"]))
    if run.is_trained and not (config["overwrite"] or config.skips_finished):
        check_finished_training(config.values, run)
        raise FinishedError(run.model)


def add_plan(config: Config, plan: Plan) -> None:
    """Add questions, steps, checkpoints, space and memory to a plan."""
    from dpr_lightning.model.folder import is_on_this_machine
    from dpr_lightning.training.plan import add_space
    from dpr_lightning.training.space import training_space

    files, weights = config["data.train"], config["data.train_weights"]
    entries = [files] if isinstance(files, str) or weights is None else files
    found = [_count(config, plan, "train", entry) for entry in entries]
    counted = [rows for rows in found if rows is not None]
    if config["data.dev"]:
        _count(config, plan, "dev", config["data.dev"])
    length = module = None
    if len(counted) == len(found):
        with plan.collected():
            length = _add_length(config, plan, counted)
    name = config["model.name_or_path"]
    if not is_on_this_machine(name):
        plan.add("model", f"{name} is neither a folder seen from {Path.cwd()} nor fetched yet: space is not estimated")
    else:
        with plan.collected():
            module = _load(config)
            config.values["model"] |= asdict(module.settings)
    plan.add("settings", config.described(_PLANNED))
    if module is None:
        return
    run = RunDir(Path(config["run_dir"]))
    space = config.call(training_space, "checkpoint", module=module, run=run, length=length)
    config.call(add_space, "checkpoint", "", plan=plan, run=run, module=module, space=space)


def _add_length(config: Config, plan: Plan, rows: list[int]) -> Length:
    """Add steps and epochs to a plan, given the rows of each entry of `data.train`."""
    from dpr_lightning.data.checks import check_loading, check_weights
    from dpr_lightning.data.sampler import TrainingBatches
    from dpr_lightning.training.automatic import automatic_settings
    from dpr_lightning.training.plan import add_steps, processes
    from dpr_lightning.training.space import count_steps

    config.call(check_loading, "data", "")
    config.call(check_weights, "data")
    trainer: dict[str, Any] = config.values["trainer"]
    parts = list(zip(rows, config["data.train_weights"] or [1.0], strict=True))

    def batches_per_epoch(world_size: int) -> int:
        options = {"batch_size": config["data.batch_size"], "seed": config["seed"], "world_size": world_size}
        return len(config.call(TrainingBatches, rows=sum(rows), weights=parts, **options))

    trainer |= automatic_settings(trainer, batches_per_epoch=batches_per_epoch)
    config.instantiate("trainer")  # checks the types
    devices = processes(trainer)
    length = count_steps(trainer, batches_per_epoch(devices))
    add_steps(plan, length, rows=sum(rows), batches=batches_per_epoch(devices), devices=devices)
    return length


def _count(config: Config, plan: Plan, part: str, files: Any) -> int | None:
    """Count the rows of training or dev files, which may name the texts of corpus and queries by ids."""
    from dpr_lightning.data.plan import count_rows

    key, of_kind = f"data.{part}", {"corpus": "data.corpus", "queries": f"data.queries.{part}"}
    texts = {kind: (name, config[name]) for kind, name in of_kind.items()}
    counted = config.call(count_rows, "data", plan=plan, files=files, kind="training", name=key, texts=texts)
    return counted.rows if counted else None


def _load(config: Config) -> BiEncoder:
    from dpr_lightning.model.bi_encoder import load_bi_encoder
    from dpr_lightning.model.settings import Settings

    settings = config.call(Settings, "model")
    return config.call(load_bi_encoder, "model", settings=settings, explicit=explicit_keys("model"))


@command(checks=checks, plan=add_plan)
def train(config: Config) -> str:
    """Train a bi-encoder into RUN/model, or continue an interrupted training."""
    from pytorch_lightning import seed_everything

    from dpr_lightning.data.datamodule import RetrievalDataModule
    from dpr_lightning.training.automatic import automatic_settings
    from dpr_lightning.training.fit import fit, make_trainer, prepare_run
    from dpr_lightning.training.grad_cache import make_grad_cache
    from dpr_lightning.training.losses.matryoshka import at_dims
    from dpr_lightning.training.metrics_csv import best_logged
    from dpr_lightning.training.module import RetrieverModule
    from dpr_lightning.training.processes import only_training
    from dpr_lightning.training.space import check_training_space, count_steps, training_space

    run = training_run(config)
    with config_errors("seed"):
        config.call(seed_everything, "", verbose=False)
    bi_encoder = _load(config)
    data = config.call(RetrievalDataModule, "data", "", inputs=bi_encoder.inputs)
    trainer_settings = config.values["trainer"]
    trainer_settings |= automatic_settings(trainer_settings, batches_per_epoch=data.batches_per_epoch)
    parts = {key: config.instantiate(key) for key in ("optimizer", "scheduler")}
    loss = config.call(at_dims, "loss", loss=config.instantiate("loss", omit=["dims"]), bi_encoder=bi_encoder)
    grad_cache = config.call(make_grad_cache, "grad_cache")
    module = config.call(RetrieverModule, "trainer", bi_encoder=bi_encoder, loss=loss, grad_cache=grad_cache, **parts)
    trainer = config.call(
        make_trainer,
        "checkpoint",
        "",
        configured=config.instantiate("trainer"),
        module=module,
        data=data,
        run=run,
        loggers=[config.instantiate(f"logger.{name}") for name in config["logger"]],
        keys={"precision": "trainer.precision"},
    )

    length = count_steps(trainer_settings, data.batches_per_epoch(trainer.world_size))
    space = config.call(training_space, "checkpoint", module=module, run=run, length=length)
    check_training_space(space, run)

    def best() -> float | None:
        monitor, mode = config["early_stopping.monitor"], config["early_stopping.mode"]
        return best_logged(run.train / "metrics.csv", monitor=monitor, mode=mode)

    def prepare() -> None:
        """Make the run folder and save the config, or refuse a training that cannot run there."""
        hashes = {name: hashed for name, (_, hashed) in data.fingerprints.items()}
        fingerprints = {"data": hashes, "model": {"name_or_path": bi_encoder.fingerprint()}}
        try:
            config.call(prepare_run, "", run=run)
        except FinishedError:
            check_training_config(config.values, run, fingerprints, state="finished")
            config.objective = best()
            raise
        save_training_config(config.values, run, fingerprints)

    with only_training(trainer, run, prepare):  # this late, so that a mistake removes nothing
        line = fit(trainer, module, data, run=run)
    config.objective = best()
    return line


if __name__ == "__main__":
    train()
