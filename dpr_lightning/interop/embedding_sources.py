"""Read embeddings of other programs block by block: NumPy arrays with ids, Parquet files and Tevatron's pickles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dpr_lightning.errors import UserError
from dpr_lightning.interop.tevatron_embeddings import read_tevatron_pickle

ROWS_AT_ONCE = 16_384
ID_COLUMNS = ("id", "docid", "query_id", "_id")
VECTOR_COLUMNS = ("embedding", "embeddings", "vector")
_DTYPES = (np.float32, np.float16)


class Block(NamedTuple):
    """Some rows of a file: their ids and embeddings [rows, dim] float32 or float16."""

    ids: list[str]
    array: NDArray[Any]


def read_blocks(file: Path) -> Iterator[Block]:
    """Yield the embeddings of a file in order.

    - `.npy`: an array [rows, dim]. The ids are in a file of the same name that ends in `.txt`, one per line.
    - `.parquet`: a column of ids (see `ID_COLUMNS`) and one of lists of numbers (see `VECTOR_COLUMNS`).
    - everything else: a pickle of Tevatron, from which only arrays and strings are read.

    Raises:
        UserError: The file does not exist, is damaged or is not of this form.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist. Correct the path.")
    readers: dict[str, Callable[[Path], Iterator[Block]]] = {".npy": _numpy_blocks, ".parquet": _parquet_blocks}
    yield from readers.get(file.suffix, _pickle_blocks)(file)


def _pickle_blocks(file: Path) -> Iterator[Block]:
    array, ids = read_tevatron_pickle(file)
    yield Block(ids, array)


def _numpy_blocks(file: Path) -> Iterator[Block]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{file} is not an array that NumPy can map ({error}). Save it with numpy.save.") from error
    ids = _lines(file.with_suffix(".txt"))
    if array.ndim != 2 or array.dtype not in _DTYPES or len(ids) != len(array):
        raise UserError(
            f"{file}: {array.dtype} {array.shape} with {len(ids)} ids are not embeddings. Give float32 or float16 "
            f"[rows, dim] and one id per row in {file.with_suffix('.txt').name}."
        )
    for first in range(0, len(array), ROWS_AT_ONCE):
        yield Block(ids[first : first + ROWS_AT_ONCE], np.asarray(array[first : first + ROWS_AT_ONCE]))


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}). Write the ids into it, one per line.") from error
    return text.removesuffix("\n").split("\n") if text else []


def _parquet_blocks(file: Path) -> Iterator[Block]:
    try:
        opened = pq.ParquetFile(file)
        names = opened.schema_arrow.names
        ids, vectors = (_column(file, names, wanted) for wanted in (ID_COLUMNS, VECTOR_COLUMNS))
        for batch in opened.iter_batches(ROWS_AT_ONCE, columns=[ids, vectors]):
            if batch.num_rows:
                yield Block(batch.column(ids).cast(pa.string()).to_pylist(), _matrix(file, batch.column(vectors)))
    except pa.ArrowException as error:
        raise UserError(f"{file} cannot be read as Parquet ({error}). Write it again.") from error


def _column(file: Path, names: Sequence[str], wanted: Sequence[str]) -> str:
    for name in wanted:
        if name in names:
            return name
    raise UserError(f"{file} has the columns {', '.join(names)}. Rename one to {' or '.join(wanted)}.")


def _matrix(file: Path, column: pa.Array) -> NDArray[Any]:
    """Return a column of lists [rows, dim], float16 if its numbers are, else float32."""
    kind = getattr(column.type, "value_type", None)
    if kind is None or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise UserError(f"{file}: its embeddings are {column.type}, not lists of numbers. Write it again.")
    values = column.flatten().to_numpy(zero_copy_only=False)
    dim = len(values) // len(column)
    if column.null_count or dim * len(column) != len(values) or any(length != dim for length in _lengths(column)):
        raise UserError(f"{file}: its embeddings have different numbers of dimensions. Write it again.")
    matrix: NDArray[Any] = values.reshape(len(column), dim)
    return matrix.astype(np.float16 if values.dtype == np.float16 else np.float32)


def _lengths(column: pa.Array) -> list[int]:
    if pa.types.is_fixed_size_list(column.type):
        return [column.type.list_size]
    lengths: list[int] = np.unique(np.diff(column.offsets.to_numpy())).tolist()
    return lengths
