"""Encode the corpus, shard by shard, or the queries."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dpr_lightning.data.readers import find_files
from dpr_lightning.errors import UserError
from dpr_lightning.launch import Config, command, explicit_keys, this_command
from dpr_lightning.plan import Check, Plan
from dpr_lightning.run_dir import RunDir


def checks(config: Config) -> Iterator[Check]:
    """Yield the checks of the settings, of finished files, and of the paths of data and model."""
    from dpr_lightning.encoding.checks import check_encoding, check_shards, refuse_finished
    from dpr_lightning.encoding.devices import find_devices

    run, skips_finished = RunDir(Path(config["run_dir"])), config.skips_finished
    shard = None if config["shard"] == "all" else config["shard"]
    yield partial(config.call, check_encoding, "encode", "")
    if config["side"] == "query":
        path = run.query_embeddings(config["split"])
        yield partial(config.call, refuse_finished, "encode", "", path=path, skips_finished=skips_finished)
    else:
        yield partial(config.call, find_devices, "")
        yield partial(config.call, check_shards, "encode", "", run=run, shard=shard, skips_finished=skips_finished)
    yield partial(find_files, config[_data_key(config)], name=_data_key(config), hub="skip")
    yield partial(_check_model, config)


def add_plan(config: Config, plan: Plan) -> None:
    pass


def _data_key(config: Config) -> str:
    return f"data.queries.{config['split']}" if config["side"] == "query" else "data.corpus"


def _check_model(config: Config) -> None:
    from dpr_lightning.model.folder import check_model
    from dpr_lightning.model.settings import Settings

    run, settings = RunDir(Path(config["run_dir"])), config.call(Settings, "model")
    if config["model_dir"] is None and not run.is_trained:
        raise UserError(f"{run.model} does not exist. Run `train.py`, correct run_dir, or set model_dir to a model.")
    name_or_path = config["model_dir"] or run.model
    keys = {"name_or_path": "model_dir"}
    config.call(
        check_model, "model", keys=keys, name_or_path=name_or_path, settings=settings, explicit=explicit_keys("model")
    )


@command(checks=checks, plan=add_plan)
def encode(config: Config) -> str:
    """Encode the shards of the corpus that do not exist yet, or with `side=query` the queries of a split."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.encoding.devices import find_devices
    from dpr_lightning.encoding.stage import ShardEncoder, encode_passages, encode_passages_on_devices
    from dpr_lightning.model.bi_encoder import load_bi_encoder
    from dpr_lightning.model.settings import Settings

    run, side, key = RunDir(Path(config["run_dir"])), config["side"], _data_key(config)
    devices = find_devices(1) if side == "query" else config.call(find_devices, "")
    open_source = open_queries if side == "query" else open_corpus
    source = config.call(open_source, "data", keys={"files": key}, name=key)
    bi_encoder = config.call(
        load_bi_encoder,
        "model",
        keys={"name_or_path": "model_dir"},
        name_or_path=config["model_dir"] or run.model,
        settings=config.call(Settings, "model"),
        explicit=explicit_keys("model"),
        lora=None,
        new_projection=False,
    )
    encoder = config.call(
        ShardEncoder,
        "encode",
        "",
        bi_encoder=bi_encoder,
        source=source,
        device="cpu" if len(devices) > 1 else None,
    )
    if side == "query":
        return encoder.encode(run.query_embeddings(config["split"]))
    if len(devices) == 1:
        shard = None if config["shard"] == "all" else config["shard"]
        return config.call(encode_passages, "", encoder=encoder, run=run, shard=shard)

    def on_one_device(worker: str) -> list[str]:
        return this_command("dpr_lightning.commands.encode_worker", worker, "devices=1")

    return config.call(encode_passages_on_devices, "", encoder=encoder, run=run, devices=devices, command=on_one_device)


if __name__ == "__main__":
    encode()
