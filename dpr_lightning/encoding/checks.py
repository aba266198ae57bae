"""Checks of an encoding that need neither the model nor the data."""

from __future__ import annotations

from pathlib import Path

from dpr_lightning.embeddings.file import Embeddings, open_embeddings
from dpr_lightning.embeddings.shards import resolve_num_shards, shard_rows
from dpr_lightning.errors import FinishedError, UserError, check_choice, check_positive
from dpr_lightning.files import matching
from dpr_lightning.run_dir import RunDir, shard_name

_MOST_SHARDS = 100_000


def check_encoding(
    *,
    side: str,
    precision: str | int = "auto",
    dtype: str = "float32",
    dim: int | None = None,
    chunk_size: int = 16_384,
    tokens_per_batch: int | str = "auto",
) -> None:
    """Raise UserError if a setting of `ShardEncoder` is not possible for any model."""
    check_choice(side, "side", ["passage", "query"])
    check_choice(str(precision), "precision", ["auto", "32", "bf16", "16", "int8"])
    check_choice(dtype, "dtype", ["float32", "float16"])
    if dim is not None:
        check_positive(dim, "dim")
    check_positive(chunk_size, "chunk_size")
    if tokens_per_batch != "auto":
        check_positive(tokens_per_batch, "tokens_per_batch")


def check_shards(
    run: RunDir,
    *,
    shard: int | None,
    num_shards: int | str,
    devices: int | str = 1,
    precision: str | int = "auto",
    dtype: str = "float32",
    chunk_size: int = 16_384,
    overwrite: bool = False,
    skips_finished: bool = False,
) -> None:
    """Raise UserError if one shard of the corpus, or with `shard` None all, cannot be encoded into a run folder.

    Args:
        run: The run folder.
        shard: The number of a shard.
        num_shards: The number of shards, or `auto`.
        devices: The number of devices, or `all`.
        precision: As for `ShardEncoder`; finished shards must have been encoded with it.
        dtype: Likewise.
        chunk_size: Likewise.
        overwrite: Finished shards are replaced.
        skips_finished: A finished shard is skipped, and not an error.
    """
    if shard is not None and devices != 1:
        raise UserError(f"devices: {devices} is for all shards, not for shard={shard}. Leave one out.")
    if num_shards == "auto" and not _files(run):
        return  # the corpus decides
    count = resolve_num_shards(run.passage_shards, num_shards)
    check_num_shards(run, count)
    if shard is not None:
        shard_rows(shard, count, 0)  # refuses a shard that does not exist
        numbers = [shard]
    else:
        numbers = list(range(count))
    for number in numbers:
        refuse_finished(
            run.passage_shard(number, count),
            precision=precision,
            dtype=dtype,
            chunk_size=chunk_size,
            overwrite=overwrite,
            skips_finished=skips_finished or shard is None,
        )


def refuse_finished(
    path: Path,
    *,
    precision: str | int = "auto",
    dtype: str = "float32",
    chunk_size: int = 16_384,
    overwrite: bool = False,
    skips_finished: bool = False,
) -> None:
    """Raise UserError if an embedding file exists that has other settings, or that is not to be skipped."""
    if overwrite or not path.exists():
        return
    check_finished_settings(open_embeddings(path), precision=precision, dtype=dtype, chunk_size=chunk_size)
    if not skips_finished:
        raise FinishedError(path)


def check_finished_settings(finished: Embeddings, *, precision: str | int, dtype: str, chunk_size: int) -> None:
    """Raise UserError if a finished file has other settings; the precision `auto` accepts any but int8."""
    existing = {
        "precision": (finished.identity.precision, str(precision)),
        "dtype": (finished.array.dtype.name, dtype),
        "chunk_size": (finished.chunk_size, chunk_size),
    }
    for name, (saved, wanted) in existing.items():
        if saved != wanted and (wanted != "auto" or saved == "int8"):
            raise UserError(
                f"{name}: {finished.path} is finished already with {saved}, not {wanted}. Set `{name}` to {saved}, "
                "or set overwrite=true to encode again."
            )


def check_num_shards(run: RunDir, num_shards: int) -> None:
    """Raise UserError for more shards than anything needs, or if the folder has shards of another number."""
    if num_shards > _MOST_SHARDS:
        raise UserError(f"num_shards: {num_shards:,} is more than {_MOST_SHARDS:,}. Lower `num_shards`.")
    of_count = shard_name(0, num_shards).lstrip("0")  # `-of-20`
    others = [file.name for file in _files(run) if f"{of_count}." not in file.name]
    if others:
        raise UserError(
            f"{run.passage_shards} has shards of another number than num_shards={num_shards}: {others[0]}. "
            "Delete them, or set num_shards."
        )


def _files(run: RunDir) -> list[Path]:
    return matching(run.passage_shards, "[0-9]*-of-*.safetensors*")
