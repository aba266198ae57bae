"""Train a bi-encoder."""

from dpr_lightning.errors import FinishedError
from dpr_lightning.launch import Config, command, config_errors, explicit_keys, training_run
from dpr_lightning.training_config import check_training_config, save_training_config


@command
def train(config: Config) -> str:
    """Train a bi-encoder into RUN/model, or continue an interrupted training."""
    from pytorch_lightning import seed_everything

    from dpr_lightning.data.datamodule import RetrievalDataModule
    from dpr_lightning.model.bi_encoder import load_bi_encoder
    from dpr_lightning.model.settings import Settings
    from dpr_lightning.training.automatic import automatic_settings
    from dpr_lightning.training.fit import fit, make_trainer, prepare_run
    from dpr_lightning.training.grad_cache import make_grad_cache
    from dpr_lightning.training.losses.matryoshka import at_dims
    from dpr_lightning.training.metrics_csv import best_logged
    from dpr_lightning.training.module import RetrieverModule
    from dpr_lightning.training.processes import only_training

    run = training_run(config)
    with config_errors("seed"):
        config.call(seed_everything, "", verbose=False)
    settings = config.call(Settings, "model")
    bi_encoder = config.call(load_bi_encoder, "model", settings=settings, explicit=explicit_keys("model"))
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
