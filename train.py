"""Trains a bi-encoder into RUN/model: python train.py experiment=nq_untie"""

from omegaconf import DictConfig

from dpr_lightning.launch import command, explicit_keys, keep_settings, make, naming, plain, training_run_dir


@command
def train(config: DictConfig) -> str:
    """Model, data, loss and trainer from the config, then the fit."""
    from dataclasses import fields

    from pytorch_lightning import seed_everything

    from dpr_lightning.data.datamodule import RetrievalDataModule
    from dpr_lightning.model.bi_encoder import load_bi_encoder
    from dpr_lightning.model.settings import Settings
    from dpr_lightning.training.fit import fit, make_module, make_trainer, prepare_run

    run_dir = training_run_dir(config)
    config.run_dir = str(run_dir)
    with naming("seed"):
        seed_everything(config.seed, verbose=False)
    model = plain(config.model)
    settings = Settings(**{field.name: model.pop(field.name) for field in fields(Settings)})
    bi_encoder = load_bi_encoder(**model, settings=settings, explicit=explicit_keys("model"))
    files, sampling = "train train_weights dev skip_invalid", "batch_size passages_per_query positives negatives"
    keys = f"{files} {sampling} dev_negatives num_workers".split()
    data = RetrievalDataModule(bi_encoder.inputs, seed=config.seed, **plain(config.data, *keys))
    parts = {key: make(config, key) for key in ("loss", "optimizer", "scheduler")}
    clip = config.trainer.gradient_clip_val
    module = make_module(bi_encoder, **parts, **plain(config.grad_cache), gradient_clip_val=clip)
    loggers = [make(config, f"logger.{name}") for name in config.logger]
    options = {"seed": config.seed, **plain(config, "early_stopping"), **plain(config.checkpoint)}
    trainer = make_trainer(make(config, "trainer"), module, data, run_dir=run_dir, loggers=loggers, **options)
    prepare_run(run_dir, overwrite=config.overwrite)  # this late, so that a mistake removes nothing
    keep_settings(config, run_dir / "train")
    return fit(trainer, module, data, run_dir=run_dir)


if __name__ == "__main__":
    train()
