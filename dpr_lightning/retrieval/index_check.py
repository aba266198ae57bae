"""Try a FAISS factory string on a few vectors in another process, because a wrong one can crash the interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import faiss
import numpy as np

from dpr_lightning.errors import UserError

_VECTORS, _QUERIES = 300, 5
_TIMEOUT_S = 5
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def check_factory(factory: str, dim: int) -> None:
    """Raise UserError unless FAISS can build a small inner-product index of this kind that finds vectors.

    A trial that takes long counts as passed: training is slow, and FAISS crashes before or after it.

    Args:
        factory: A FAISS factory string. Numbers of lists are lowered for the trial, since lists need training vectors.
        dim: Size of an embedding.
    """
    if zero := re.search(r"(?:HNSW|NSG)1(?!\d)|(?<!\d)0+(?!\d)", factory):
        raise UserError(f"index: {factory!r} has the parameter {zero[0]!r}, which is too small. Correct index.")
    words = [sys.executable, "-m", __name__, factory, str(dim)]
    environment = os.environ | _ONE_THREAD
    try:
        trial = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, env=environment
        )
    except subprocess.TimeoutExpired:
        return
    except ValueError as error:  # a null byte
        problem = str(error)
    else:
        if trial.returncode == 0:
            return
        problem = trial.stdout.strip() or "FAISS crashes on it"
    raise UserError(f"index: {factory!r} cannot be used: {problem}. Correct index.")


def faiss_problem(error: Exception) -> str:
    """Return the cause that a FAISS error names, without its source locations."""
    return re.split(r"failed: |\.cpp:\d+: |\.h:\d+: ", str(error))[-1].strip().rstrip(".") or type(error).__name__


def _try(factory: str, dim: int) -> str:
    """Return what is wrong with a factory string, or an empty string."""
    small = re.sub(r"IVF(\d+)", lambda match: f"IVF{min(int(match[1]), 4)}", factory)
    vectors = np.random.default_rng(0).normal(size=(_VECTORS, dim)).astype(np.float32)
    try:
        index = faiss.index_factory(dim, small, faiss.METRIC_INNER_PRODUCT)
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            return "it cannot rank by inner product"
        if not index.is_trained:
            index.train(vectors)
        index.add(vectors)
        _, rows = index.search(vectors[:_QUERIES], 3)
    except (RuntimeError, MemoryError) as error:
        problem = faiss_problem(error)
        return "" if "training points" in problem else problem  # more of them are available in the corpus
    is_blind = index.ntotal != _VECTORS or (rows < 0).all() or (rows == rows[0]).all()
    return "the index finds the same vectors for every query" if is_blind else ""


if __name__ == "__main__":
    problem = _try(sys.argv[1], int(sys.argv[2]))
    print(problem)
    sys.exit(1 if problem else 0)
