"""Opens a run once for all methods that can search it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dpr_lightning.data.sources import Source
from dpr_lightning.errors import UserError
from dpr_lightning.run_dir import TEXT_METHODS, RunDir
from dpr_lightning.searcher import Searcher

_log = logging.getLogger(__name__)


def open_searchers(
    run: RunDir,
    *,
    corpus: str | Sequence[str] | Source,
    model_dir: str | Path | None = None,
    index: str | None = None,
) -> dict[str, Searcher]:
    """Return a searcher of each method, the default first; all share one model.

    BM25 and hybrid search are among them if `search.py` has built the index of BM25. If it cannot be used, a warning
    says why.

    Args:
        run: The folder of the experiment.
        corpus: The passages that were encoded, as for `Searcher`.
        model_dir: The folder of the model, if it is not the run's.
        index: The factory string of an index that `search.py` has built; it adds the method `index`.

    Raises:
        UserError: As `Searcher`.
    """
    exact = Searcher(run.path, corpus=corpus, model_dir=model_dir)
    searchers = {"exact": exact}
    if index is not None:
        searchers = {"index": exact.with_method("index", index=index), "exact": exact}
    if run.index("bm25").exists():
        try:
            searchers |= {
                name: exact.with_method(name, index=index if name == "hybrid" else None) for name in TEXT_METHODS
            }
        except UserError as error:
            _log.warning("without BM25: %s", error)
    return searchers
