"""Encode the corpus, shard by shard, or the queries."""

from pathlib import Path

from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.launch import Config, command, explicit_keys, this_command
from dpr_lightning.run_dir import RunDir


@command
def encode(config: Config) -> str:
    """Encode the shards of the corpus that do not exist yet, or with `side=query` the queries of a split."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.encoding.devices import find_devices
    from dpr_lightning.encoding.stage import ShardEncoder, encode_passages, encode_passages_on_devices
    from dpr_lightning.model.bi_encoder import load_bi_encoder
    from dpr_lightning.model.settings import Settings

    run, side, split = RunDir(Path(config["run_dir"])), config["side"], config["split"]
    shard = None if config["shard"] == "all" else config["shard"]
    check_choice(side, "side", ["passage", "query"])
    if shard is not None and config["devices"] != 1:
        raise UserError(f"devices: {config['devices']} is for all shards, not for shard={shard}. Leave one out.")
    devices = find_devices(1) if side == "query" else config.call(find_devices, "")
    key = f"data.queries.{split}" if side == "query" else "data.corpus"
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
        return encoder.encode(run.query_embeddings(split))
    if len(devices) == 1:
        return config.call(encode_passages, "", encoder=encoder, run=run, shard=shard)

    def on_one_device(worker: str) -> list[str]:
        return this_command("dpr_lightning.commands.encode_worker", worker, "devices=1")

    return config.call(encode_passages_on_devices, "", encoder=encoder, run=run, devices=devices, command=on_one_device)


if __name__ == "__main__":
    encode()
