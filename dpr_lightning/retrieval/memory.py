"""How many queries and passages are searched at once, so that a search stays within its memory."""

from __future__ import annotations

import contextlib
import ctypes
import re
from typing import NamedTuple

from dpr_lightning.embeddings.shards import ShardedEmbeddings
from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.topk import PAIRS_AT_ONCE, QUERIES_AT_ONCE, SLACK

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_FAISS_TILE = 1024  # passages: FAISS keeps a product of QUERIES_AT_ONCE x this
_BLAS = 16 << 20  # bytes: packed operands of a product, code and tables that it loads
_FEWEST_ROWS = 1024
_M_MMAP_THRESHOLD = -3  # of malloc.h


class Plan(NamedTuple):
    """Queries per pass over the corpus, passages per block, and the peak memory in bytes."""

    queries: int
    block_rows: int
    peak: int


def plan_search(memory: int, passages: ShardedEmbeddings, *, queries: int, depth: int) -> Plan:
    """Divide an exact search so that it takes at most `memory` bytes, or as few as it can.

    Everything that grows with a setting is counted. The largest part of `memory` that the queries may take is half;
    blocks of passages take the rest.
    """
    dim, itemsize, total = passages.dim, passages.dtype.itemsize, passages.rows
    candidates = min(depth, total) + SLACK
    # 1. Bytes per query of a pass.
    per_query = (
        6 * dim  # embedding: 4 per number, or 2 mapped and 4 converted from float16
        + 20 * candidates  # ranking: key 8, then score 4 and row 8
        + 16  # norm and error bound
    )
    # 2. Bytes per query whose candidates are selected: at most QUERIES_AT_ONCE at a time.
    per_selected = (
        12 * candidates  # result: score 4 and row 8
        + 28 * candidates  # score 4, order 16 and row 8 of pairs; before, 24 for FAISS's reservoir of 2 x candidates
        + 4 * _FAISS_TILE  # product with a tile of passages
    )
    # 3. Bytes per passage of a block: mapped, and converted from float16; 64 for norm, product and mask of a rescan.
    per_row = dim * (4 if itemsize == 4 else itemsize + 4) + 64
    # 4. Bytes whatever the division: 60 per pair (query, passage) that is scored and merged.
    fixed = _BLAS + 60 * max(PAIRS_AT_ONCE, candidates)
    # 5. As many queries as half the memory allows. Beyond QUERIES_AT_ONCE another one costs `per_query` only.
    half = (memory - fixed) // 2
    group = half // (per_query + per_selected)
    if group > QUERIES_AT_ONCE:
        group = (half - QUERIES_AT_ONCE * per_selected) // per_query
    group = max(1, min(queries, group))
    # 6. As many passages as the rest allows.
    taken = fixed + group * per_query + min(group, QUERIES_AT_ONCE) * per_selected
    block_rows = min(total, max(_FEWEST_ROWS, (memory - taken) // per_row))
    return Plan(group, block_rows, taken + block_rows * per_row)


def return_freed_arrays() -> None:
    """Make glibc return each freed array of 1 MB or more to the system; by default it learns to keep them."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def parse_bytes(size: str | int) -> int:
    """Return the number of bytes given as a number or as text like `4GB` or `500 MB` (1 GB = 2**30)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", str(size), re.IGNORECASE | re.ASCII)
    if not match:
        raise UserError(f"memory: {size!r} is not a size. Give a number of bytes, or a size like 4GB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])
