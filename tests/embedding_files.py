"""Small embedding files for tests."""

import numpy as np

from dpr_lightning.encoding.embeddings import EmbeddingWriter, Identity

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
