"""The seam between search and its methods: what a retriever takes and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.embeddings.file import Embeddings


class Queries(NamedTuple):
    """Queries in order. A retriever uses their embeddings [queries, dim], their texts, or both."""

    qids: Sequence[str]
    embeddings: Embeddings | NDArray[np.float32] | None = None
    texts: Sequence[str] | None = None

    @property
    def array(self) -> NDArray[Any]:
        """The embeddings [queries, dim], not yet compared with their checksums."""
        if self.embeddings is None:
            raise ValueError("the queries have no embeddings")
        return self.embeddings.array if isinstance(self.embeddings, Embeddings) else self.embeddings

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        """Yield the embeddings in order as blocks of at most `rows` rows."""
        if isinstance(self.embeddings, Embeddings):
            yield from self.embeddings.blocks(rows)
        else:
            for first in range(0, len(self.array), rows):
                yield self.array[first : first + rows]


class Ranked(NamedTuple):
    """The best passages of one query, best first: corpus rows [K] int64, docids and scores [K] float32."""

    rows: NDArray[np.int64]
    docids: list[str]
    scores: NDArray[np.float32]


class Retriever(Protocol):
    """Ranks the passages of a corpus."""

    @property
    def rows(self) -> int:
        """The number of passages."""

    @property
    def tag(self) -> str:
        """The name of what produces the scores; rankings with equal tags can be merged."""

    def search(self, queries: Queries, *, depth: int) -> Iterator[Ranked]:
        """Yield the best passages of each query, at most `depth`, in the order of the queries; ties by corpus row."""
