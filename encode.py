"""Encodes the corpus, shard by shard, or the queries: python encode.py experiment=nq shard=5"""

from pathlib import Path

from omegaconf import DictConfig

from dpr_lightning.launch import command, explicit_keys, plain, this_command


@command
def encode(config: DictConfig) -> str:
    """Model and rows from the config, then the files that are not there yet."""
    from dataclasses import fields

    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.encoding.devices import end_with_parent, find_devices
    from dpr_lightning.encoding.stage import ShardEncoder, encode_passages, encode_passages_on_devices
    from dpr_lightning.errors import UserError, check_choice
    from dpr_lightning.model.bi_encoder import load_bi_encoder
    from dpr_lightning.model.settings import Settings

    end_with_parent()
    check_choice(config.side, "side", ["passage", "query"])
    is_query = config.side == "query"
    if config.shard is not None and config.devices != 1:
        raise UserError(f"devices: {config.devices} is for all shards, not for shard={config.shard}. Leave one out.")
    devices = find_devices(1 if is_query else config.devices)
    skip_invalid = config.data.skip_invalid
    if is_query:
        name = f"queries.{config.split}"
        source = open_queries(plain(config.data.queries).get(config.split), name=name, skip_invalid=skip_invalid)
    else:
        source = open_corpus(plain(config.data)["corpus"], skip_invalid=skip_invalid)
    model_settings = Settings(**plain(config.model, *(field.name for field in fields(Settings))))
    explicit = explicit_keys("model")
    bi_encoder = load_bi_encoder(config.model_dir, settings=model_settings, explicit=explicit, new_projection=False)
    settings = {"side": config.side, "overwrite": config.overwrite, **plain(config.encode)}
    encoder = ShardEncoder(bi_encoder, source, device="cpu" if len(devices) > 1 else None, **settings)
    folder, num_shards = Path(config.run_dir) / "embeddings" / config.side, config.num_shards
    if is_query:
        return encoder.encode(folder / f"{config.split}.safetensors")
    if len(devices) == 1:
        return encode_passages(encoder, folder, shard=config.shard, num_shards=num_shards)

    def one_shard(name: str, number: int) -> list[str]:
        return this_command(__file__, name, f"shard={number}", "devices=1")

    return encode_passages_on_devices(encoder, folder, num_shards=num_shards, devices=devices, command=one_shard)


if __name__ == "__main__":
    encode()
