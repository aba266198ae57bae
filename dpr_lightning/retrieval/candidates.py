"""Select the passages of a block that may be among a query's best: on a GPU if the machine has one, else on the CPU.

Every selector multiplies in float32 and sums in any order. One error bound covers them all, so the final ranking does
not depend on the selector. No other file of search imports torch, and this one does so only if there is a GPU.
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
"""Takes queries [Q, D], a block [B, D] and k <= B; returns each query's k largest products [Q, k], descending, and
their rows in the block [Q, k]."""

_FEWEST_FOR_GPU = 64  # queries; below, copying the corpus to the GPU takes longer than multiplying on the CPU
_FEWEST_PER_THREAD = 256  # queries
_LARGEST_K_ON_FAISS_GPU = 2048
_NUMBERS_AT_ONCE = 1 << 28  # numbers of the passages, and of the products: 1 GB each on the device


def choose_selector(queries: int, k: int) -> Selector:
    """Return the fastest selector of this machine for this many queries and `k` candidates each."""
    if queries < _FEWEST_FOR_GPU:
        return select_candidates_faiss
    if k <= _LARGEST_K_ON_FAISS_GPU and faiss.get_num_gpus() > 0:
        return select_candidates_faiss_gpu
    return select_candidates_torch if _torch_has_gpu() else select_candidates_faiss


def select_candidates_faiss(queries: NDArray[np.float32], block: NDArray[np.float32], k: int) -> tuple[Scores, Rows]:
    """Select on the CPU, by BLAS.

    Split the queries across threads; BLAS's own threads would synchronize after every FAISS tile. Lower FAISS's
    threshold, below which it would not use BLAS (128,000 / D queries): BLAS is up to 9 times as fast.
    """
    cores = faiss.omp_get_max_threads()
    count = max(1, min(cores, len(queries) // _FEWEST_PER_THREAD))
    threshold = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    try:
        if count == 1:
            return _knn(queries, block, k)
        with ThreadPoolExecutor(count, initializer=faiss.omp_set_num_threads, initargs=(cores // count,)) as threads:
            parts = list(threads.map(lambda part: _knn(part, block, k), np.array_split(queries, count)))
    finally:
        faiss.cvar.distance_compute_blas_threshold = threshold
    scores, rows = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(rows)


def _knn(queries: NDArray[np.float32], block: NDArray[np.float32], k: int) -> tuple[Scores, Rows]:
    result: tuple[Scores, Rows] = faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
    return result


def select_candidates_faiss_gpu(
    queries: NDArray[np.float32], block: NDArray[np.float32], k: int
) -> tuple[Scores, Rows]:
    """Select on the first GPU by FAISS, which multiplies in full float32."""
    resources = faiss.StandardGpuResources()
    result: tuple[Scores, Rows] = faiss.knn_gpu(resources, queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)
    return result


def select_candidates_torch(
    queries: NDArray[np.float32], block: NDArray[np.float32], k: int, *, device: str = "cuda"
) -> tuple[Scores, Rows]:
    """Select by torch, one part of the block after another, without TensorFloat-32."""
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        left = torch.tensor(queries, device=device)
        scores, rows = left.new_empty(len(left), 0), left.new_empty(len(left), 0, dtype=torch.int64)
        step = max(1, _NUMBERS_AT_ONCE // max(queries.shape))
        for first in range(0, len(block), step):
            right = torch.tensor(block[first : first + step], device=device)
            new_scores, new_rows = (left @ right.T).topk(min(k, len(right)))
            scores, rows = torch.cat([scores, new_scores], 1), torch.cat([rows, new_rows + first], 1)
            scores, order = scores.topk(min(k, scores.shape[1]))
            rows = rows.gather(1, order)
        return scores.cpu().numpy(), rows.cpu().numpy()
    finally:
        torch.set_float32_matmul_precision(precision)


def _torch_has_gpu() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")  # no driver, no GPU: torch need not be imported
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()
