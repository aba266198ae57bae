"""Dense passage retrieval: train a bi-encoder, encode a corpus, search it exactly, evaluate its answers."""

from typing import TYPE_CHECKING, Any

from dpr_lightning.embeddings.file import open_embeddings
from dpr_lightning.errors import UserError

if TYPE_CHECKING:
    from dpr_lightning.searcher import Searcher

__all__ = ["Searcher", "UserError", "open_embeddings"]


def __getattr__(name: str) -> Any:
    """Imports `Searcher` when it is asked for: it needs torch."""
    if name != "Searcher":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dpr_lightning.searcher import Searcher

    return Searcher
