"""BM25 as a retriever: an index of the words in a corpus, built once, kept in the run folder and memory-mapped.

The folder of the index has the files of bm25s and `identity.json`, which says what was indexed and how, and has the
hash of every file. The score of a passage is the sum over the query's words of

    ln(1 + (N - n + 0.5) / (n + 0.5)) * f / (f + k1 * (1 - b + b * L / L_mean))

for N passages, n of them with the word, f times in this passage, which has L words. This is Lucene's formula.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.data.sources import Source
from dpr_lightning.errors import UserError
from dpr_lightning.files import atomic_folder, file_hash, write_json
from dpr_lightning.retrieval.retriever import Queries, Ranked

_log = logging.getLogger(__name__)
_QUERIES_AT_ONCE = 100
_IDENTITY = "identity.json"
_INSTALL = "method: BM25 needs bm25s and PyStemmer. Install them: pip install 'dpr_lightning[bm25]'."


@dataclass(frozen=True)
class Bm25Settings:
    """How BM25 scores and what it takes for a word.

    Attributes:
        k1: How much further occurrences of a word in a passage add.
        b: How much the length of a passage counts, from 0 to 1.
        language: The language of stop words and stemming, such as `english`; None keeps all words as they are.
        stemming: Reduce words to their stems.
    """

    k1: float = 0.9
    b: float = 0.4
    language: str | None = "english"
    stemming: bool = True

    def __post_init__(self) -> None:
        """Raise UserError if a value is not possible."""
        if not 0 <= self.k1 < float("inf"):
            raise UserError(f"k1: {self.k1} is not a number of at least 0. Correct `k1`.")
        if not 0 <= self.b <= 1:
            raise UserError(f"b: {self.b} is not from 0 to 1. Correct `b`.")


def check_bm25(settings: Bm25Settings | None = None) -> None:
    """Raise UserError if bm25s is not installed, or does not know the language."""
    if not all(importlib.util.find_spec(name) for name in ("bm25s", "Stemmer")):
        raise UserError(_INSTALL)
    Words(settings or Bm25Settings())


class Bm25:
    """Search by shared words. Passages that share no word with the query follow in corpus order with the score 0."""

    tag = "bm25"

    def __init__(
        self,
        folder: Path,
        corpus: Source,
        settings: Bm25Settings | None = None,
        *,
        build: bool = True,
        overwrite: bool = False,
    ) -> None:
        """Open the index of a corpus, or build it if it does not exist.

        Args:
            folder: The folder of the index.
            corpus: The passages, as `open_corpus` returns them.
            settings: How to score; None means the default.
            build: Build an index that does not exist.
            overwrite: Replace an index that is damaged, of other passages or with other settings.

        Raises:
            UserError: bm25s is not installed, the language is unknown, or the index cannot be used.
        """
        check_bm25(settings)
        import bm25s

        settings = settings or Bm25Settings()
        self.rows, self._corpus = len(corpus.rows), corpus
        self._words = Words(settings)
        identity = {**asdict(settings), "rows": self.rows, "data_fingerprint": corpus.fingerprint}
        problem = _problem(folder, identity) if folder.exists() else None
        if problem and not overwrite:
            raise UserError(f"method: {folder} is {problem}. Set overwrite=true to build it again, or delete it.")
        if not build and not folder.exists():
            raise UserError(f"method: {folder} does not exist. Run `search.py method=bm25`.")
        if problem or not folder.exists():
            self._build(folder, settings, identity)
        self._index = bm25s.BM25.load(folder, mmap=True)

    def search(self, queries: Queries, *, depth: int) -> Iterator[Ranked]:
        """Yield the `depth` best passages of each query's text."""
        if queries.texts is None:
            raise ValueError("the queries have no texts")
        docids = self._corpus.rows.select_columns(["docid"])
        for first in range(0, len(queries.texts), _QUERIES_AT_ONCE):
            texts = queries.texts[first : first + _QUERIES_AT_ONCE]
            ranked = [_best(self.scores(text), depth) for text in texts]
            named = iter(docids[np.concatenate([rows for rows, _ in ranked])]["docid"])
            for rows, scores in ranked:
                yield Ranked(rows, [next(named) for _ in rows], scores)

    def scores(self, text: str) -> NDArray[np.float32]:
        """Return the score of every passage [rows]."""
        known = [word for word in self._words.split(text) if word in self._index.vocab_dict]
        if not known:
            return np.zeros(self.rows, np.float32)
        scores: NDArray[np.float32] = self._index.get_scores(known)
        return scores

    def _build(self, folder: Path, settings: Bm25Settings, identity: dict[str, Any]) -> None:
        import bm25s

        start = time.perf_counter()
        _log.info("bm25: indexing %s passages; they are in memory as numbers meanwhile", f"{self.rows:,}")
        index = bm25s.BM25(k1=settings.k1, b=settings.b)
        texts = (f"{row['title']} {row['text']}" for row in self._corpus.rows)
        numbers, words = self._words.numbered(texts)
        if not words:
            raise UserError("corpus: BM25 finds no words in it but stop words. Set `language` to null, or correct it.")
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # which the import of bm25s has set to DEBUG
        index.index((numbers, words), show_progress=False)
        with atomic_folder(folder) as unfinished:
            index.save(unfinished, show_progress=False)
            hashes = {file.name: file_hash(file) for file in sorted(unfinished.iterdir())}
            write_json(unfinished / _IDENTITY, {**identity, "xxh3": hashes})
        _log.info("bm25: built in %.1f s, in %s", time.perf_counter() - start, folder)


def saved_settings(folder: Path) -> Bm25Settings:
    """Return the settings of an index; the default if its folder does not exist or is damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        identity = json.loads((folder / _IDENTITY).read_text(encoding="utf-8"))
        return Bm25Settings(**{field.name: identity[field.name] for field in fields(Bm25Settings)})
    return Bm25Settings()


class Words:
    """Splits text into the words that BM25 counts."""

    def __init__(self, settings: Bm25Settings) -> None:
        """Make a tokenizer for a language. Raises UserError if it is unknown."""
        import Stemmer
        from bm25s.tokenization import Tokenizer

        language, stemmer = settings.language, None
        try:
            if language and settings.stemming:
                stemmer = Stemmer.Stemmer(language)
            self._tokenizer = Tokenizer(stopwords=language, stemmer=stemmer)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"language: {language!r} has no stemmer or no stop words in bm25s. Set `language` to another one, such "
                "as english, german, french or spanish, or to null."
            ) from error

    def split(self, text: str) -> list[str]:
        """Return the words of a text, in order and with repetitions."""
        self._tokenizer.reset_vocab()
        (numbers,), words = self._numbers([text])
        names = {number: word for word, number in words.items()}
        return [names[number] for number in numbers]

    def numbered(self, texts: Iterator[str]) -> tuple[list[list[int]], dict[str, int]]:
        """Return the words of texts as numbers, and the number of each word."""
        self._tokenizer.reset_vocab()
        return self._numbers(texts)

    def _numbers(self, texts: Any) -> tuple[list[list[int]], dict[str, int]]:
        options = {"update_vocab": True, "return_as": "stream", "allow_empty": False}
        return list(self._tokenizer.tokenize(texts, **options)), self._tokenizer.get_vocab_dict()


def _best(scores: NDArray[np.float32], depth: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return rows and scores of the `depth` best passages, ties by row, from all scores [rows], none below 0."""
    positive = np.flatnonzero(scores > 0)
    if len(positive) > depth:
        least = np.partition(scores[positive], -depth)[-depth]
        rows = positive[scores[positive] >= least]
    else:  # among the first `depth + len(positive)` rows are as many zeros as are needed
        rows = np.union1d(positive, np.arange(min(len(scores), depth + len(positive))))
    best = rows[np.argsort(-scores[rows], kind="stable")[:depth]]
    return best, scores[best]


def _problem(folder: Path, expected: dict[str, Any]) -> str | None:
    """Return what is wrong with an index, or None if it is intact and what is expected."""
    try:
        identity = json.loads((folder / _IDENTITY).read_text(encoding="utf-8"))
        hashes = identity.pop("xxh3")
        if identity != expected:
            same_data = identity["data_fingerprint"] == expected["data_fingerprint"]
            return "an index with other settings" if same_data else "of another corpus"
        intact = hashes and all(file_hash(folder / name) == digest for name, digest in hashes.items())
        return None if intact else "damaged"
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        return "damaged"
