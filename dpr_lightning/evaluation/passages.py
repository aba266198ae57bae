"""The passages of rankings, looked up in a corpus of any size."""

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


def corpus_rows(docids: Iterable[str], corpus: Source) -> dict[str, int]:
    """Return the corpus row of each docid that the corpus has, in one pass over the docid column."""
    column = corpus.rows.with_format("arrow")[:]["docid"]
    rows = np.flatnonzero(pc.is_in(column, value_set=pa.array(list(docids), pa.string())).to_numpy())
    return dict(zip(column.take(pa.array(rows)).to_pylist(), rows.tolist(), strict=True))


def passage_rows(docids: Iterable[str], corpus: Source, *, run_file: Path) -> dict[str, int]:
    """Return the corpus row of each docid.

    Args:
        docids: Docids of rankings, in any order and with repetitions.
        corpus: The passages, as `open_corpus` returns them.
        run_file: The file of the rankings, for messages.

    Raises:
        UserError: The corpus does not contain a docid.
    """
    wanted = dict.fromkeys(docids)
    row_of = corpus_rows(wanted, corpus)
    unknown = [docid for docid in wanted if docid not in row_of]
    if unknown:
        raise UserError(
            f"{run_file}: passage {unknown[0]} (the first of {len(unknown):,}) is not in `corpus`. "
            "Give the corpus that was searched."
        )
    return row_of


def read_passages(row_of: dict[str, int], corpus: Source) -> Passages:
    """Return title and text of the passages in the given corpus rows."""
    passages: Passages = {}
    rows = sorted(row_of.values())
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = corpus.rows[rows[start : start + _ROWS_AT_ONCE]]
        for docid, title, text in zip(part["docid"], part["title"], part["text"], strict=True):
            passages[docid] = (title, text)
    return passages
