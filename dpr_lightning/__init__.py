"""Dense passage retrieval: train a bi-encoder, encode a corpus, search it exactly, evaluate its answers."""

from dpr_lightning.encoding.embeddings import open_embeddings
from dpr_lightning.errors import UserError

__all__ = ["UserError", "open_embeddings"]
