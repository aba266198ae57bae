"""How many queries and passages are searched at once, so that a search stays within its memory."""

from __future__ import annotations

import contextlib
import ctypes
import re
from typing import NamedTuple

from dpr_lightning.embeddings.file import Embeddings
from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.topk import PAIRS_AT_ONCE, QUERIES_AT_ONCE, SLACK

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_FAISS_TILE = 1024  # passages; faiss holds a product of QUERIES_AT_ONCE x this
_BLAS = 16 << 20  # packed operands of a product, code and tables that it loads
_FEWEST_ROWS = 1024
_M_MMAP_THRESHOLD = -3  # of malloc.h


class Plan(NamedTuple):
    """Queries of one pass over the corpus, passages of one block, and the most bytes that this takes."""

    queries: int
    block_rows: int
    peak: int


def plan_search(memory: int, passages: list[Embeddings], *, queries: int, depth: int) -> Plan:
    """Cuts an exact search so that it takes at most `memory` bytes, or as few as it can.

    Counted is all that grows with a setting: blocks with the pages that the system maps for them, the rankings so far,
    faiss's results and work space, candidates being scored.
    """
    (_, dim), itemsize = passages[0].array.shape, passages[0].array.itemsize
    total = sum(len(part.ids) for part in passages)
    candidates = min(depth, total) + SLACK
    per_query = 6 * dim + 20 * candidates + 16  # embedding, keys, then scores and rows
    per_picked = (12 + 24) * candidates + 4 * _FAISS_TILE  # result, reservoir of twice its length, product
    per_row = dim * (4 if itemsize == 4 else itemsize + 4) + 64  # mapped, widened; a block that is looked at again
    fixed = _BLAS + 60 * max(PAIRS_AT_ONCE, candidates)  # pairs being scored and merged
    half = (memory - fixed) // 2
    group = half // (per_query + per_picked)
    if group > QUERIES_AT_ONCE:
        group = (half - QUERIES_AT_ONCE * per_picked) // per_query
    group = max(1, min(queries, group))
    taken = fixed + group * per_query + min(group, QUERIES_AT_ONCE) * per_picked
    block_rows = min(total, max(_FEWEST_ROWS, (memory - taken) // per_row))
    return Plan(group, block_rows, taken + block_rows * per_row)


def return_freed_arrays() -> None:
    """Has glibc give each array of 1 MB or more back to the system once freed; by default it learns to keep them."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def parse_bytes(size: str | int) -> int:
    """A number of bytes from a number or from text like `4GB` or `500 MB` (1 GB = 2**30)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", str(size), re.IGNORECASE)
    if not match:
        raise UserError(f"memory: {size!r} is no size. Give a number of bytes, or a size like 4GB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])
