"""Finds the passages of a ranking in a corpus of any size."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dpr_lightning.data.sources import Source
from dpr_lightning.errors import UserError

Passages = dict[str, tuple[str, str]]  # docid -> title, text
_ROWS_AT_ONCE = 1000


def passage_rows(docids: Iterable[str], corpus: Source, *, run_file: Path) -> dict[str, int]:
    """The corpus row of each docid, found in one pass over the docid column.

    Raises:
        UserError: a docid that the corpus lacks; the message names `run_file`, where it stands.
    """
    wanted = dict.fromkeys(docids)
    column = corpus.rows.with_format("arrow")[:]["docid"]
    rows = np.flatnonzero(pc.is_in(column, value_set=pa.array(list(wanted), pa.string())).to_numpy())
    found = dict(zip(column.take(pa.array(rows)).to_pylist(), rows.tolist(), strict=True))
    unknown = [docid for docid in wanted if docid not in found]
    if unknown:
        raise UserError(
            f"{run_file}: passage {unknown[0]} ({len(unknown):,} in all) is not in data.corpus. "
            "Give the corpus that was searched."
        )
    return found


def read_passages(rows: dict[str, int], corpus: Source) -> Passages:
    """Title and text of the passages that stand in these rows."""
    found: Passages = {}
    ordered = sorted(rows.values())
    for start in range(0, len(ordered), _ROWS_AT_ONCE):
        part = corpus.rows[ordered[start : start + _ROWS_AT_ONCE]]
        for docid, title, text in zip(part["docid"], part["title"], part["text"], strict=True):
            found[docid] = (title, text)
    return found
