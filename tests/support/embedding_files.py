"""Small embedding files for tests."""

import numpy as np

from dpr_lightning.embeddings.file import Identity
from dpr_lightning.embeddings.shards import shard_name, shard_rows
from dpr_lightning.embeddings.writer import EmbeddingWriter

IDS = ["d1", "", "Zürich", "日本", "a b\tc", "d1-again", "👩🏽‍🚀"]


def identity(rows, **changes):
    values = {"side": "passage", "shard": 1, "num_shards": 3, "first_row": 5, "rows": rows}
    values |= {"precision": "32", "tokens_per_batch": 2048}
    return Identity(**{**values, "model_fingerprint": "m0", "data_fingerprint": "x0", **changes})


def write(path, array, ids, *, chunk_size=3, overwrite=False, **changes):
    """Writes `array` through the writer and returns the row at which it began."""
    dtype = str(array.dtype)
    with EmbeddingWriter(
        path,
        identity(len(array), **changes),
        ids,
        dim=array.shape[1],
        dtype=dtype,
        chunk_size=chunk_size,
        overwrite=overwrite,
    ) as writer:
        first = writer.done
        for row in range(first, len(array), chunk_size):
            writer.append(array[row : row + chunk_size])
        writer.finish()
    return first


def numbers(rows, dim=5, dtype="float32"):
    return np.random.default_rng(rows).normal(size=(rows, dim)).astype(dtype)


def write_embeddings(path, array, ids, *, first_row=0, shard=0, num_shards=1, model="m", data="d", side="passage"):
    """Writes one shard."""
    place = {"side": side, "shard": shard, "num_shards": num_shards, "first_row": first_row}
    write(path, array, ids, chunk_size=64, **place, model_fingerprint=model, data_fingerprint=data)
    return path


def write_corpus(folder, array, num_shards, changes=None):
    """Writes the shards of a corpus with docids d0, d1, …; `changes` are to the identity of a shard."""
    for shard in range(num_shards):
        rows = shard_rows(shard, num_shards, len(array))
        place = {"first_row": rows.start, "shard": shard, "num_shards": num_shards}
        ids = [f"d{row}" for row in rows]
        path = folder / f"{shard_name(shard, num_shards)}.safetensors"
        write_embeddings(path, array[rows.start : rows.stop], ids, **(place | (changes or {}).get(shard, {})))
