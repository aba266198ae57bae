"""A corpus in shards: which rows each shard has, and the embedding files of all shards opened as one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.embeddings.file import Embeddings, open_embeddings
from dpr_lightning.embeddings.ids import DECODED_AT_ONCE
from dpr_lightning.errors import UserError
from dpr_lightning.files import matching
from dpr_lightning.run_dir import shard_name

_ROWS_PER_SHARD = 1_100_000  # at most; 20 shards of the 21 million passages of Wikipedia
_NAME = re.compile(r"(\d+)-of-(\d+)")
_RANKINGS_SELECTED = 4096  # rankings whose candidates a search selects at once
Rows = NDArray[np.int64]


class ShardedEmbeddings:
    """The embeddings and docids of a corpus, or of one shard of it, from one file or several.

    A corpus row counts from the first row of the first shard.
    """

    def __init__(self, shards: Sequence[Embeddings]) -> None:
        """Check that the shards belong together.

        Args:
            shards: At least one, in row order.

        Raises:
            UserError: Shards by different models, of different data or dimensions, or with rows missing in between.
        """
        self.shards, first = shards, shards[0]
        self.path, self.dtype = first.path, first.array.dtype
        self.dim: int = first.array.shape[1]
        self.model_fingerprint = first.identity.model_fingerprint
        self.data_fingerprint = first.identity.data_fingerprint
        self._starts: Rows = np.cumsum([0, *(shard.identity.rows for shard in shards)])
        self.rows = int(self._starts[-1])
        self.bytes = sum(shard.array.nbytes for shard in shards)
        for shard, start in zip(shards, self._starts.tolist(), strict=False):
            _check_same_model(first, shard)
            if shard.identity.data_fingerprint != self.data_fingerprint:
                raise UserError(f"{first.path} and {shard.path} are of different data sets. Encode one of them again.")
            _check_first_row(shard, first.identity.first_row + start)

    def check_queries(self, queries: Embeddings) -> None:
        """Raise UserError, naming the files, unless the queries are by the same model and of the same dimension."""
        _check_same_model(queries, self.shards[0])

    def blocks(self, rows: int, *, keep: bool = False) -> Iterator[NDArray[Any]]:
        """Yield all embeddings in order as blocks of at most `rows` rows; see `Embeddings.blocks`."""
        for shard in self.shards:
            yield from shard.blocks(rows, keep=keep)

    def gather(self, rows: Rows) -> NDArray[np.float32]:
        """Return the embeddings [R, dim] of ascending corpus rows [R]; see `Embeddings.at`."""
        gathered = np.empty((len(rows), self.dim), np.float32)
        for shard, start, stop in zip(self.shards, self._starts[:-1], self._starts[1:], strict=True):
            first, last = np.searchsorted(rows, (start, stop))
            if first < last:
                gathered[first:last] = shard.at(rows[first:last] - start)
        return gathered

    def docids(self, rankings: Sequence[Rows] | Rows) -> Iterator[list[str]]:
        """Yield the docids of each ranking.

        Args:
            rankings: Corpus rows of each query, as [queries, depth] or as one array per query.

        Raises:
            UserError: Two passages of a ranking have the same docid.
        """
        # Small corpus: decode all docids once, in the memory that selecting candidates has just released.
        table = None
        if 2 * self.rows <= sum(map(len, rankings[:_RANKINGS_SELECTED])):
            table = np.array([docid for shard in self.shards for docid in shard.ids], object)
        unique = table is not None and len(set(table)) == self.rows
        step = max(1, DECODED_AT_ONCE // max(1, max(map(len, rankings), default=1)))
        for first in range(0, len(rankings), step):
            group = rankings[first : first + step]
            rows = np.concatenate(group)
            docids = self._decode(rows) if table is None else table[rows].tolist()
            start = 0
            for ranking in group:
                own = docids[start : (start := start + len(ranking))]
                if not unique and len(set(own)) < len(own):
                    raise self._repeated(own, ranking)
                yield own

    def _decode(self, rows: Rows) -> list[str]:
        numbers = self._shard_numbers(rows)
        docids = np.empty(len(rows), object)
        for number in np.unique(numbers):
            own = numbers == number
            docids[own] = self.shards[number].ids.at(rows[own] - self._starts[number])
        decoded: list[str] = docids.tolist()
        return decoded

    def _shard_numbers(self, rows: Rows) -> Rows:
        numbers: Rows = np.searchsorted(self._starts, rows, side="right") - 1
        return numbers

    def _repeated(self, docids: list[str], rows: Rows) -> UserError:
        repeated = next(docid for docid in docids if docids.count(docid) > 1)
        numbers = self._shard_numbers(rows[[docid == repeated for docid in docids]])
        files = sorted({self.shards[number].path for number in numbers})
        names = " and ".join(file.name for file in files)
        return UserError(f"{files[0].parent}: docid {repeated} appears twice in {names}. Encode them again.")


def open_passages(folder: Path) -> ShardedEmbeddings:
    """Open all shards of a folder and check that they are one encoding of a corpus.

    Raises:
        UserError: As `complete_shards`, `open_part` and `ShardedEmbeddings`, or the corpus does not begin at row 0.
    """
    files = complete_shards(folder, ".safetensors", made_by="`encode.py`")
    parts = [open_part(file, "passage", shard=shard, num_shards=len(files)) for shard, file in enumerate(files)]
    passages = ShardedEmbeddings(parts)
    _check_first_row(passages.shards[0], 0)
    return passages


def open_part(path: Path, side: str, *, shard: int = 0, num_shards: int = 1) -> Embeddings:
    """Open the embedding file of a shard of the queries or passages.

    Raises:
        UserError: As `open_embeddings`, or the file is of another side or shard than its path says.
    """
    made_by = f"`encode.py side=query split={path.stem}`" if side == "query" else "`encode.py`"
    embeddings = open_embeddings(path, made_by=made_by)
    identity = embeddings.identity
    content = (identity.side, identity.shard, identity.num_shards)
    if content != (side, shard, num_shards):
        kind, name = _describe(*content), _describe(side, shard, num_shards)
        raise UserError(f"{path} has {kind}, not {name}. Give the file its own name again, or encode again.")
    return embeddings


def complete_shards(folder: Path, ending: str, *, made_by: str) -> list[Path]:
    """Return the files `00-of-20ENDING` to `19-of-20ENDING` of a folder, in order.

    Raises:
        UserError: No shards, a missing one, or shards of two divisions of the corpus; the message names the files.
    """
    files = {
        file: match for file in matching(folder, f"*{ending}") if (match := _NAME.fullmatch(file.name[: -len(ending)]))
    }
    if not files:
        raise UserError(f"{folder} has no shards (NN-of-NN{ending}). Run {made_by}, or correct run_dir.")
    counts = {int(match[2]): file.name for file, match in files.items()}
    if len(counts) > 1:
        names = " and ".join(counts.values())
        raise UserError(f"{folder} mixes different numbers of shards: {names}. Delete those that do not belong.")
    (num_shards,) = counts
    missing = set(range(num_shards)) - {int(match[1]) for match in files.values()}
    if missing:
        names = ", ".join(shard_name(shard, num_shards) + ending for shard in sorted(missing))
        raise UserError(f"{folder}: {names} missing. Run {made_by}, which makes the rest.")
    return list(files)


def resolve_num_shards(folder: Path, num_shards: int | str, rows: int | None = None) -> int:
    """Return the number of shards, for `auto` that of the files in a folder, or else one that follows from the rows.

    Args:
        folder: The folder of the embedding files.
        num_shards: A number, or `auto`.
        rows: The rows of the corpus; None if only existing files count.

    Raises:
        UserError: `num_shards` is not possible, or `auto` and the folder has files of no or of several numbers.
    """
    if num_shards != "auto":
        if not isinstance(num_shards, int) or isinstance(num_shards, bool) or num_shards < 1:
            raise UserError(f"num_shards: {num_shards!r} is not auto or a whole number of at least 1. Correct it.")
        return num_shards
    names = [file.name.removesuffix(".partial") for file in matching(folder, "[0-9]*-of-*.safetensors*")]
    found = {int(match[2]): name for name in names if (match := _NAME.fullmatch(name.removesuffix(".safetensors")))}
    if len(found) > 1:
        mixed = " and ".join(found.values())
        raise UserError(f"{folder} mixes different numbers of shards: {mixed}. Delete those that do not belong.")
    if found:
        return next(iter(found))
    if rows is None:
        raise UserError(f"{folder} has no shards (NN-of-NN.safetensors). Run `encode.py`, or correct run_dir.")
    return max(1, -(-rows // _ROWS_PER_SHARD))


def shard_rows(shard: int, num_shards: int, rows: int) -> range:
    """Return the rows of a shard: contiguous, and over all shards every row once.

    Raises:
        UserError: The shard does not exist.
    """
    if not 0 <= shard < num_shards:
        raise UserError(
            f"shard: {shard} does not exist, num_shards={num_shards} has 0 to {num_shards - 1}. Correct shard."
        )
    return range(shard * rows // num_shards, (shard + 1) * rows // num_shards)


def _describe(side: str, shard: int, num_shards: int) -> str:
    what = {"query": "queries", "passage": "passages"}.get(side, side)
    return what if (side, num_shards) == ("query", 1) else f"shard {shard} of {num_shards} of the {what}"


def _check_same_model(a: Embeddings, b: Embeddings) -> None:
    ours, theirs = (part.identity.model_fingerprint for part in (a, b))
    if ours != theirs and ours.partition("-")[0] == theirs.partition("-")[0]:
        dims = f"{a.array.shape[1]} and {b.array.shape[1]}"
        raise UserError(f"{a.path} and {b.path} have {dims} dimensions. Encode one again with those of the other.")
    if ours != theirs or a.array.shape[1] != b.array.shape[1]:
        raise UserError(f"{a.path} and {b.path} are by different models. Encode one of them again.")


def _check_first_row(shard: Embeddings, row: int) -> None:
    if shard.identity.first_row != row:
        raise UserError(f"{shard.path} begins at row {shard.identity.first_row}, not {row}. Encode it again.")
