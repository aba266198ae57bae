"""Encodes the corpus, shard by shard, or the queries: python encode.py experiment=nq shard=5"""

from pathlib import Path

from omegaconf import DictConfig

from dpr_lightning.launch import command, explicit_keys, make, plain


@command
def encode(config: DictConfig) -> str:
    """Model and rows from the config, then the files that are not there yet."""
    from dpr_lightning.data.sources import open_corpus, open_queries
    from dpr_lightning.encoding.encode import ShardEncoder, encode_passages
    from dpr_lightning.errors import check_choice

    check_choice(config.side, "side", ["passage", "query"])
    skip_invalid = config.data.skip_invalid
    if config.side == "query":
        key = f"data.queries.{config.split}"
        source = open_queries(plain(config.data.queries).get(config.split), key=key, skip_invalid=skip_invalid)
    else:
        source = open_corpus(plain(config.data)["corpus"], skip_invalid=skip_invalid)
    bi_encoder = make(config, "model", name_or_path=config.model_dir, lora=None, explicit=explicit_keys("model"))
    encoder = ShardEncoder(bi_encoder, source, side=config.side, overwrite=config.overwrite, **plain(config.encode))
    folder = Path(config.run_dir) / "embeddings" / config.side
    if config.side == "query":
        return encoder.encode(folder / f"{config.split}.safetensors")
    return encode_passages(encoder, folder, shard=config.shard, num_shards=config.num_shards)


if __name__ == "__main__":
    encode()
