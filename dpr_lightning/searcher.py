"""Questions in, passages out: a run's model, embeddings and corpus behind one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dpr_lightning.data.sources import open_corpus
from dpr_lightning.embeddings.shards import open_shards
from dpr_lightning.errors import UserError, check_positive
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.inference import for_inference, resolve_precision
from dpr_lightning.retrieval.docids import name_passages
from dpr_lightning.retrieval.faiss_index import PassageIndex
from dpr_lightning.retrieval.rank import rank_passages

_QUERIES_AT_ONCE = 64
_BLOCK_ROWS = 4096  # of which each is read, checked and multiplied while the processor's cache holds it


class Found(NamedTuple):
    """The passages of one question, best first: docids, scores [depth] float32, and `{docid, title, text}` each."""

    docids: list[str]
    scores: NDArray[np.float32]
    passages: list[dict[str, str]]


class Searcher:
    """Searches the embeddings of a run, exactly or with an index; the corpus stays on the disk."""

    def __init__(
        self,
        run_dir: str | Path,
        *,
        corpus: str | Sequence[str],
        model_dir: str | Path | None = None,
        index: str | None = None,
        ann: Mapping[str, int | None] | None = None,
    ) -> None:
        """Loads the model and maps embeddings and corpus.

        Args:
            run_dir: holds `model/` and `embeddings/passage/`.
            corpus: the files that were encoded, as in `data.corpus`.
            model_dir: the model, if it is not the run's.
            index: the factory string of an index that `search.py` has built.
            ann: settings of its search: `nprobe`, `ef_search`, `rescore`.

        Raises:
            UserError: no model, embeddings or index there, embeddings by another model or of another corpus.
        """
        self._shards = open_shards(Path(run_dir) / "embeddings" / "passage")
        self._corpus = open_corpus(corpus)
        folder, identity = Path(model_dir or Path(run_dir) / "model"), self._shards[0].identity
        bi_encoder = load_bi_encoder(folder)
        if bi_encoder.fingerprint() != identity.model_fingerprint:
            raise UserError(f"{self._shards[0].path} is by another model than {folder}. Encode the corpus again.")
        if self._corpus.fingerprint != identity.data_fingerprint:
            raise UserError(f"data.corpus: {corpus} is not what {self._shards[0].path} was made of. Give that corpus.")
        self._index = PassageIndex(Path(run_dir) / "index", index, self._shards, **(ann or {})) if index else None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder = for_inference(bi_encoder.query, device=device, precision=resolve_precision("auto", device))
        self._inputs, self._device = bi_encoder.inputs, device

    def search(self, questions: Sequence[str], *, depth: int = 10) -> list[Found]:
        """The `depth` best passages of each question."""
        check_positive(depth, "depth")
        if isinstance(questions, str):
            raise UserError(f"questions: {questions!r} is one text. Give a list of texts.")
        if not questions:
            return []
        embeddings = np.concatenate(
            [
                self._embed(questions[start : start + _QUERIES_AT_ONCE])
                for start in range(0, len(questions), _QUERIES_AT_ONCE)
            ]
        )
        if self._index:
            ranked = name_passages(self._index.topk(embeddings, depth=depth), self._shards)
        else:
            ranked = rank_passages(embeddings, self._shards, depth=depth, block_rows=_BLOCK_ROWS, keep=True)
        return [
            Found(docids, scores, [self._corpus.rows[row] for row in rows.tolist()]) for rows, docids, scores in ranked
        ]

    def _embed(self, questions: Sequence[str]) -> NDArray[np.float32]:
        tokens = self._inputs.pad(self._inputs.encode_queries(questions))
        with torch.inference_mode():
            embeddings = self._encoder(**{name: tensor.to(self._device) for name, tensor in tokens.items()})
        array: NDArray[np.float32] = embeddings.float().cpu().numpy()
        return array
