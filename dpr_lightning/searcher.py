"""Searches the corpus of a run with questions as text."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dpr_lightning.data.sources import Source, open_corpus
from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.encoding.batches import default_tokens_per_batch, embed_batches
from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.inference import for_inference, resolve_precision
from dpr_lightning.model.packed import packed_if_supported
from dpr_lightning.model.truncation import fingerprint_at, truncate
from dpr_lightning.retrieval.bm25 import Bm25Settings
from dpr_lightning.retrieval.fusion import HybridSettings
from dpr_lightning.retrieval.methods import Inputs, Method, open_retriever
from dpr_lightning.retrieval.retriever import Queries
from dpr_lightning.run_dir import RunDir


class Found(NamedTuple):
    """The passages of one question, best first: docids, scores [depth] float32, and `{docid, title, text}` each."""

    docids: list[str]
    scores: NDArray[np.float32]
    passages: list[dict[str, str]]


class Searcher:
    """Searches the corpus of a run by any method; the corpus stays on the disk."""

    def __init__(
        self,
        run_dir: str | Path,
        *,
        corpus: str | Sequence[str] | Source,
        model_dir: str | Path | None = None,
        index: str | None = None,
        ann: Mapping[str, int | None] | None = None,
        method: str | None = None,
        bm25: Bm25Settings | None = None,
        hybrid: HybridSettings | None = None,
    ) -> None:
        """Load the model and map embeddings and corpus.

        Args:
            run_dir: The folder of the experiment, with a model and passage embeddings.
            corpus: The files that were encoded, as in `data.corpus`, or the corpus from `open_corpus`.
            model_dir: The folder of the model, if it is not the run's.
            index: The factory string of an index that `search.py` has built.
            ann: Settings of its search: `nprobe`, `ef_search`, `rescore`.
            method: `exact`, `index`, `bm25` or `hybrid`; see `Method`. The index of BM25 is one that `search.py` built.
            bm25: The settings that it was built with.
            hybrid: How dense search and BM25 are fused.

        Raises:
            UserError: The model, embeddings or index are missing, or the embeddings are by another model or of another
                corpus.
        """
        run = RunDir(Path(run_dir))
        passages = open_passages(run.passage_shards)
        self._corpus = corpus if isinstance(corpus, Source) else open_corpus(corpus)
        folder = Path(model_dir or run.model)
        bi_encoder = load_bi_encoder(folder)
        if fingerprint_at(bi_encoder, passages.dim) != passages.model_fingerprint:
            raise UserError(f"{passages.path} was encoded by another model than {folder}. Encode the corpus again.")
        if self._corpus.fingerprint != passages.data_fingerprint:
            given = "the opened one" if isinstance(corpus, Source) else corpus
            raise UserError(f"corpus: {passages.path} was encoded from another corpus than {given}. Give that corpus.")
        self._searched = Inputs(passages=passages, corpus=self._corpus)
        self._run, self._method = run, Method(method, index, ann, bm25, hybrid)
        self._retriever = open_retriever(run, self._method, self._searched)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = resolve_precision("auto", device)
        self._encoder = packed_if_supported(for_inference(bi_encoder.query, device=device, precision=precision))
        self._tokens_per_batch = default_tokens_per_batch(device, precision)
        self._inputs, self._dim = bi_encoder.inputs, passages.dim
        self._cut = functools.partial(truncate, dim=passages.dim, normalize=bi_encoder.settings.normalize)

    def with_method(self, method: str, *, index: str | None = None) -> Searcher:
        """Return a searcher of the same corpus by another method, which shares the model and the other settings.

        Args:
            method: The method, as in `Searcher`.
            index: The factory string of the index.

        Raises:
            UserError: The index does not exist or cannot be used.
        """
        other = copy.copy(self)
        other._method = dataclasses.replace(self._method, name=method, index=index)
        other._retriever = open_retriever(self._run, other._method, self._searched)
        return other

    def search(self, questions: Sequence[str], *, depth: int = 10) -> list[Found]:
        """Return the `depth` best passages of each question."""
        check_positive(depth, "depth")
        if isinstance(questions, str):
            raise UserError(f"questions: {questions!r} is one text. Give a list of texts.")
        if not questions:
            return []
        embeddings = self._embed(questions) if self._method.reads_embeddings else None
        queries = Queries([str(number) for number in range(len(questions))], embeddings, questions)
        return [
            Found(docids, scores, [self._corpus.rows[row] for row in rows.tolist()])
            for rows, docids, scores in self._retriever.search(queries, depth=depth)
        ]

    def _embed(self, questions: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings [questions, dim], the same as `encode.py` writes in its default settings."""
        ids = self._inputs.encode_queries(questions)
        embeddings = np.empty((len(ids), self._dim), np.float32)
        with torch.inference_mode():
            for batch in embed_batches(self._encoder, self._inputs, ids, self._tokens_per_batch):
                embeddings[batch.rows] = self._cut(batch.embeddings).float().cpu().numpy()
        return embeddings
