"""Write embeddings of other programs as embedding files of a run, in the order of their data if it is given."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from dpr_lightning.data.sources import Source
from dpr_lightning.embeddings.file import Identity
from dpr_lightning.embeddings.shards import shard_rows
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.files import file_hash
from dpr_lightning.interop.embedding_sources import ROWS_AT_ONCE, read_blocks
from dpr_lightning.run_dir import RunDir


def import_embeddings(
    run: RunDir,
    files: Sequence[Path],
    *,
    side: str,
    split: str,
    num_shards: int,
    model_fingerprint: str,
    source: Source | None = None,
    overwrite: bool = False,
) -> str:
    """Write the embeddings of all files, and return a line about them.

    Args:
        run: The folder to write into.
        files: See `read_blocks`.
        side: `passage` or `query`.
        split: The name of query embeddings.
        num_shards: The number of files for passage embeddings.
        model_fingerprint: What identifies the model; search refuses queries and passages that differ in it.
        source: The data that was encoded, all of whose rows the files must have. Without it, the rows keep the order
            of the files, and their ids identify the data.
        overwrite: Replace finished files.

    Raises:
        UserError: As `read_blocks`; an id that is unknown, missing or repeated; dimensions that differ; a value that is
            not finite; a file that exists.
    """
    check_positive(num_shards, "num_shards")
    run.path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run.path) as scratch:
        array, ids, starts = _gather(files, Path(scratch) / "rows")
        expected = list(source.rows["query_id" if side == "query" else "docid"]) if source else ids
        order = _order(files, ids, starts, expected)
        count = 1 if side == "query" else num_shards
        for shard in range(count):
            rows = shard_rows(shard, count, len(ids))
            identity = Identity(
                side=side,
                shard=shard,
                num_shards=count,
                first_row=rows.start,
                rows=len(rows),
                precision="imported",
                tokens_per_batch=0,
                model_fingerprint=model_fingerprint,
                data_fingerprint=source.fingerprint if source else _hash_of(ids),
            )
            path = run.query_embeddings(split) if side == "query" else run.passage_shard(shard, count)
            form = {"dim": array.shape[1], "dtype": array.dtype.name, "chunk_size": ROWS_AT_ONCE}
            with EmbeddingWriter(
                path, identity, expected[rows.start : rows.stop], **form, overwrite=overwrite
            ) as writer:
                for first in range(rows.start + writer.done, rows.stop, ROWS_AT_ONCE):
                    writer.append(array[order[first : min(first + ROWS_AT_ONCE, rows.stop)]])
                writer.finish()
    return f"{path.parent}: {len(ids):,} embeddings in {count} files"


def name_fingerprint(name: str) -> str:
    """Return the fingerprint of a model that is known by its name only, or by the files of an existing path."""
    path = Path(name)
    if not path.exists():
        return xxhash.xxh3_128_hexdigest(name.encode())
    files = sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]
    hashes = "".join(f"{file.relative_to(path)} {file_hash(file)}\n" for file in files)
    return xxhash.xxh3_128_hexdigest(hashes.encode())


def _gather(files: Sequence[Path], scratch: Path) -> tuple[NDArray[Any], list[str], list[int]]:
    """Return all embeddings [rows, dim], mapped from `scratch`, all ids, and the row at which each file begins."""
    ids: list[str] = []
    starts: list[int] = []
    shape: tuple[int, Any] | None = None
    with scratch.open("wb") as opened:
        for file in files:
            starts.append(len(ids))
            for block in read_blocks(file):
                shape = shape or (block.array.shape[1], block.array.dtype)
                if (block.array.shape[1], block.array.dtype) != shape:
                    raise UserError(f"{file} has another dimension or type than {files[0]}. Encode it again.")
                bad = np.flatnonzero(~np.isfinite(block.array).all(axis=1))
                if len(bad):
                    first = block.ids[int(bad[0])]
                    raise UserError(f"{file}: the embedding of {first} is not finite. Encode it again.")
                np.ascontiguousarray(block.array).tofile(opened)
                ids += block.ids
    if shape is None or not ids:
        raise UserError(f"{files[0]} has no embeddings. Give files that have some.")
    return np.memmap(scratch, shape[1], "r", shape=(len(ids), shape[0])), ids, starts


def _order(files: Sequence[Path], ids: list[str], starts: list[int], expected: list[str]) -> NDArray[np.int64]:
    """Return the row in the files of each expected id."""
    row_of: dict[str, int] = {}
    for row, value in enumerate(ids):
        if value in row_of:
            first, second = (files[bisect_right(starts, at) - 1] for at in (row_of[value], row))
            raise UserError(f"{second}: {value} is in {first} too. Give the files of one encoding.")
        row_of[value] = row
    missing = [value for value in expected if value not in row_of]
    if len(ids) != len(expected) - len(missing):
        known = set(expected)
        unknown = next(row for value, row in row_of.items() if value not in known)
        file = files[bisect_right(starts, unknown) - 1]
        raise UserError(f"{file}: {ids[unknown]} is not in the data. Give the files of one encoding, and its data.")
    if missing:
        raise UserError(
            f"{missing[0]} ({len(missing):,} ids in total) is in none of the files. Give those of all shards."
        )
    return np.array([row_of[value] for value in expected], np.int64)


def _hash_of(ids: Sequence[str]) -> str:
    digest = xxhash.xxh3_128()
    for value in ids:
        digest.update(f"{len(value)} {value}".encode())
    return digest.hexdigest()
