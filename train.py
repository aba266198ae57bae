"""Trains a bi-encoder into RUN/model: python train.py experiment=nq_untie"""

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dpr_lightning.launch import command, explicit_keys, plain, training_run_dir


@command
def train(config: DictConfig) -> str:
    """Model, data, loss and trainer from the config, then the fit."""
    from pytorch_lightning import seed_everything

    from dpr_lightning.data.datamodule import RetrievalDataModule
    from dpr_lightning.training.callbacks import StepReport
    from dpr_lightning.training.checkpoints import ResumePoints
    from dpr_lightning.training.fit import fit, prepare_run
    from dpr_lightning.training.module import RetrieverModule

    config.run_dir = str(training_run_dir(config))
    run_dir = prepare_run(config.run_dir, overwrite=config.overwrite)
    seed_everything(config.seed, verbose=False)
    bi_encoder = instantiate(config.model, explicit=explicit_keys("model"))
    keys = "train dev batch_size passages_per_query positives negatives dev_negatives num_workers skip_invalid"
    data = RetrievalDataModule(bi_encoder.inputs, seed=config.seed, **plain(config.data, *keys.split()))
    parts = {key: instantiate(config[key]) for key in ("loss", "optimizer", "scheduler")}
    module = RetrieverModule(bi_encoder, **parts)
    OmegaConf.save(config, run_dir / "train" / "config.yaml", resolve=True)
    callbacks = [StepReport(), ResumePoints(run_dir / "train" / "checkpoints", **plain(config.checkpoint))]

    def make_trainer():  # noqa: ANN202
        loggers = list(instantiate(config.logger).values())
        return instantiate(config.trainer, logger=loggers, callbacks=callbacks, enable_checkpointing=False)

    return fit(make_trainer, module, data, run_dir=run_dir)


if __name__ == "__main__":
    train()
