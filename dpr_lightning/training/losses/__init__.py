"""Losses over the embeddings of a batch."""
