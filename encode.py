"""Encodes the corpus, shard by shard, or the queries: python encode.py experiment=nq shard=5"""

from pathlib import Path

from omegaconf import DictConfig

from dpr_lightning.launch import command, explicit_keys, make, plain, this_command
from dpr_lightning.run_dir import RunDir


@command
def encode(config: DictConfig) -> str:
    """Model and rows from the config, then the files that are not there yet."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.encoding.devices import end_with_parent, find_devices
    from dpr_lightning.encoding.stage import ShardEncoder, encode_passages, encode_passages_on_devices
    from dpr_lightning.errors import UserError, check_choice

    end_with_parent()
    check_choice(config.side, "side", ["passage", "query"])
    is_query = config.side == "query"
    if config.shard is not None and config.devices != 1:
        raise UserError(f"devices: {config.devices} is for all shards, not for shard={config.shard}. Leave one out.")
    devices = find_devices(1 if is_query else config.devices)
    skip_invalid = config.data.skip_invalid
    if is_query:
        key = f"data.queries.{config.split}"
        source = open_queries(plain(config.data.queries).get(config.split), key=key, skip_invalid=skip_invalid)
    else:
        source = open_corpus(plain(config.data)["corpus"], skip_invalid=skip_invalid)
    trained = {"name_or_path": config.model_dir, "lora": None, "new_projection": False}
    bi_encoder = make(config, "model", explicit=explicit_keys("model"), **trained)
    settings = {"side": config.side, "overwrite": config.overwrite, **plain(config.encode)}
    encoder = ShardEncoder(bi_encoder, source, device="cpu" if len(devices) > 1 else None, **settings)
    run, num_shards = RunDir(Path(config.run_dir)), config.num_shards
    if is_query:
        return encoder.encode(run.query_embeddings(config.split))
    if len(devices) == 1:
        return encode_passages(run, encoder, shard=config.shard, num_shards=num_shards)

    def one_shard(name: str, number: int) -> list[str]:
        return this_command(__file__, name, f"shard={number}", "devices=1")

    return encode_passages_on_devices(run, encoder, num_shards=num_shards, devices=devices, command=one_shard)


if __name__ == "__main__":
    encode()
