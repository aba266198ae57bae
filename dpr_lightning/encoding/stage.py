"""The encoding stage: rows of a source and a model in, embedding files out, one shard or all that are missing."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from dpr_lightning.data.sources import Source
from dpr_lightning.embeddings.file import Identity, open_embeddings
from dpr_lightning.embeddings.ids import Ids
from dpr_lightning.embeddings.shards import resolve_num_shards, shard_rows
from dpr_lightning.embeddings.writer import EmbeddingWriter
from dpr_lightning.encoding.batches import default_tokens_per_batch
from dpr_lightning.encoding.checks import check_encoding, check_finished_settings, check_num_shards
from dpr_lightning.encoding.devices import Device, run_on_devices
from dpr_lightning.encoding.loop import Speed, encode_rows
from dpr_lightning.encoding.progress import Progress
from dpr_lightning.encoding.space import bytes_to_write, file_bytes
from dpr_lightning.errors import FinishedError, UserError
from dpr_lightning.files import size_text
from dpr_lightning.machine import check_free_space
from dpr_lightning.model.bi_encoder import BiEncoder
from dpr_lightning.model.inference import for_inference, resolve_precision
from dpr_lightning.model.packed import packed_if_supported
from dpr_lightning.model.truncation import check_dim, fingerprint_at, truncate
from dpr_lightning.run_dir import RunDir
from dpr_lightning.sharing import file_state, write_shared

_log = logging.getLogger(__name__)


class ShardEncoder:
    """Encodes the rows of a source with one side of a bi-encoder into embedding files."""

    def __init__(
        self,
        bi_encoder: BiEncoder,
        source: Source,
        *,
        side: str,
        precision: str | int = "auto",
        dtype: str = "float32",
        dim: int | None = None,
        chunk_size: int = 16_384,
        tokens_per_batch: int | str = "auto",
        overwrite: bool = False,
        device: str | None = None,
    ) -> None:
        """Move the encoder to its device.

        Args:
            bi_encoder: The model.
            source: The corpus from `open_corpus`, or the queries from `open_queries`.
            side: `passage` or `query`.
            precision: The precision of the computation: `auto`, `32`, `bf16`, `16`, or on a CPU `int8`.
            dtype: The type of the embeddings in the file: `float32` or `float16`.
            dim: The number of components to keep of each embedding; None keeps all.
            chunk_size: The rows of a chunk.
            tokens_per_batch: The most tokens of a batch, padding included; `auto` means 2,048 on a CPU, whose caches
                are small, 512 in int8, and 65,536 on a GPU.
            overwrite: Replace finished files.
            device: A torch device; None means the first GPU, or the CPU of a machine without a GPU.

        Raises:
            UserError: A setting is not possible.
        """
        check_encoding(
            side=side, precision=precision, dtype=dtype, chunk_size=chunk_size, tokens_per_batch=tokens_per_batch
        )
        torch_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision, self._is_precision_set = resolve_precision(str(precision), torch_device), precision != "auto"
        if tokens_per_batch == "auto":
            tokens_per_batch = default_tokens_per_batch(torch_device, self.precision)
        self.source, self.side, self.dtype, self.overwrite = source, side, dtype, overwrite
        self.chunk_size, self.tokens_per_batch = chunk_size, int(tokens_per_batch)
        self.encoded_rows, self.encoded_seconds = 0, 0.0  # of all shards so far, without what existed
        full = getattr(bi_encoder, side).dim
        self.dim = full if dim is None else dim
        check_dim(self.dim, full, "dim")
        self.inputs, self.model_fingerprint = bi_encoder.inputs, fingerprint_at(bi_encoder, self.dim)
        self._cut = functools.partial(truncate, dim=self.dim, normalize=bi_encoder.settings.normalize)
        self.encoder = packed_if_supported(
            for_inference(getattr(bi_encoder, side), device=torch_device, precision=self.precision)
        )

    def encode(self, path: Path, *, shard: int = 0, num_shards: int = 1) -> str:
        """Write the embedding file of a shard, or the rest of it after an interruption.

        Returns:
            One line: what was written, how much, how fast.

        Raises:
            FinishedError: The file exists and is what would be written.
            LockedError: Another process is writing it.
            UserError: The shard does not exist, or its file is not what would be written.
        """
        if path.exists() and not self.overwrite:
            self.check_finished(path, shard=shard, num_shards=num_shards)
            raise FinishedError(path)
        rows = shard_rows(shard, num_shards, len(self.source.rows))
        self.check_space({path: len(rows)})
        field = "docid" if self.side == "passage" else "query_id"
        column = self.source.rows.select_columns([field]).with_format("arrow")
        ids = Ids.of_column(column[rows.start : rows.stop][field])
        writer = EmbeddingWriter(
            path,
            self._identity(shard, num_shards, rows),
            ids,
            dim=self.dim,
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
                cut=self._cut,
                progress=progress,
            )
        self.encoded_rows += speed.rows
        self.encoded_seconds += speed.seconds
        return _summary(path, len(rows), speed, self.precision)

    def check_finished(self, path: Path, *, shard: int, num_shards: int) -> None:
        """Raise UserError unless the file has this run's model, data, shard and settings.

        The precision may differ if it is chosen by the machine (`auto`), which never chooses int8.
        """
        finished = open_embeddings(path)
        identity = finished.identity
        expected = self._identity(shard, num_shards, shard_rows(shard, num_shards, len(self.source.rows)))
        for key in ("model_fingerprint", "data_fingerprint", "side", "shard", "num_shards"):
            if getattr(identity, key) != getattr(expected, key):
                raise UserError(
                    f"{path} is of another {key.removesuffix('_fingerprint')} than this run's. "
                    "Set overwrite=true to replace it, or choose another run_dir."
                )
        precision = self.precision if self._is_precision_set else "auto"
        check_finished_settings(finished, precision=precision, dtype=self.dtype, chunk_size=self.chunk_size)

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
            return self.tokenize(self.source.rows[first_row + rows.start : first_row + rows.stop])

        return token_ids

    def tokenize(self, texts: Mapping[str, Sequence[str]]) -> list[list[int]]:
        """Return the token ids of some rows, given as columns."""
        if self.side == "query":
            return self.inputs.encode_queries(texts["query"])
        return self.inputs.encode_passages(texts["title"], texts["text"])

    def bytes_to_write(self, files: Mapping[Path, int], *, at_once: int = 1) -> int:
        """Return the free space that encoding files takes, given their rows; see `space.py`."""
        sizes = {path: file_bytes(rows, self.dim, self.dtype) for path, rows in files.items()}
        return bytes_to_write(sizes, at_once=at_once)

    def check_space(self, files: Mapping[Path, int], *, at_once: int = 1) -> None:
        """Raise UserError if the disk has too little space for the files; see `bytes_to_write`."""
        for path in list(files)[:1]:
            needed, remedy = (
                self.bytes_to_write(files, at_once=at_once),
                "set `dtype`=float16, or choose another run_dir",
            )
            check_free_space(path.parent, needed, what=f"encoding {sum(files.values()):,} rows", remedy=remedy)


def encode_passages(run: RunDir, encoder: ShardEncoder, *, shard: int | None, num_shards: int | str) -> str:
    """Encode one shard of the corpus, or with `shard` None every shard that does not exist yet.

    Several processes may encode all shards: one that another process is writing is skipped, and looked at again at the
    end.
    """
    num_shards = _resolve_num_shards(run, encoder, num_shards)
    if shard is not None:
        check_num_shards(run, num_shards)
        return encoder.encode(run.passage_shard(shard, num_shards), shard=shard, num_shards=num_shards)
    missing = missing_shards(run, encoder, num_shards)
    encoder.check_space(_rows_of(missing, encoder, num_shards))

    def encode(number: int) -> None:
        _log.info(encoder.encode(missing[number], shard=number, num_shards=num_shards))

    encoded = write_shared(missing, encode)
    for number in missing.keys() - set(encoded):
        encoder.check_finished(missing[number], shard=number, num_shards=num_shards)
    summary = _summary_of_all(run, len(encoded), num_shards)
    if not encoded:
        return summary
    rows, seconds = encoder.encoded_rows, encoder.encoded_seconds
    return f"{summary}; {rows:,} rows in {seconds:,.1f} s ({rows / seconds:,.0f} rows/s)"


def encode_passages_on_devices(
    run: RunDir,
    encoder: ShardEncoder,
    *,
    num_shards: int | str,
    devices: Sequence[Device],
    command: Callable[[str], list[str]],
) -> str:
    """Encode every shard that does not exist yet, in a process on each of several devices.

    Args:
        run: The folder of the experiment.
        encoder: Checks the existing shards; it encodes nothing itself.
        num_shards: The number of shards of the corpus, or `auto`; see `resolve_num_shards`.
        devices: The devices, from `find_devices`.
        command: Returns the command that encodes all shards on one device, given the name of its process.

    Raises:
        UserError: As `missing_shards`, or shards are missing at the end, because processes failed.
    """
    start = time.perf_counter()
    num_shards = _resolve_num_shards(run, encoder, num_shards)
    missing = missing_shards(run, encoder, num_shards)
    encoder.check_space(_rows_of(missing, encoder, num_shards), at_once=len(devices))
    before = {path: file_state(path) for path in missing.values()}
    workers = [f"worker {number}" for number in range(min(len(devices), len(missing)))]
    failed = run_on_devices(devices, {worker: command(worker) for worker in workers})
    lacking = [path for path, state in before.items() if file_state(path) == state]
    if lacking:
        problems = "; ".join(f"{worker}: {problem}" for worker, problem in sorted(failed.items()))
        again = "The same command without overwrite=true" if encoder.overwrite else "The same command"
        raise UserError(
            f"{run.passage_shards}: {len(lacking)} of {num_shards} shards are missing ({problems}). {again} continues."
        )
    seconds = time.perf_counter() - start
    return f"{_summary_of_all(run, len(missing), num_shards)}; {len(devices)} devices, {seconds:,.1f} s"


def missing_shards(run: RunDir, encoder: ShardEncoder, num_shards: int) -> dict[int, Path]:
    """Return the files of the shards to encode, by number: those that do not exist, or all with `overwrite`.

    Raises:
        UserError: The folder has shards of another number, or a finished one that is not what would be written now.
    """
    check_num_shards(run, num_shards)
    missing = {}
    for number in range(num_shards):
        path = run.passage_shard(number, num_shards)
        if path.exists() and not encoder.overwrite:
            encoder.check_finished(path, shard=number, num_shards=num_shards)
        else:
            missing[number] = path
    return missing


def _rows_of(shards: Mapping[int, Path], encoder: ShardEncoder, num_shards: int) -> dict[Path, int]:
    rows = len(encoder.source.rows)
    return {path: len(shard_rows(number, num_shards, rows)) for number, path in shards.items()}


def _resolve_num_shards(run: RunDir, encoder: ShardEncoder, num_shards: int | str) -> int:
    return resolve_num_shards(run.passage_shards, num_shards, len(encoder.source.rows))


def _summary_of_all(run: RunDir, encoded: int, num_shards: int) -> str:
    size = sum(run.passage_shard(number, num_shards).stat().st_size for number in range(num_shards))
    existed = f"{num_shards - encoded} existed already"
    return f"{run.passage_shards}: {encoded} of {num_shards} shards encoded, {existed}; {size_text(size)}"


def _summary(path: Path, rows: int, speed: Speed, precision: str) -> str:
    padding = 1 - speed.tokens / speed.padded_tokens if speed.padded_tokens else 0.0
    return (
        f"{path}: {rows:,} rows, {speed.rows:,} of them now in {speed.seconds:,.1f} s "
        f"({speed.rows / speed.seconds:,.0f} rows/s, precision {precision}, {padding:.1%} padding)"
    )
