"""Encodes one shard: chunks of rows, tokenized ahead, batched by length and token budget, written as they end."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dpr_lightning.data.collate import InputTokenizer
from dpr_lightning.encoding.embeddings import EmbeddingWriter
from dpr_lightning.encoding.progress import Progress
from dpr_lightning.errors import UserError
from dpr_lightning.model.encoder import Encoder

TokenIds = list[list[int]]


class Speed(NamedTuple):
    """What a shard took: rows encoded now, seconds, and tokens with and without padding."""

    rows: int
    seconds: float
    tokens: int
    positions: int


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` becomes `bf16` where the hardware multiplies bfloat16 itself, `32` elsewhere."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "32"


def encode_rows(
    encoder: Encoder,
    inputs: InputTokenizer,
    writer: EmbeddingWriter,
    *,
    ids: Sequence[str],
    token_ids: Callable[[range], TokenIds],
    tokens_per_batch: int,
    progress: Progress,
) -> Speed:
    """Encodes the rows that `writer` does not hold yet, and finishes its file.

    While a chunk is on the device, a thread tokenizes the next. The bytes written do not depend on where an earlier
    attempt was cut off: chunks are cut by row, and what shares a batch is decided within a chunk.

    Args:
        encoder: in evaluation mode, on its device and in its precision.
        inputs: pads the batches.
        writer: takes the chunks.
        ids: the id of each row of the shard, for error messages.
        token_ids: gives the token ids of a range of the shard's rows.
        tokens_per_batch: token positions, padding included, of a batch at most.
        progress: is told of each batch.

    Raises:
        UserError: an embedding that is not finite; the message names its id.
    """
    start, first = time.perf_counter(), writer.done
    tokens = positions = 0
    chunks = [
        range(row, min(row + writer.chunk_size, writer.rows)) for row in range(first, writer.rows, writer.chunk_size)
    ]
    with ThreadPoolExecutor(1) as ahead, torch.inference_mode():
        pending = [ahead.submit(token_ids, chunk) for chunk in chunks[:1]]
        for place, chunk in enumerate(chunks):
            chunk_ids = pending.pop().result()
            pending += [ahead.submit(token_ids, following) for following in chunks[place + 1 : place + 2]]
            embeddings = np.empty((len(chunk), encoder.dim), writer.dtype)
            for rows in length_batches([len(row) for row in chunk_ids], tokens_per_batch):
                batch = inputs.pad([chunk_ids[row] for row in rows])
                with np.errstate(over="ignore"):  # what does not fit float16 becomes infinite
                    embeddings[rows] = _embed(encoder, batch)
                tokens += sum(len(chunk_ids[row]) for row in rows)
                positions += batch["input_ids"].numel()
                progress.advance(len(rows))
            _check_finite(embeddings, ids, chunk.start)
            writer.append(embeddings)
    writer.finish()
    return Speed(writer.rows - first, time.perf_counter() - start, tokens, positions)


def length_batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[NDArray[np.int64]]:
    """Rows sorted from long to short (equal lengths in row order), cut so that rows x longest fit the budget."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        longest = -(-lengths[order[start]] // 8) * 8
        count = max(1, tokens_per_batch // longest)
        yield order[start : start + count]
        start += count


def _embed(encoder: Encoder, batch: dict[str, Any]) -> NDArray[np.float32]:
    parameter = next(encoder.parameters())
    moved = {name: tensor.to(parameter.device, non_blocking=True) for name, tensor in batch.items()}
    embeddings: NDArray[np.float32] = encoder(**moved).float().cpu().numpy()
    return embeddings


def _check_finite(embeddings: NDArray[Any], ids: Sequence[str], first_row: int) -> None:
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise UserError(
            f"the embedding of {ids[first_row + int(bad[0])]!r} is not finite. "
            "Set encode.precision=32 and encode.dtype=float32; if it stays, the model's weights are broken."
        )


def prepare(encoder: Encoder, *, device: torch.device, precision: str) -> Encoder:
    """The encoder on a device, in evaluation mode and a precision: `32`, `bf16` or `16`; the latter two take a copy."""
    dtypes = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
    if precision != "32":
        encoder = copy.deepcopy(encoder)  # rounded weights would change the model's fingerprint
    return encoder.eval().to(device, dtypes[precision])
