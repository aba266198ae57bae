"""The search methods: what each of them reads, and the retriever that does it. No other code chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dpr_lightning.data.sources import Source
from dpr_lightning.embeddings.file import Embeddings
from dpr_lightning.embeddings.shards import ShardedEmbeddings
from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.retrieval.bm25 import Bm25, Bm25Settings
from dpr_lightning.retrieval.exact import ExactSearch
from dpr_lightning.retrieval.faiss_index import FaissIndex
from dpr_lightning.retrieval.fusion import Hybrid, HybridSettings
from dpr_lightning.retrieval.provenance import Provenance, describe_search
from dpr_lightning.retrieval.retriever import Queries, Retriever
from dpr_lightning.run_dir import METHODS, TEXT_METHODS, RunDir


@dataclass(frozen=True)
class Method:
    """How to search.

    Attributes:
        name: One of `METHODS`. None means `index` if one is given, else `exact`.
        index: The FAISS factory string of an approximate index, for `index` and `hybrid`.
        ann: Settings of the index's search; see `FaissIndex`.
        bm25: Settings of BM25; None means the default.
        hybrid: Settings of the fusion; None means the default.
    """

    name: str | None = None
    index: str | None = None
    ann: Mapping[str, int | None] | None = None
    bm25: Bm25Settings | None = None
    hybrid: HybridSettings | None = None

    def __post_init__(self) -> None:
        """Raise UserError if the values contradict each other."""
        if self.name is not None:
            check_choice(self.name, "method", METHODS)
        if (self.name == "index" and not self.index) or (self.name in ("exact", "bm25") and self.index):
            raise UserError(f"method: {self.name} contradicts index={self.index}. Leave one of them out.")

    @property
    def reads_texts(self) -> bool:
        """Whether the method needs the texts of queries and passages."""
        return self.name in TEXT_METHODS

    @property
    def reads_embeddings(self) -> bool:
        """Whether the method needs the embeddings of queries and passages."""
        return self.name != "bm25"

    @property
    def description(self) -> str | None:
        """What a ranking depends on, besides its data and its model: None for an exact search."""
        if not self.reads_texts:
            return self.index
        words = [f"bm25({_values(self.bm25 or Bm25Settings())})"]
        if self.name == "hybrid":
            words += [self.index or "exact", f"fused({_values(self.hybrid or HybridSettings())})"]
        return " ".join(words)


@dataclass(frozen=True)
class Inputs:
    """What is searched: embeddings, texts, or both.

    Attributes:
        queries: The embeddings of the queries.
        passages: The embeddings of the corpus.
        query_texts: The queries, as `open_queries` returns them.
        corpus: The passages, as `open_corpus` returns them.
    """

    queries: Embeddings | None = None
    passages: ShardedEmbeddings | None = None
    query_texts: Source | None = None
    corpus: Source | None = None

    def __post_init__(self) -> None:
        """Raise UserError if embeddings and texts are of different data."""
        if self.passages and self.queries:
            self.passages.check_queries(self.queries)
        if self.passages and self.corpus and self.passages.data_fingerprint != self.corpus.fingerprint:
            raise UserError(
                f"corpus: its passages are not those that {self.passages.path} was encoded from. Give that corpus, or "
                "encode this one."
            )
        if self.queries and self.query_texts and self.queries.identity.data_fingerprint != self.query_texts.fingerprint:
            raise UserError(
                f"queries: they are not those that {self.queries.path} was encoded from. Give those queries, or encode "
                "these."
            )

    @property
    def rows(self) -> int:
        """The number of passages."""
        return self.passages.rows if self.passages else len(self.corpus.rows) if self.corpus else 0

    def as_queries(self) -> Queries:
        """Return the queries with what is known of them."""
        texts = self.query_texts.rows["query"][:] if self.query_texts else None
        qids = self.queries.ids if self.queries else self.query_texts.rows["query_id"][:] if self.query_texts else []
        return Queries(qids, self.queries, texts)

    def provenance(self, method: Method, *, depth: int) -> Provenance:
        """Return the provenance of a ranking."""
        if self.queries and self.passages:
            return describe_search(self.queries, self.passages, depth=depth, index=method.description)
        if not self.query_texts or not self.corpus:
            raise ValueError("there are neither embeddings nor texts")
        certain = depth if depth < self.rows else None
        facts: dict[str, Any] = {"depth": certain, "index": method.description, "embeddings": {}}
        return Provenance("", self.query_texts.fingerprint, self.corpus.fingerprint, **facts)


def open_retriever(
    run: RunDir, method: Method, inputs: Inputs, *, memory: int | None = None, overwrite: bool = False
) -> Retriever:
    """Return the retriever of a method.

    Args:
        run: The folder of the experiment, which keeps indexes.
        method: How to search.
        inputs: What is searched; the queries are not read.
        memory: Bytes for a search of many queries, and for building an index; None searches few queries at a time with
            indexes that exist.
        overwrite: Replace an index that is damaged, of other passages or with other settings.

    Raises:
        UserError: As `FaissIndex` and `Bm25`.
    """
    if not method.reads_texts:
        return _open_dense(run, method, inputs, memory, overwrite)
    if inputs.corpus is None:
        raise ValueError(f"method {method.name} needs the texts of the corpus")
    folder, build = run.index("bm25"), memory is not None
    bm25 = Bm25(folder, inputs.corpus, method.bm25, build=build, overwrite=overwrite)
    if not method.reads_embeddings:
        return bm25
    return Hybrid(_open_dense(run, method, inputs, memory, overwrite), bm25, method.hybrid or HybridSettings())


def _open_dense(run: RunDir, method: Method, inputs: Inputs, memory: int | None, overwrite: bool) -> Retriever:
    if inputs.passages is None:
        raise ValueError(f"method {method.name} needs the embeddings of the corpus")
    if method.index is None:
        return ExactSearch(inputs.passages, memory=memory)
    return FaissIndex(run, method.index, inputs.passages, ann=method.ann, memory=memory, overwrite=overwrite)


def _values(settings: Bm25Settings | HybridSettings) -> str:
    return ", ".join(f"{name}={value}" for name, value in asdict(settings).items())
