"""Encode one shard: chunks of rows, tokenized ahead, batched by length and token budget, written in the background."""

from __future__ import annotations

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
from dpr_lightning.encoding.batches import embed_batches
from dpr_lightning.encoding.progress import Progress
from dpr_lightning.errors import UserError
from dpr_lightning.model.encoder import Encoder
from dpr_lightning.model.packed import PackedEncoder

TokenIds = list[list[int]]

_SAMPLE, _FEWEST_TEXTS = 64, 8  # rows of the first chunk that are compared, and how many texts they need
_TOLERANCE = 1e-4  # of the largest number in an embedding


class Speed(NamedTuple):
    """What encoding took: rows, seconds, and tokens without and with padding."""

    rows: int
    seconds: float
    tokens: int
    padded_tokens: int


def encode_rows(
    encoder: Encoder | PackedEncoder,
    inputs: InputTokenizer,
    writer: EmbeddingWriter,
    *,
    ids: Sequence[str],
    token_ids: Callable[[range], TokenIds],
    tokens_per_batch: int,
    cut: Callable[[Tensor], Tensor],
    progress: Progress,
) -> Speed:
    """Encode the rows that `writer` does not have yet, and finish its file.

    Three chunks are in work at a time: one thread tokenizes the next, this one encodes, another writes the one before.
    The bytes written do not depend on where an earlier run was interrupted: chunks are divided by row, and batches are
    formed within a chunk.

    Args:
        encoder: The encoder in evaluation mode, on its device and in its precision.
        inputs: Pads the batches, unless the encoder packs them.
        writer: Writes the chunks.
        ids: The id of each row of the shard, for error messages.
        token_ids: Returns the token ids of a range of the shard's rows.
        tokens_per_batch: The most tokens of a batch, padding included.
        cut: Returns the part of embeddings [N, encoder.dim] that the file stores.
        progress: Counts the rows of each batch.

    Raises:
        UserError: An embedding is not finite (the message names its id), or different texts of the first chunk have
            nearly the same embedding.
    """
    start, first = time.perf_counter(), writer.done
    tokens = padded_tokens = 0
    device = next(encoder.parameters()).device
    starts = range(first, writer.rows, writer.chunk_size)
    chunks = [range(row, min(row + writer.chunk_size, writer.rows)) for row in starts]
    with ThreadPoolExecutor(1) as tokenizing, ThreadPoolExecutor(1) as writing, torch.inference_mode():
        written: Future[None] | None = None
        for chunk in _look_ahead(token_ids, chunks, tokenizing):
            # 1. Encode batch by batch. On a GPU this only queues the work.
            batches = []
            for batch in embed_batches(encoder, inputs, chunk, tokens_per_batch):
                batches.append(batch._replace(embeddings=cut(batch.embeddings)))
                padded_tokens += batch.tokens
                progress.advance(len(batch.rows))
            tokens += sum(map(len, chunk))
            # 2. Start the copy from the device. The writing thread waits for it, so that this one goes on to the next
            #    chunk.
            fetched = torch.cat([batch.embeddings for batch in batches]).to("cpu", non_blocking=device.type == "cuda")
            copied = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
            # 3. Write the chunk once the one before is written, so that at most two wait in memory.
            if written is not None:
                written.result()
            order = np.concatenate([batch.rows for batch in batches])
            differ = writer.done == 0 and _differ(chunk)
            written = writing.submit(_write_chunk, writer, ids, fetched, order, copied, differ)
        if written is not None:
            written.result()
    writer.finish()
    return Speed(writer.rows - first, time.perf_counter() - start, tokens, padded_tokens)


def _look_ahead(
    token_ids: Callable[[range], TokenIds], chunks: Sequence[range], pool: ThreadPoolExecutor
) -> Iterator[TokenIds]:
    """Yield the token ids of each chunk; while the caller uses them, `pool` tokenizes the next chunk."""
    current: Future[TokenIds] | None = None
    for chunk in chunks:
        following = pool.submit(token_ids, chunk)
        if current is not None:
            yield current.result()
        current = following
    if current is not None:
        yield current.result()


def _write_chunk(
    writer: EmbeddingWriter,
    ids: Sequence[str],
    fetched: Tensor,
    order: NDArray[np.int64],
    copied: torch.cuda.Event | None,
    differ: bool,
) -> None:
    """Write a chunk whose row order[i] is row i of `fetched`, after the copy; check that its texts `differ`, if so."""
    if copied is not None:
        copied.synchronize()
    embeddings = np.empty(fetched.shape, writer.dtype)
    with np.errstate(over="ignore"):  # values beyond float16 become infinite
        embeddings[order] = fetched.float().numpy()
    _check_finite(embeddings, ids, writer.done)
    if differ:
        _check_differ(embeddings[:_SAMPLE].astype(np.float32))
    writer.append(embeddings)


def _check_finite(embeddings: NDArray[Any], ids: Sequence[str], first_row: int) -> None:
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise UserError(
            f"the embedding of {ids[first_row + int(bad[0])]!r} is not finite. "
            "Set `precision`=32 and `dtype`=float32; if that does not help, the model's weights are broken."
        )


def _differ(chunk: TokenIds) -> bool:
    """Return whether the first rows of a chunk have enough different texts to tell whether embeddings differ."""
    return len(set(map(tuple, chunk[:_SAMPLE]))) >= _FEWEST_TEXTS


def _check_differ(embeddings: NDArray[np.float32]) -> None:
    if np.ptp(embeddings, axis=0).max() <= _TOLERANCE * np.abs(embeddings).max():
        raise UserError(
            "the model gives different texts nearly the same embedding, so that a search cannot rank them. "
            "Check the weights, and whether `pooling` is the one that the model was trained with."
        )
