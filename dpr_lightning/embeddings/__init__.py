"""Embedding files: their format, writer, ids and shards."""
