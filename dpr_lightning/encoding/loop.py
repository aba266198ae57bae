"""Encodes one shard: chunks of rows, tokenized ahead, batched by length and token budget, written as they end."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpr_lightning.data.tokenizer import InputTokenizer
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.encoding.progress import Progress
from dpr_lightning.errors import UserError
from dpr_lightning.model.encoder import Encoder
from dpr_lightning.model.packed import PackedEncoder

TokenIds = list[list[int]]


class Speed(NamedTuple):
    """What a shard took: rows encoded now, seconds, and tokens with and without padding."""

    rows: int
    seconds: float
    tokens: int
    positions: int


def encode_rows(
    encoder: Encoder | PackedEncoder,
    inputs: InputTokenizer,
    writer: EmbeddingWriter,
    *,
    ids: Sequence[str],
    token_ids: Callable[[range], TokenIds],
    tokens_per_batch: int,
    progress: Progress,
) -> Speed:
    """Encodes the rows that `writer` does not hold yet, and finishes its file.

    While a chunk is on the device, one thread tokenizes the next and another writes the one before. The bytes written
    do not depend on where an earlier attempt was cut off: chunks are cut by row, and what shares a batch is decided
    within a chunk.

    Args:
        encoder: in evaluation mode, on its device and in its precision.
        inputs: pads the batches, unless the encoder packs them.
        writer: takes the chunks.
        ids: the id of each row of the shard, for error messages.
        token_ids: gives the token ids of a range of the shard's rows.
        tokens_per_batch: tokens of a batch at most, padding included.
        progress: is told of each batch.

    Raises:
        UserError: an embedding that is not finite; the message names its id.
    """
    start, first = time.perf_counter(), writer.done
    tokens = places = 0
    device = next(encoder.parameters()).device
    multiple, batch_of = _batching(encoder, inputs, device)
    chunks = [
        range(row, min(row + writer.chunk_size, writer.rows)) for row in range(first, writer.rows, writer.chunk_size)
    ]
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(1) as behind, torch.inference_mode():
        tokenized = [ahead.submit(token_ids, chunk) for chunk in chunks[:1]]
        stored: Future[None] | None = None
        for number in range(len(chunks)):
            chunk_ids = tokenized.pop().result()
            tokenized += [ahead.submit(token_ids, following) for following in chunks[number + 1 : number + 2]]
            lengths = [len(row) for row in chunk_ids]
            batches = list(length_batches(lengths, tokens_per_batch, multiple))
            embeddings = []
            for rows in batches:
                batch = batch_of([chunk_ids[row] for row in rows])
                embeddings.append(encoder(**_moved(batch, device)))
                places += batch["input_ids"].numel()
                progress.advance(len(rows))
            tokens += sum(lengths)
            fetched = torch.cat(embeddings).to("cpu", non_blocking=device.type == "cuda")
            ready = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
            if stored is not None:
                stored.result()
            stored = behind.submit(_store, writer, ids, fetched, np.concatenate(batches), ready)
        if stored is not None:
            stored.result()
    writer.finish()
    return Speed(writer.rows - first, time.perf_counter() - start, tokens, places)


def length_batches(lengths: Sequence[int], tokens_per_batch: int, multiple: int | None) -> Iterator[NDArray[np.int64]]:
    """Rows sorted from long to short (equal lengths in row order), cut so that a batch fits the budget.

    A batch counts as rows x longest, the latter rounded up to a multiple of `multiple`; with None, where nothing is
    padded, as the sum of its lengths.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    ends = np.cumsum(np.asarray(lengths)[order])
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        if multiple is None:
            stop = int(np.searchsorted(ends, ends[start] - longest + tokens_per_batch, "right"))
        else:
            stop = start + tokens_per_batch // (-(-longest // multiple) * multiple)
        yield order[start : max(stop, start + 1)]
        start = max(stop, start + 1)


def _batching(
    encoder: Encoder | PackedEncoder, inputs: InputTokenizer, device: torch.device
) -> tuple[int | None, Callable[[TokenIds], dict[str, Any]]]:
    """To what multiple rows are padded, None where they are packed, and what makes a batch of their token ids."""
    if isinstance(encoder, PackedEncoder):
        return None, encoder.pack
    multiple = 1 if device.type == "cpu" else 8  # a GPU's kernels want aligned rows
    return multiple, functools.partial(inputs.pad, multiple=multiple)


def _moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":  # only pinned memory is copied while the device computes
        batch = {name: value.pin_memory() if isinstance(value, Tensor) else value for name, value in batch.items()}
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _store(
    writer: EmbeddingWriter,
    ids: Sequence[str],
    fetched: Tensor,
    order: NDArray[np.int64],
    ready: torch.cuda.Event | None,
) -> None:
    """Writes a chunk whose row order[i] is row i of `fetched`, once the copy from the device is `ready`."""
    if ready is not None:
        ready.synchronize()
    embeddings = np.empty(fetched.shape, writer.dtype)
    with np.errstate(over="ignore"):  # what does not fit float16 becomes infinite
        embeddings[order] = fetched.float().numpy()
    _check_finite(embeddings, ids, writer.done)
    writer.append(embeddings)


def _check_finite(embeddings: NDArray[Any], ids: Sequence[str], first_row: int) -> None:
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise UserError(
            f"the embedding of {ids[first_row + int(bad[0])]!r} is not finite. "
            "Set encode.precision=32 and encode.dtype=float32; if it stays, the model's weights are broken."
        )
