"""Encode the corpus, shard by shard, or the queries."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dpr_lightning.config import Config
from dpr_lightning.data.readers import find_files
from dpr_lightning.errors import UserError
from dpr_lightning.launch import command, explicit_keys, this_command
from dpr_lightning.plan import Check, Plan
from dpr_lightning.run_dir import RunDir

if TYPE_CHECKING:
    from dpr_lightning.data.sources import Source
    from dpr_lightning.encoding.stage import ShardEncoder

_PLANNED = ("encode.precision", "encode.dtype", "encode.dim", "encode.chunk_size", "encode.tokens_per_batch", "devices")


def checks(config: Config) -> Iterator[Check]:
    """Yield the checks of the settings, of finished files, and of the paths of data and model."""
    from dpr_lightning.encoding.checks import check_encoding, check_shards, refuse_finished
    from dpr_lightning.encoding.devices import find_devices

    run, skips_finished = RunDir(Path(config["run_dir"])), config.skips_finished
    yield partial(config.call, check_encoding, "encode", "")
    if config["side"] == "query":
        path = run.query_embeddings(config["split"])
        yield partial(config.call, refuse_finished, "encode", "", path=path, skips_finished=skips_finished)
    else:
        shard = _shard(config)
        yield partial(config.call, find_devices, "")
        yield partial(config.call, check_shards, "encode", "", run=run, shard=shard, skips_finished=skips_finished)
    yield partial(find_files, config[_data_key(config)], name=_data_key(config), hub="skip")
    yield partial(_check_model, config)


def add_plan(config: Config, plan: Plan) -> None:
    """Add rows, shards, space, memory and time to a plan."""
    from dpr_lightning.data.plan import count_rows
    from dpr_lightning.data.sources import Source
    from dpr_lightning.encoding.devices import find_devices
    from dpr_lightning.encoding.plan import add_encoding, find_left
    from dpr_lightning.model.folder import is_on_this_machine

    run, side, key = RunDir(Path(config["run_dir"])), config["side"], _data_key(config)
    plan.add("settings", config.described(_PLANNED))
    kind = "queries" if side == "query" else "corpus"
    counted = config.call(count_rows, "data", plan=plan, files=config[key], kind=kind, name=key)
    if counted is None:
        return
    if side == "query":
        left = {run.query_embeddings(config["split"]): counted.rows}
    else:
        left = config.call(find_left, "", plan=plan, run=run, rows=counted.rows, shard=_shard(config))
    if not is_on_this_machine(model := config["model_dir"] or str(run.model)):
        plan.add("model", f"{model} is not on this machine yet: space, memory and time are not estimated")
        return
    encoder = _make_encoder(config, Source(counted.sample, counted.fingerprint, 0), None)
    devices = find_devices(1) if side == "query" else config.call(find_devices, "")
    add_encoding(plan, encoder, left, counted.sample, devices=len(devices))


def _shard(config: Config) -> int | None:
    return None if config["shard"] == "all" else config["shard"]


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


def _make_encoder(config: Config, source: Source, device: str | None) -> ShardEncoder:
    from dpr_lightning.encoding.stage import ShardEncoder
    from dpr_lightning.model.bi_encoder import load_bi_encoder
    from dpr_lightning.model.settings import Settings

    bi_encoder = config.call(
        load_bi_encoder,
        "model",
        keys={"name_or_path": "model_dir"},
        name_or_path=config["model_dir"] or RunDir(Path(config["run_dir"])).model,
        settings=config.call(Settings, "model"),
        explicit=explicit_keys("model"),
        lora=None,
        new_projection=False,
    )
    return config.call(ShardEncoder, "encode", "", bi_encoder=bi_encoder, source=source, device=device)


@command(checks=checks, plan=add_plan)
def encode(config: Config) -> str:
    """Encode the shards of the corpus that do not exist yet, or with `side=query` the queries of a split."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.encoding.devices import find_devices
    from dpr_lightning.encoding.stage import encode_passages, encode_passages_on_devices

    run, side, key = RunDir(Path(config["run_dir"])), config["side"], _data_key(config)
    devices = find_devices(1) if side == "query" else config.call(find_devices, "")
    open_source = open_queries if side == "query" else open_corpus
    source = config.call(open_source, "data", keys={"files": key}, name=key)
    encoder = _make_encoder(config, source, "cpu" if len(devices) > 1 else None)
    if side == "query":
        return encoder.encode(run.query_embeddings(config["split"]))
    if len(devices) == 1:
        return config.call(encode_passages, "", encoder=encoder, run=run, shard=_shard(config))

    def on_one_device(worker: str) -> list[str]:
        return this_command("dpr_lightning.commands.encode_worker", worker, "devices=1")

    return config.call(encode_passages_on_devices, "", encoder=encoder, run=run, devices=devices, command=on_one_device)


if __name__ == "__main__":
    encode()
