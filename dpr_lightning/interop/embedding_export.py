"""Write embeddings and their ids for other programs, block by block, in memory that does not grow with the corpus."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dpr_lightning.embeddings.shards import ShardedEmbeddings, open_part, open_passages
from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.files import atomic_path, refuse_overwrite
from dpr_lightning.run_dir import RunDir

ENDINGS = {"parquet": ".parquet", "npy": ".npy", "faiss": ".faiss"}
_ROWS_AT_ONCE = 16_384


def export_embeddings(
    run: RunDir,
    *,
    to: str,
    side: str = "passage",
    split: str = "test",
    out: Path | None = None,
    overwrite: bool = False,
) -> str:
    """Write the embeddings of a run's corpus or queries as one file, and return a line about it.

    - `parquet`: the columns `id` (string) and `embedding` (list of `dim` float32 numbers).
    - `npy`: an array [rows, dim] as NumPy saves it, float32 or float16 as in the run.
    - `faiss`: an exact inner product index (`IndexFlatIP`), whose row numbers are the lines of the ids.

    Beside `.npy` and `.faiss`, the ids are in a file of the same name that ends in `.txt`, one per line.

    Args:
        run: The folder of the experiment.
        to: `parquet`, `npy` or `faiss`.
        side: `passage` or `query`.
        split: The split of the queries.
        out: The file to write; None means one in the run folder.
        overwrite: Replace an existing file.

    Raises:
        UserError: The embeddings are missing or damaged, the file exists, or an id has a line break.
    """
    check_choice(to, "to", list(ENDINGS))
    name = f"passage{ENDINGS[to]}" if side == "passage" else f"query-{split}{ENDINGS[to]}"
    out = out or run.exported(name)
    if out.suffix != ENDINGS[to]:
        raise UserError(f"out: {out} does not end in {ENDINGS[to]}. Rename it.")
    refuse_overwrite(out, overwrite, remedy="Give --overwrite, or another name with --out")
    if side == "passage":
        embeddings = open_passages(run.passage_shards)
    else:
        embeddings = ShardedEmbeddings([open_part(run.query_embeddings(split), "query")])
    writers: dict[str, Callable[[Path, ShardedEmbeddings], None]] = {"npy": _write_npy, "faiss": _write_faiss}
    with atomic_path(out) as temporary:
        writers.get(to, _write_parquet)(temporary, embeddings)
        if to != "parquet":
            _write_ids(out.with_suffix(".txt"), embeddings)
    size = out.stat().st_size
    return f"{out}: {embeddings.rows:,} embeddings of {embeddings.dim} dimensions, {size:,} bytes"


def _write_parquet(path: Path, embeddings: ShardedEmbeddings) -> None:
    schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32(), embeddings.dim))])
    with pq.ParquetWriter(path, schema) as writer:
        for shard in embeddings.shards:
            for (first, last), block in zip(_bounds(len(shard.array)), shard.blocks(_ROWS_AT_ONCE), strict=True):
                values = pa.array(block.astype(np.float32).ravel())
                vectors = pa.FixedSizeListArray.from_arrays(values, embeddings.dim)
                writer.write_batch(pa.record_batch([pa.array(shard.ids[first:last]), vectors], schema))


def _write_npy(path: Path, embeddings: ShardedEmbeddings) -> None:
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(np.empty((0, embeddings.dim), embeddings.dtype))
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (embeddings.rows, embeddings.dim)})
        for block in embeddings.blocks(_ROWS_AT_ONCE):
            file.write(np.ascontiguousarray(block).data)


def _write_faiss(path: Path, embeddings: ShardedEmbeddings) -> None:
    """Write the bytes of FAISS's own writer, which would need the whole index in memory."""
    header = _faiss_header(embeddings.rows, embeddings.dim)
    with path.open("wb") as file:
        file.write(header)
        for block in embeddings.blocks(_ROWS_AT_ONCE):
            file.write(np.ascontiguousarray(block, np.float32).data)


def _faiss_header(rows: int, dim: int) -> bytes:
    """Return what FAISS writes before the vectors of an IndexFlatIP.

    It is that of an empty index with two numbers replaced: after 4 bytes of type and 4 of dimension the rows (int64),
    and at the end the number of float32 values (uint64). An index of one row shows whether this FAISS does so, too.
    """
    import faiss

    def header(count: int) -> bytes:
        empty = bytearray(faiss.serialize_index(faiss.IndexFlatIP(dim)).tobytes())
        empty[8:16], empty[-8:] = struct.pack("<q", count), struct.pack("<Q", count * dim)
        return bytes(empty)

    one = faiss.IndexFlatIP(dim)
    vector = np.ones((1, dim), np.float32)
    one.add(vector)
    if faiss.serialize_index(one).tobytes() != header(1) + vector.tobytes():
        raise UserError(f"to: FAISS {faiss.__version__} writes another format. Set `to` to npy, and add its rows.")
    return header(rows)


def _write_ids(path: Path, embeddings: ShardedEmbeddings) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for shard in embeddings.shards:
            for value in shard.ids:
                if "\n" in value or "\r" in value:
                    raise UserError(f"{shard.path}: the id {value!r} has a line break. Export to parquet.")
                file.write(value + "\n")


def _bounds(rows: int) -> Iterator[tuple[int, int]]:
    """Yield the first row of each block and the row after its last."""
    return pairwise([*range(0, rows, _ROWS_AT_ONCE), rows])
