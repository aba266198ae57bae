"""Dense passage retrieval: train a bi-encoder, encode a corpus, search it exactly, evaluate its answers."""

import importlib
from typing import TYPE_CHECKING, Any

from dpr_lightning.errors import UserError

if TYPE_CHECKING:
    from dpr_lightning.embeddings.file import open_embeddings
    from dpr_lightning.searcher import Searcher

__all__ = ["Searcher", "UserError", "open_embeddings"]
_MODULES = {"Searcher": "dpr_lightning.searcher", "open_embeddings": "dpr_lightning.embeddings.file"}


def __getattr__(name: str) -> Any:
    """Import what needs torch or NumPy when it is asked for, so that commands start quickly."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
