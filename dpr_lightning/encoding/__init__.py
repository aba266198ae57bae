"""Encoding a corpus or queries into embedding files."""
