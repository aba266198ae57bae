"""The view of BM25, which needs no model: its index of the corpus, and the training questions nearest to a question."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from dpr_lightning.data.sources import Source
from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.bm25 import Bm25, saved_settings
from dpr_lightning.retrieval.retriever import Queries

_BUILT = 100_000  # passages of the largest corpus that is indexed for one question


class Neighbour(NamedTuple):
    """A training question, its row, and the score by which it is near."""

    row: dict[str, Any]
    score: float


@contextlib.contextmanager
def corpus_index(folder: Path, corpus: Source) -> Iterator[Bm25]:
    """Yield the BM25 index of a run, or one of a small corpus that is built for now.

    Raises:
        UserError: bm25s is not installed, the index cannot be used, or it does not exist and the corpus is large.
    """
    if folder.exists():
        yield Bm25(folder, corpus, saved_settings(folder), build=False)
        return
    if len(corpus.rows) > _BUILT:
        raise UserError(f"method: {folder} does not exist. Run `search.py method=bm25`.")
    with tempfile.TemporaryDirectory() as temporary:
        yield Bm25(Path(temporary) / "bm25", corpus)


def nearest_questions(train: Source, question: str, count: int) -> list[Neighbour]:
    """Return the training questions that BM25 finds nearest; those that share no word are left out.

    Raises:
        UserError: bm25s is not installed.
    """
    texts = train.rows.select_columns(["query_id", "query"])[:]
    columns = {"docid": texts["query_id"], "title": [""] * len(train.rows), "text": texts["query"]}
    questions = Source(datasets.Dataset.from_dict(columns), train.fingerprint, 0)
    with tempfile.TemporaryDirectory() as temporary:
        index = Bm25(Path(temporary) / "bm25", questions)
        (ranked,) = index.search(Queries([""], texts=[question]), depth=min(count, len(train.rows)))
    pairs = zip(ranked.rows.tolist(), ranked.scores.tolist(), strict=True)
    return [Neighbour(train.rows[row], score) for row, score in pairs if score > 0]
