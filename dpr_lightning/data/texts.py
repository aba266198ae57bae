"""Looks up the texts of passages and queries that a training file only names by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from dpr_lightning.data.schema import InvalidRowError, Record

if TYPE_CHECKING:
    from datasets import Dataset


class Texts:
    """The texts of a corpus and of queries by id, memory-mapped; the index needs 16 bytes per text."""

    def __init__(self, corpus: Dataset | None = None, queries: Dataset | None = None) -> None:
        """Take rows as `open_corpus` and `open_queries` return them; what no record names may be None."""
        self._corpus = None if corpus is None else _RowsById(corpus, "docid")
        self._queries = None if queries is None else _RowsById(queries, "query_id")

    def passage(self, docid: Any, field: str) -> Record:
        """Return `docid, title, text` of a passage that a field of the training row names.

        Raises:
            InvalidRowError: The corpus does not have the passage.
        """
        row = self._corpus and self._corpus.get(str(docid))
        if not row:
            raise InvalidRowError(f"{field}: the corpus has no passage {docid!r}")
        return row

    def query(self, query_id: Any) -> str:
        """Return the text of a query.

        Raises:
            InvalidRowError: The queries do not have it.
        """
        row = self._queries and self._queries.get(str(query_id))
        if not row:
            raise InvalidRowError(f"query_id: the queries have no {query_id!r}")
        return str(row["query"])


class _RowsById:
    """Random access to memory-mapped rows by an id: sorted hashes of all ids, and the row of each."""

    def __init__(self, rows: Dataset, id_field: str) -> None:
        self._batches = rows.data.table.to_batches()
        self._first = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._id_field = id_field
        hashes = np.empty(int(self._first[-1]), np.uint64)
        for first, batch in zip(self._first, self._batches, strict=False):
            hashes[first : first + batch.num_rows] = hash_ids(batch.column(id_field).to_pylist())
        self._rows = np.argsort(hashes)
        self._hashes = hashes[self._rows]

    def get(self, id_: str) -> Record | None:
        """Return the row with an id, or None."""
        wanted = hash_ids([id_])[0]
        place = int(np.searchsorted(self._hashes, wanted))
        while place < len(self._hashes) and self._hashes[place] == wanted:
            row = int(self._rows[place])
            number = int(np.searchsorted(self._first, row, side="right")) - 1
            batch, position = self._batches[number], row - int(self._first[number])
            if batch.column(self._id_field)[position].as_py() == id_:
                return {name: batch.column(name)[position].as_py() for name in batch.schema.names}
            place += 1
        return None


def hash_ids(ids: list[str]) -> np.ndarray:
    """Return a 64-bit hash of each id: [len(ids)] uint64."""
    return np.array([xxhash.xxh3_64_intdigest(id_.encode()) for id_ in ids], dtype=np.uint64)
