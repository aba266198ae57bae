"""Picks the passages of a block that may be among a query's best: on the GPU where there is one, else on the CPU.

Every picker multiplies in float32 and sums in any order, so that one error bound holds for all, and what is ranked in
the end does not depend on which was used. This is the one file of search that knows torch, and it imports it late.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]
Selector = Callable[[NDArray[np.float32], NDArray[np.float32], int], tuple[Scores, Rows]]
"""From queries [Q, D], a block [B, D] and k <= B: the k largest products of each query [Q, k], descending, and their
rows in the block [Q, k]."""

_FEWEST_FOR_GPU = 64  # queries; for fewer, sending the corpus to the GPU takes longer than multiplying here
_FEWEST_FOR_THREAD = 256  # queries
_LARGEST_K_ON_FAISS_GPU = 2048
_NUMBERS_AT_ONCE = 1 << 28  # of passages and of products; 1 GB each on the device


def choose_selector(queries: int, k: int) -> Selector:
    """The fastest picker for this many queries and `k` that this machine has."""
    if queries < _FEWEST_FOR_GPU:
        return select_candidates_faiss
    if k <= _LARGEST_K_ON_FAISS_GPU and faiss.get_num_gpus() > 0:
        return select_candidates_faiss_gpu
    return select_candidates_torch if _torch_has_gpu() else select_candidates_faiss


def select_candidates_faiss(queries: NDArray[np.float32], block: NDArray[np.float32], k: int) -> tuple[Scores, Rows]:
    """By BLAS on the CPU.

    Many queries are dealt out to threads that do not wait for one another, as BLAS's own do at each of faiss's tiles.
    For few (less than 128,000 / D), faiss would leave BLAS aside, which is up to 9 times as fast.
    """
    cores = faiss.omp_get_max_threads()
    count = max(1, min(cores, len(queries) // _FEWEST_FOR_THREAD))
    threshold = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    try:
        if count == 1:
            return _knn(queries, block, k)
        with ThreadPoolExecutor(count, initializer=faiss.omp_set_num_threads, initargs=(cores // count,)) as threads:
            found = list(threads.map(lambda part: _knn(part, block, k), np.array_split(queries, count)))
    finally:
        faiss.cvar.distance_compute_blas_threshold = threshold
    scores, rows = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(rows)


def _knn(queries: NDArray[np.float32], block: NDArray[np.float32], k: int) -> tuple[Scores, Rows]:
    found: tuple[Scores, Rows] = faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
    return found


def select_candidates_faiss_gpu(
    queries: NDArray[np.float32], block: NDArray[np.float32], k: int
) -> tuple[Scores, Rows]:
    """By faiss on the first GPU, which keeps float32 whole."""
    resources = faiss.StandardGpuResources()
    found: tuple[Scores, Rows] = faiss.knn_gpu(resources, queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
    return found


def select_candidates_torch(
    queries: NDArray[np.float32], block: NDArray[np.float32], k: int, *, device: str = "cuda"
) -> tuple[Scores, Rows]:
    """By torch, part by part of the block, with TensorFloat-32 off."""
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        left = torch.tensor(queries, device=device)
        scores, rows = left.new_empty(len(left), 0), left.new_empty(len(left), 0, dtype=torch.int64)
        step = max(1, _NUMBERS_AT_ONCE // max(queries.shape))
        for first in range(0, len(block), step):
            right = torch.tensor(block[first : first + step], device=device)
            found, places = (left @ right.T).topk(min(k, len(right)))
            scores, rows = torch.cat([scores, found], 1), torch.cat([rows, places + first], 1)
            scores, order = scores.topk(min(k, scores.shape[1]))
            rows = rows.gather(1, order)
        return scores.cpu().numpy(), rows.cpu().numpy()
    finally:
        torch.set_float32_matmul_precision(precision)


def _torch_has_gpu() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")  # without a driver, torch need not be imported to know
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()
