"""Trains a bi-encoder into RUN/model: python train.py experiment=nq_untie"""

from omegaconf import DictConfig

from dpr_lightning.launch import command, explicit_keys, keep_settings, make, naming, plain, training_run_dir


@command
def train(config: DictConfig) -> str:
    """Model, data, loss and trainer from the config, then the fit."""
    from pytorch_lightning import seed_everything

    from dpr_lightning.data.datamodule import RetrievalDataModule
    from dpr_lightning.run_dir import RunDir
    from dpr_lightning.training.fit import fit, make_trainer, prepare_run
    from dpr_lightning.training.grad_cache import make_grad_cache
    from dpr_lightning.training.module import RetrieverModule

    run_dir = training_run_dir(config)
    config.run_dir, run = str(run_dir), RunDir(run_dir)
    with naming("seed"):
        seed_everything(config.seed, verbose=False)
    bi_encoder = make(config, "model", explicit=explicit_keys("model"))
    files, sampling = "train train_weights dev skip_invalid", "batch_size passages_per_query positives negatives"
    keys = f"{files} {sampling} dev_negatives num_workers".split()
    data = RetrievalDataModule(bi_encoder.inputs, seed=config.seed, **plain(config.data, *keys))
    parts = {key: make(config, key) for key in ("loss", "optimizer", "scheduler")}
    clip = config.trainer.gradient_clip_val
    grad_cache = make_grad_cache(**plain(config.grad_cache))
    module = RetrieverModule(bi_encoder, **parts, grad_cache=grad_cache, gradient_clip_val=clip)
    loggers = [make(config, f"logger.{name}") for name in config.logger]
    options = {"seed": config.seed, **plain(config, "early_stopping"), **plain(config.checkpoint)}
    trainer = make_trainer(make(config, "trainer"), module, data, run=run, loggers=loggers, **options)
    prepare_run(run, overwrite=config.overwrite)  # this late, so that a mistake removes nothing
    keep_settings(config, run.train)
    return fit(trainer, module, data, run=run)


if __name__ == "__main__":
    train()
