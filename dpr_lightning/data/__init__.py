"""Data files: opening and checking them, sampling training examples, making batches."""
