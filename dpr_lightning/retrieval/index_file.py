"""FAISS index files: built once over a run's passages, kept in the run folder, checked and memory-mapped when opened.

The folder of an index has `passages.faiss` and `identity.json`, which says what was indexed and has the index file's
XXH3 hash. Rows of the index are corpus rows.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from dpr_lightning.embeddings.shards import ShardedEmbeddings
from dpr_lightning.errors import UserError
from dpr_lightning.files import atomic_folder, file_hash, size_text, write_json
from dpr_lightning.retrieval.index_check import check_factory, faiss_problem
from dpr_lightning.run_dir import RunDir

_log = logging.getLogger(__name__)


def open_index(
    run: RunDir,
    factory: str,
    passages: ShardedEmbeddings,
    *,
    memory: int | None = None,
    overwrite: bool = False,
) -> faiss.Index:
    """Map the index of a run's passages, after building it if it does not exist.

    An existing file is read from beginning to end once, to compare it with its checksum.

    Args:
        run: The folder of the experiment.
        factory: A FAISS factory string.
        passages: The corpus.
        memory: Bytes that building may take besides the index itself, which FAISS has in memory meanwhile; None opens
            an existing index only.
        overwrite: Replace an index that is damaged or of other passages.

    Raises:
        UserError: The index does not exist, is damaged or of other passages; or FAISS does not accept the factory
            string, cannot rank by inner product with it, or needs more passages to train it.
    """
    folder = run.index(factory)
    problem = _problem(folder, factory, passages) if folder.exists() else None
    if memory is None and not folder.exists():
        raise UserError(f"index: {folder} does not exist. Build it with search.py index='{factory}'.")
    if problem and (memory is None or not overwrite):
        raise UserError(f"index: {folder} is {problem}. Set overwrite=true to build it again, or delete it.")
    with faiss_errors(factory):
        if memory is not None and (problem or not folder.exists()):
            _build(folder, factory, passages, memory)
        return faiss.read_index(str(folder / "passages.faiss"), faiss.IO_FLAG_MMAP_IFC)


def _build(folder: Path, factory: str, passages: ShardedEmbeddings, memory: int) -> None:
    """Train on passages spread evenly over the corpus, if the index needs training, then add all in blocks."""
    start = time.perf_counter()
    check_factory(factory, passages.dim)
    index = faiss.index_factory(passages.dim, factory, faiss.METRIC_INNER_PRODUCT)
    rows = max(1, memory // (16 * passages.dim))  # a quarter: FAISS copies what it trains on, and what it adds
    sample = 0 if index.is_trained else min(rows, passages.rows)
    _log.info(
        "index %s: training on %s of %s passages, then adding blocks of %s; FAISS has it in memory meanwhile",
        factory,
        f"{sample:,}",
        f"{passages.rows:,}",
        f"{min(rows, passages.rows):,}",
    )
    if sample:
        index.train(passages.gather(np.arange(sample) * passages.rows // sample))
    for block in passages.blocks(rows):
        index.add(np.ascontiguousarray(block, np.float32))
    with atomic_folder(folder) as unfinished:
        file = unfinished / "passages.faiss"
        faiss.write_index(index, str(file))
        size = size_text(file.stat().st_size)
        write_json(unfinished / "identity.json", _identity(factory, passages) | {"xxh3": file_hash(file)})
    _log.info("index %s: built in %.1f s, %s in %s", factory, time.perf_counter() - start, size, folder)


def _identity(factory: str, passages: ShardedEmbeddings) -> dict[str, Any]:
    return {
        "factory": factory,
        "metric": "inner product",
        "rows": passages.rows,
        "dim": passages.dim,
        "model_fingerprint": passages.model_fingerprint,
        "data_fingerprint": passages.data_fingerprint,
    }


def _problem(folder: Path, factory: str, passages: ShardedEmbeddings) -> str | None:
    """Return what is wrong with an index, or None if it is intact and of these passages."""
    expected = _identity(factory, passages)
    try:
        identity = json.loads((folder / "identity.json").read_text(encoding="utf-8"))
        checksum = identity.pop("xxh3", None)
        for key, problem in (("factory", "another index"), ("model_fingerprint", "of another model")):
            if identity[key] != expected[key]:
                return problem
        if identity.pop("bytes", None) is not None:
            return "by an older version, without a checksum"
        if identity != expected:
            return "of another corpus"
        return None if checksum == file_hash(folder / "passages.faiss") else "damaged"
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        return "damaged"


@contextmanager
def faiss_errors(factory: str) -> Iterator[None]:
    """Turn errors of FAISS in the block into a UserError that names the index."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"index: FAISS cannot use {factory!r} here: {faiss_problem(error)}. Correct index.") from error
