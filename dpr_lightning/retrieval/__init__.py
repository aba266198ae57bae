"""Exact search over embedding files, and rankings as text files."""
