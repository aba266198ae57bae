"""Small embedding files for tests."""

import numpy as np

from dpr_lightning.embeddings.file import Identity
from dpr_lightning.embeddings.shards import shard_rows
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.run_dir import RunDir, shard_name

IDS = ["d1", "", "Zürich", "日本", "a b\tc", "d1-again", "👩🏽‍🚀"]


def identity(rows, **changes):
    values = {"side": "passage", "shard": 1, "num_shards": 3, "first_row": 5, "rows": rows}
    values |= {"precision": "32", "tokens_per_batch": 2048}
    return Identity(**{**values, "model_fingerprint": "m0", "data_fingerprint": "x0", **changes})


def write(path, array, ids, *, chunk_size=3, overwrite=False, **changes):
    """Write `array` through the writer and return the row at which it began."""
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
    """Write one shard and return its path."""
    part = {"side": side, "shard": shard, "num_shards": num_shards, "first_row": first_row}
    write(path, array, ids, chunk_size=64, **part, model_fingerprint=model, data_fingerprint=data)
    return path


def write_corpus(folder, array, num_shards, changes=None):
    """Write the shards of a corpus with docids d0, d1, …; `changes` maps a shard to changes of its identity."""
    for shard in range(num_shards):
        rows = shard_rows(shard, num_shards, len(array))
        part = {"first_row": rows.start, "shard": shard, "num_shards": num_shards}
        ids = [f"d{row}" for row in rows]
        path = folder / f"{shard_name(shard, num_shards)}.safetensors"
        write_embeddings(path, array[rows.start : rows.stop], ids, **(part | (changes or {}).get(shard, {})))


def write_queries(run, array, *, split="test", **changes):
    """Write the embeddings of a split's queries q0, q1, … into a run folder and return their path."""
    ids = [f"q{i}" for i in range(len(array))]
    return write_embeddings(run.query_embeddings(split), array, ids, side="query", **changes)


def write_run(folder, queries, passages, num_shards, changes=None):
    """Write a run folder with the embeddings of queries and passages, and return its RunDir."""
    run = RunDir(folder)
    write_queries(run, queries)
    write_corpus(run.passage_shards, passages, num_shards, changes)
    return run
