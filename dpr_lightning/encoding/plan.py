"""The plan of an encoding: which shards are left, and what they take in space, memory and time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dpr_lightning.embeddings.shards import resolve_num_shards, shard_rows
from dpr_lightning.embeddings.writer import partial_file, rows_written
from dpr_lightning.encoding.batches import embed_batches
from dpr_lightning.encoding.stage import ShardEncoder
from dpr_lightning.plan import Plan
from dpr_lightning.run_dir import RunDir

_MEASURED_S = 3.0
_CHUNKS = 3  # that are in work at a time: tokenized, encoded, written
_TOKENIZED = 2  # chunks whose tokens are in memory: of the next one and of the one that is encoded
_BYTES_PER_TOKEN = 36  # a Python number in a list
_BYTES_PER_ROW = 28  # of a shard in memory: its id and what finding it takes, about


def find_left(
    plan: Plan, run: RunDir, *, rows: int, shard: int | None, num_shards: int | str, overwrite: bool = False
) -> dict[Path, int]:
    """Add a line about finished, partial and missing shards to a plan; return the files to encode and their rows."""
    count = resolve_num_shards(run.passage_shards, num_shards, rows)
    numbers = range(count) if shard is None else [shard]
    files = {run.passage_shard(number, count): len(shard_rows(number, count, rows)) for number in numbers}
    finished = [path for path in files if path.exists()]
    partial = [path for path in files if path not in finished and partial_file(path).exists()]
    missing = len(files) - len(finished) - len(partial)
    left = {path: own for path, own in files.items() if overwrite or path not in finished}
    of = f"{len(files)} of {count}" if shard is not None else f"{count}"
    fate = ", which are replaced" if finished and overwrite else ""
    plan.add("shards", f"{of}: {len(finished)} finished{fate}, {len(partial)} partial, {missing} missing")
    return left


def add_encoding(
    plan: Plan,
    encoder: ShardEncoder,
    left: Mapping[Path, int],
    sample: Sequence[Mapping[str, Any]],
    *,
    devices: int = 1,
) -> None:
    """Add what encoding takes to a plan.

    Args:
        plan: The plan.
        encoder: The encoder, on its device.
        left: The files to encode and their rows.
        sample: Rows whose encoding is timed.
        devices: The number of devices that encode at once.
    """
    device = next(encoder.encoder.parameters()).device
    written = {path: min(rows, _rows_in(partial_file(path))) for path, rows in left.items()}
    rows = sum(left.values()) - sum(written.values())
    plan.add("rows", f"{rows:,} to encode, {sum(written.values()):,} of partial files are kept")
    for path in list(left)[:1]:
        plan.add_disk(path.parent, encoder.bytes_to_write(left, at_once=devices))
        with plan.collected():
            encoder.check_space(left, at_once=devices)
    parameters = sum(one.numel() for one in encoder.encoder.parameters())
    plan.add("model", f"{encoder.dim} dimensions, {parameters:,} parameters of the {encoder.side} encoder")
    weights = sum(one.numel() * one.element_size() for one in encoder.encoder.parameters())
    chunks = _CHUNKS * encoder.chunk_size * encoder.dim * 4
    tokens = _BYTES_PER_TOKEN * min(_TOKENIZED * encoder.chunk_size, rows) * _longest(encoder)
    ids = _BYTES_PER_ROW * max(left.values(), default=0)
    plan.add_memory(
        weights + min(chunks, 4 * encoder.dim * rows) + tokens + ids,
        "weights, chunks, tokens and ids of a process, besides torch itself",
    )
    if rows and sample:
        speed = rows_per_second(encoder, sample)
        where = f"{device.type}, precision {encoder.precision}"
        plan.add("time", f"about {_duration(rows / speed / devices)}, at {speed:,.0f} rows/s per device ({where})")


def rows_per_second(encoder: ShardEncoder, sample: Sequence[Mapping[str, Any]]) -> float:
    """Return how many rows a device encodes per second, measured for a few seconds after a first group of rows."""
    size = min(len(sample), max(64, 4 * encoder.tokens_per_batch // _longest(encoder)))
    groups = itertools.cycle([sample[first : first + size] for first in range(0, len(sample) - size + 1, size)])
    _encode(encoder, next(groups))  # loads kernels and fills caches
    start, done = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < _MEASURED_S:
        done += _encode(encoder, next(groups))
    return done / seconds


def _longest(encoder: ShardEncoder) -> int:
    return encoder.inputs.query_max_length if encoder.side == "query" else encoder.inputs.passage_max_length


def _encode(encoder: ShardEncoder, rows: Sequence[Mapping[str, Any]]) -> int:
    token_ids = encoder.tokenize({name: [row[name] for row in rows] for name in rows[0]})
    with torch.inference_mode():
        for batch in embed_batches(encoder.encoder, encoder.inputs, token_ids, encoder.tokens_per_batch):
            last = batch.embeddings
        last.float().cpu()  # waits for the device
    return len(rows)


def _rows_in(partial: Path) -> int:
    return rows_written(partial)[0] if partial.exists() else 0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
