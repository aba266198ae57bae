"""Approximate search as a retriever: a FAISS index over a run's passages."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from dpr_lightning.embeddings.shards import ShardedEmbeddings
from dpr_lightning.errors import UserError, check_choice, check_positive
from dpr_lightning.retrieval.candidates import Rows, Scores
from dpr_lightning.retrieval.exact import exact_topk
from dpr_lightning.retrieval.index_file import faiss_errors, open_index
from dpr_lightning.retrieval.memory import plan_search
from dpr_lightning.retrieval.retriever import Queries, Ranked
from dpr_lightning.retrieval.topk import ROWS_AT_ONCE, score_pairs
from dpr_lightning.run_dir import RunDir

_log = logging.getLogger(__name__)
_FAISS_NAMES = {"nprobe": "nprobe", "ef_search": "efSearch"}
_LARGEST = (1 << 31) - 1  # FAISS's int
_RECALL_QUERIES, _RECALL_CUTOFF = 100, 100


class FaissIndex:
    """Search with an approximate index; ties rank by corpus row."""

    def __init__(
        self,
        run: RunDir,
        factory: str,
        passages: ShardedEmbeddings,
        *,
        ann: Mapping[str, int | None] | None = None,
        memory: int | None = None,
        overwrite: bool = False,
    ) -> None:
        """Open the index, or build it if it does not exist, and apply the settings of the search.

        Args:
            run: The folder of the experiment.
            factory: A FAISS factory string.
            passages: The corpus.
            ann: Settings of the search: `nprobe`, the lists that an inverted file visits; `ef_search`, the candidates
                that a graph search keeps; `rescore`, the candidates per passage asked for that are scored again
                exactly from the stored embeddings. None, or leaving one out, means FAISS's default and no rescoring.
            memory: Bytes for building the index and for a search of many queries, after which recall and speed are
                logged; None opens an existing index for few queries at a time.
            overwrite: Replace an index that is damaged or of other passages.

        Raises:
            UserError: As `open_index`, or a setting that is not possible for this index.
        """
        ann = dict(ann or {})
        for name, value in ann.items():
            check_choice(name, "ann", [*_FAISS_NAMES, "rescore"])
            if value is not None:
                check_positive(value, f"ann.{name}")
        self.rows = passages.rows
        self._index = open_index(run, factory, passages, memory=memory, overwrite=overwrite)
        for name in _FAISS_NAMES:
            if (value := ann.get(name)) is not None:
                self._set(name, value, factory)
        self._factory, self._passages, self._memory = factory, passages, memory
        self._rescore = ann.get("rescore")
        self.tag = f"dpr_lightning-{passages.model_fingerprint[:8]}"

    def search(self, queries: Queries, *, depth: int) -> Iterator[Ranked]:
        """Yield up to `depth` passages of each query: those that the index returns."""
        short, seconds = 0, 0.0
        for vectors in queries.blocks(self._queries_at_once(depth, len(queries.qids))):
            start = time.perf_counter()
            rankings = self._topk(vectors, depth)
            seconds += time.perf_counter() - start
            short += sum(len(rows) < depth for _, rows in rankings)
            docids = self._passages.docids([rows for _, rows in rankings])
            for (scores, rows), own_docids in zip(rankings, docids, strict=True):
                yield Ranked(rows, own_docids, scores)
        if self._memory is not None:
            recall = self._recall(queries, depth, self._memory)
            _log.info("index %s: %s, %.0f queries/s", self._factory, recall, len(queries.qids) / seconds)
        if self._memory is not None and short:
            _log.warning(
                "index %s returned fewer than %d passages for %d queries: search wider (larger nprobe or ef_search)",
                self._factory,
                depth,
                short,
            )

    def _topk(self, queries: NDArray[Any], depth: int) -> list[tuple[Scores, Rows]]:
        """Return scores and corpus rows of up to `depth` passages of each query [Q, dim], best first."""
        queries = np.ascontiguousarray(queries, np.float32)
        with faiss_errors(self._factory):
            scores, rows = self._index.search(queries, self._candidates(depth))
        return [self._ranked(*one, depth) for one in zip(queries, scores, rows, strict=True)]

    def _ranked(self, query: NDArray[np.float32], scores: Scores, rows: Rows, depth: int) -> tuple[Scores, Rows]:
        scores, rows = scores[rows >= 0], rows[rows >= 0]  # FAISS fills up with -1
        order = np.argsort(rows)
        scores, rows = scores[order], rows[order]
        if self._rescore:
            scores = self._exact_scores(query, rows)
        best = np.argsort(-scores, kind="stable")[:depth]
        return scores[best], rows[best]

    def _exact_scores(self, query: NDArray[np.float32], rows: Rows) -> Scores:
        """Return the query's scores with ascending corpus rows, from the stored embeddings."""
        scores = np.empty(len(rows), np.float32)
        for first in range(0, len(rows), ROWS_AT_ONCE):
            stored = self._passages.gather(rows[first : first + ROWS_AT_ONCE])
            scores[first : first + len(stored)] = score_pairs(query[None], stored, np.arange(len(stored))[None])[0]
        return scores

    def _candidates(self, depth: int) -> int:
        return min(depth * (self._rescore or 1), self.rows)

    def _queries_at_once(self, depth: int, queries: int) -> int:
        if self._memory is None:
            return max(1, queries)
        # An embedding (4 bytes per number, or 2 mapped and 4 converted) and the candidates with their sorted copies.
        return max(1, self._memory // (6 * self._passages.dim + 36 * self._candidates(depth)))

    def _recall(self, queries: Queries, depth: int, memory: int) -> str:
        """Return the share of the best 100 passages of up to 100 queries that the index returns, as text."""
        sample = np.unique(np.linspace(0, len(queries.qids) - 1, _RECALL_QUERIES).astype(np.int64))
        vectors, cutoff = np.asarray(queries.array[sample], np.float32), min(depth, _RECALL_CUTOFF)
        plan = plan_search(memory, self._passages, queries=len(vectors), depth=cutoff)
        _, exact = exact_topk(vectors, self._passages, depth=cutoff, block_rows=plan.block_rows)
        rankings = self._topk(vectors, depth)
        shares = [np.isin(best, rows[:cutoff]).mean() for best, (_, rows) in zip(exact, rankings, strict=True)]
        return f"recall@{cutoff} {np.mean(shares):.4f} against exact search over {len(sample)} queries"

    def _set(self, name: str, value: int, factory: str) -> None:
        value = min(value, self.rows, _LARGEST)  # neither lists nor candidates can be more than passages
        try:
            faiss.ParameterSpace().set_index_parameter(self._index, _FAISS_NAMES[name], value)
        except RuntimeError:
            raise UserError(f"ann.{name}: index {factory} does not use it. Set `ann.{name}`=null.") from None
