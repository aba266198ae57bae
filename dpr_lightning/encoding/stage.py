"""The encoding stage: which shards to make, from what, with which model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dpr_lightning.data.sources import Source
from dpr_lightning.embeddings.file import Identity, open_embeddings
from dpr_lightning.embeddings.ids import Ids
from dpr_lightning.embeddings.shards import shard_name, shard_rows
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.encoding.devices import Device, run_on_devices
from dpr_lightning.encoding.loop import Speed, encode_rows
from dpr_lightning.encoding.progress import Progress
from dpr_lightning.errors import UserError, check_choice, check_positive
from dpr_lightning.model.bi_encoder import BiEncoder
from dpr_lightning.model.inference import for_inference, resolve_precision
from dpr_lightning.model.packed import packed_if_supported

_log = logging.getLogger(__name__)


class ShardEncoder:
    """Encodes rows of one source with one side of a bi-encoder into embedding files."""

    def __init__(
        self,
        bi_encoder: BiEncoder,
        source: Source,
        *,
        side: str,
        precision: str = "auto",
        dtype: str = "float32",
        chunk_size: int = 16_384,
        tokens_per_batch: int | str = "auto",
        overwrite: bool = False,
        device: str | None = None,
    ) -> None:
        """Moves the encoder to its device.

        Args:
            bi_encoder: the model.
            source: the corpus, or the queries, as `open_corpus` and `open_queries` give them.
            side: `passage` or `query`.
            precision: of the computation: `auto`, `32`, `bf16` or `16`.
            dtype: of the embeddings in the file: `float32` or `float16`.
            chunk_size: rows that are written together.
            tokens_per_batch: token positions, padding included, of a batch at most; `auto` is 2,048 on a CPU, whose
                caches hold no more, and 65,536 on a GPU.
            overwrite: replace finished files.
            device: a torch device; the first GPU, or else the CPU, if None.

        Raises:
            UserError: a setting that is not possible.
        """
        check_choice(side, "side", ["passage", "query"])
        check_choice(str(precision), "encode.precision", ["auto", "32", "bf16", "16"])
        check_choice(dtype, "encode.dtype", ["float32", "float16"])
        check_positive(chunk_size, "encode.chunk_size")
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if tokens_per_batch == "auto":
            tokens_per_batch = 2048 if where.type == "cpu" else 65_536
        check_positive(tokens_per_batch, "encode.tokens_per_batch")
        self.source, self.side, self.dtype, self.overwrite = source, side, dtype, overwrite
        self.chunk_size, self.tokens_per_batch = chunk_size, int(tokens_per_batch)
        self.inputs, self.model_fingerprint = bi_encoder.inputs, bi_encoder.fingerprint()
        self.precision = resolve_precision(str(precision), where)
        self.encoder = packed_if_supported(
            for_inference(getattr(bi_encoder, side), device=where, precision=self.precision)
        )

    def encode(self, path: Path, *, shard: int = 0, num_shards: int = 1) -> str:
        """Makes the file of a shard, or its rest where an earlier attempt was cut off.

        Returns:
            One line: what was written, how much, how fast.

        Raises:
            UserError: the shard does not exist, is finished already, or is being made by another process.
        """
        rows = shard_rows(shard, num_shards, len(self.source.rows))
        field = "docid" if self.side == "passage" else "query_id"
        column = self.source.rows.select_columns([field]).with_format("arrow")
        ids = Ids.of_column(column[rows.start : rows.stop][field])
        writer = EmbeddingWriter(
            path,
            self._identity(shard, num_shards, rows),
            ids,
            dim=self.encoder.dim,
            dtype=self.dtype,
            chunk_size=self.chunk_size,
            overwrite=self.overwrite,
        )
        with writer, Progress(f"{self.side} {path.stem}", total=len(rows), done=writer.done) as progress:
            if writer.done:
                _log.info("%s: continuing after %s of %s rows", writer.partial, f"{writer.done:,}", f"{len(rows):,}")
            speed = encode_rows(
                self.encoder,
                self.inputs,
                writer,
                ids=ids,
                token_ids=self._tokenize_from(rows.start),
                tokens_per_batch=self.tokens_per_batch,
                progress=progress,
            )
        return _summary(path, len(rows), speed, self.precision)

    def check_finished(self, path: Path, *, shard: int, num_shards: int) -> None:
        """Raises UserError unless a finished file is what `encode` would write now, up to precision."""
        found = open_embeddings(path).identity
        wanted = self._identity(shard, num_shards, shard_rows(shard, num_shards, len(self.source.rows)))
        for key in ("model_fingerprint", "data_fingerprint", "side", "shard", "num_shards"):
            if getattr(found, key) != getattr(wanted, key):
                raise UserError(
                    f"{path} is of another {key.removesuffix('_fingerprint')} than this run's. "
                    "Set overwrite=true to make it anew, or choose another run_dir."
                )

    def _identity(self, shard: int, num_shards: int, rows: range) -> Identity:
        return Identity(
            side=self.side,
            shard=shard,
            num_shards=num_shards,
            first_row=rows.start,
            rows=len(rows),
            precision=self.precision,
            tokens_per_batch=self.tokens_per_batch,
            model_fingerprint=self.model_fingerprint,
            data_fingerprint=self.source.fingerprint,
        )

    def _tokenize_from(self, first_row: int) -> Callable[[range], list[list[int]]]:
        def token_ids(rows: range) -> list[list[int]]:
            texts = self.source.rows[first_row + rows.start : first_row + rows.stop]
            if self.side == "query":
                return self.inputs.encode_queries(texts["query"])
            return self.inputs.encode_passages(texts["title"], texts["text"])

        return token_ids


def encode_passages(shards: ShardEncoder, folder: Path, *, shard: int | None, num_shards: int) -> str:
    """Encodes one shard of the corpus into `folder`, or, without `shard`, every shard that is not there yet."""
    if shard is not None:
        _check_cut(folder, num_shards)
        return shards.encode(
            folder / f"{shard_name(shard, num_shards)}.safetensors", shard=shard, num_shards=num_shards
        )
    left, line = shards_left(shards, folder, num_shards), ""
    for number in left:
        path = folder / f"{shard_name(number, num_shards)}.safetensors"
        line = shards.encode(path, shard=number, num_shards=num_shards)
        _log.info(line)
    return _summary_of_all(folder, len(left), num_shards) + (f"; the last: {line}" if line else "")


def encode_passages_on_devices(
    shards: ShardEncoder,
    folder: Path,
    *,
    num_shards: int,
    devices: Sequence[Device],
    command: Callable[[str, int], list[str]],
) -> str:
    """Encodes every shard that is not there yet, each in a process of its own on one of several devices.

    Args:
        shards: checks the shards that are there; encodes nothing itself.
        folder: of the shards.
        num_shards: into which the corpus is cut.
        devices: as `find_devices` gives them.
        command: the command that encodes a shard into `folder`, given its name and number.

    Raises:
        UserError: as `shards_left`, or at the end, if shards are not there; the message names them.
    """
    start = time.perf_counter()
    left = {shard_name(number, num_shards): number for number in shards_left(shards, folder, num_shards)}
    failed = run_on_devices(devices, {name: command(name, number) for name, number in left.items()})
    if failed:
        problems = "; ".join(f"{name}: {problem}" for name, problem in sorted(failed.items()))
        again = "The same command without overwrite=true" if shards.overwrite else "The same command"
        raise UserError(f"{folder}: {len(failed)} of {num_shards} shards are not there ({problems}). {again} goes on.")
    seconds = time.perf_counter() - start
    return f"{_summary_of_all(folder, len(left), num_shards)}; {len(devices)} devices, {seconds:,.1f} s"


def shards_left(shards: ShardEncoder, folder: Path, num_shards: int) -> list[int]:
    """The shards that are to be made.

    Raises:
        UserError: the folder holds shards of another cut, or a finished one that is not what would be written now.
    """
    _check_cut(folder, num_shards)
    left = []
    for number in range(num_shards):
        path = folder / f"{shard_name(number, num_shards)}.safetensors"
        if path.exists() and not shards.overwrite:
            shards.check_finished(path, shard=number, num_shards=num_shards)
        else:
            left.append(number)
    return left


def _check_cut(folder: Path, num_shards: int) -> None:
    check_positive(num_shards, "num_shards")
    cut = shard_name(0, num_shards).split("-")[2]
    other = sorted(f.name for f in folder.glob("[0-9]*-of-*.safetensors*") if f"-of-{cut}." not in f.name)
    if other:
        raise UserError(
            f"{folder} holds shards of another cut than num_shards={num_shards}: {other[0]}. "
            "Delete them, or set num_shards."
        )


def _summary_of_all(folder: Path, left: int, num_shards: int) -> str:
    return f"{folder}: {left} of {num_shards} shards encoded now, {num_shards - left} were there"


def _summary(path: Path, rows: int, speed: Speed, precision: str) -> str:
    padding = 1 - speed.tokens / speed.positions if speed.positions else 0.0
    return (
        f"{path}: {rows:,} rows, {speed.rows:,} of them now in {speed.seconds:,.1f} s "
        f"({speed.rows / speed.seconds:,.0f} rows/s, precision {precision}, {padding:.1%} padding)"
    )
