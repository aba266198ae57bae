"""Reads the models and embeddings of other programs."""
