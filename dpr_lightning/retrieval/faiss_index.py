"""Approximate search: a faiss index over a run's passages, built once, kept in the run folder, mapped when used.

`FOLDER/NAME/` holds `passages.faiss` and `identity.json`, which says what was indexed and how large the index file is;
NAME is the factory string with `-` in place of what a file name should not hold. Rows of the index are corpus rows.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from dpr_lightning.embeddings.file import Embeddings
from dpr_lightning.embeddings.shards import shard_bounds
from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.files import atomic_folder, write_json
from dpr_lightning.retrieval.candidates import Rows, Scores
from dpr_lightning.retrieval.topk import ROWS_AT_ONCE, score_pairs

_log = logging.getLogger(__name__)
_SETTINGS = {"nprobe": "nprobe", "ef_search": "efSearch"}  # ours: faiss's


class PassageIndex:
    """An index opened for search."""

    def __init__(
        self,
        folder: Path,
        factory: str,
        passages: list[Embeddings],
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
        rescore: int | None = None,
    ) -> None:
        """Maps a built index and applies the settings of the search.

        Args:
            folder: holds the indexes of a run.
            factory: a faiss factory string.
            passages: the corpus's shards, in order.
            nprobe: lists that an inverted file visits; null is faiss's default, as for the next.
            ef_search: candidates that a graph search keeps.
            rescore: candidates per passage asked for, which are scored again exactly from the stored embeddings;
                null leaves the index's own scores and order.

        Raises:
            UserError: no such index, one of other passages, damaged, or a setting that it has no use for.
        """
        path = index_path(folder, factory)
        if not path.exists():
            raise UserError(f"index: {path} is not there. Build it with search.py index='{factory}'.")
        if difference := _difference(path, factory, passages):
            raise UserError(f"index: {path} is {difference}. Set overwrite=true to build it anew, or delete it.")
        for key, value in (("nprobe", nprobe), ("ef_search", ef_search), ("rescore", rescore)):
            if value is not None:
                check_positive(value, f"ann.{key}")
        with _faiss_errors(factory):
            self._index = faiss.read_index(str(path / "passages.faiss"), faiss.IO_FLAG_MMAP_IFC)
        for key, value in (("nprobe", nprobe), ("ef_search", ef_search)):
            if value is not None:
                self._set(key, value, factory)
        self.factory, self._passages, self._rescore = factory, passages, rescore
        self._starts = shard_bounds(passages)

    def topk(self, queries: NDArray[np.float32], *, depth: int) -> list[tuple[Scores, Rows]]:
        """Scores and corpus rows of up to `depth` passages of each query [Q, dim], best first, ties in corpus order."""
        k = min(depth * (self._rescore or 1), self._index.ntotal)
        queries = np.ascontiguousarray(queries, np.float32)
        found = self._index.search(queries, k)
        return [self._ranked(*one, depth) for one in zip(queries, *found, strict=True)]

    def bytes_per_query(self, depth: int) -> int:
        """Memory of one query's search, its embedding and candidates."""
        return 6 * self._index.d + 36 * min(depth * (self._rescore or 1), self._index.ntotal)

    def _ranked(self, query: NDArray[np.float32], scores: Scores, rows: Rows, depth: int) -> tuple[Scores, Rows]:
        there = rows >= 0  # faiss fills up with -1 what it does not find
        scores, rows = scores[there], rows[there]
        order = np.argsort(rows)
        scores, rows = scores[order], rows[order]
        if self._rescore:
            scores = self._exact_scores(query, rows)
        best = np.argsort(-scores, kind="stable")[:depth]
        return scores[best], rows[best]

    def _exact_scores(self, query: NDArray[np.float32], rows: Rows) -> Scores:
        """Scores of the query with corpus rows, ascending, from the stored embeddings."""
        scores = np.empty(len(rows), np.float32)
        for part, start, end in zip(self._passages, self._starts[:-1], self._starts[1:], strict=True):
            first, last = np.searchsorted(rows, (start, end)).tolist()
            for place in range(first, last, ROWS_AT_ONCE):
                here = slice(place, min(place + ROWS_AT_ONCE, last))
                stored = part.array[rows[here] - start].astype(np.float32, copy=False)
                scores[here] = score_pairs(query[None], stored, np.arange(len(stored))[None])[0]
        return scores

    def _set(self, key: str, value: int, factory: str) -> None:
        try:
            faiss.ParameterSpace().set_index_parameter(self._index, _SETTINGS[key], value)
        except RuntimeError:
            raise UserError(f"ann.{key}: index {factory} has no use for it. Set ann.{key}=null.") from None


def index_path(folder: Path, factory: str) -> Path:
    """The folder of one index."""
    return folder / re.sub(r"\W+", "-", factory).strip("-")


def build_index(
    folder: Path, factory: str, passages: list[Embeddings], *, memory: int, overwrite: bool = False
) -> None:
    """Builds and keeps an inner-product index over the passages, unless it is there already.

    Trains, where the index must be trained, on passages spread evenly over the corpus, then adds all in blocks. faiss
    holds the index itself in memory while it is built; what is needed besides keeps to `memory` bytes.

    Args:
        folder: holds the indexes of a run.
        factory: a faiss factory string.
        passages: the corpus's shards, in order.
        memory: bytes for the training sample, faiss's copies of it, and blocks.
        overwrite: replace an index of other passages.

    Raises:
        UserError: a factory string that faiss does not take or that cannot rank by inner product, fewer passages than
            its training needs, or an index of other passages that is there.
    """
    path = index_path(folder, factory)
    if path.exists():
        difference = _difference(path, factory, passages)
        if not difference:
            return
        if not overwrite:
            raise UserError(f"index: {path} is {difference}. Set overwrite=true to build it anew, or delete it.")
    (_, dim), total = passages[0].array.shape, sum(len(part.ids) for part in passages)
    start = time.perf_counter()
    with _faiss_errors(factory):
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise UserError(f"index: {factory} cannot rank by inner product. Choose another.")
        rows = max(1, memory // (16 * dim))  # a quarter: faiss copies what it trains on, and what it adds
        sample = 0 if index.is_trained else min(rows, total)
        _log.info(
            "index %s: trained on %s of %s passages, then added in blocks of %s; faiss holds it in memory meanwhile",
            factory,
            f"{sample:,}",
            f"{total:,}",
            f"{min(rows, total):,}",
        )
        if sample:
            index.train(_sample(passages, sample, total))
        for part in passages:
            for block in part.blocks(rows):
                index.add(np.ascontiguousarray(block, np.float32))
    with atomic_folder(path) as unfinished:
        file = unfinished / "passages.faiss"
        faiss.write_index(index, str(file))
        write_json(unfinished / "identity.json", _identity(factory, passages) | {"bytes": file.stat().st_size})
    size = (path / "passages.faiss").stat().st_size / (1 << 30)
    _log.info("index %s: built in %.1f s, %.2f GB in %s", factory, time.perf_counter() - start, size, path)


def _sample(passages: list[Embeddings], size: int, total: int) -> NDArray[np.float32]:
    """[size, dim] passages at even distances."""
    rows, first = np.arange(size) * total // size, 0
    sample = np.empty((size, passages[0].array.shape[1]), np.float32)
    for part in passages:
        here = slice(*np.searchsorted(rows, (first, first + len(part.ids))))
        sample[here] = part.array[rows[here] - first]
        first += len(part.ids)
    return sample


def _identity(factory: str, passages: list[Embeddings]) -> dict[str, Any]:
    first = passages[0]
    return {
        "factory": factory,
        "metric": "inner product",
        "rows": sum(len(part.ids) for part in passages),
        "dim": first.array.shape[1],
        "model_fingerprint": first.identity.model_fingerprint,
        "data_fingerprint": first.identity.data_fingerprint,
    }


def _difference(path: Path, factory: str, passages: list[Embeddings]) -> str | None:
    """What an index is, if it is not whole and of these passages."""
    try:
        found = json.loads((path / "identity.json").read_text())
        if found.pop("bytes") != (path / "passages.faiss").stat().st_size:
            return "damaged"
    except (AttributeError, KeyError, ValueError, OSError):
        return "damaged"
    wanted = _identity(factory, passages)
    for key, what in (("factory", "another index"), ("model_fingerprint", "of another model")):
        if found.get(key) != wanted[key]:
            return what
    return None if found == wanted else "of another corpus"


@contextmanager
def _faiss_errors(factory: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        cause = re.split(r"failed: |\.cpp:\d+: |\.h:\d+: ", str(error))[-1].strip().rstrip(".")
        raise UserError(f"index: faiss cannot use {factory!r} here: {cause}. Correct index.") from error
