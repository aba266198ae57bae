"""Reads RUN/train/metrics.csv."""

import csv


def logged_rows(run):
    """Return the rows of a run folder's metrics as dicts of strings; none if the file does not exist."""
    file = run / "train" / "metrics.csv"
    if not file.exists():
        return []
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def logged(run, metric):
    """Return all values of one metric as numbers."""
    return [float(row[metric]) for row in logged_rows(run) if row.get(metric)]
