"""Merges the lines of judgments and of triples of ids into one record per query."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpr_lightning.data.blocks import Numbered
from dpr_lightning.errors import UserError


def relevant_passages(records: Iterator[Numbered], file: Path) -> Iterator[Numbered]:
    """Yield each judged query with its relevant passages as positives, and those judged not relevant as negatives.

    Queries without a relevant passage are left out, since they cannot be trained on.
    """
    for qid, (row, scores) in _judgments(records, file).items():
        positives = [docid for docid, score in scores.items() if score > 0]
        negatives = [docid for docid, score in scores.items() if score <= 0]
        if positives:
            yield row, {"query_id": qid, "positive_document_ids": positives, "negative_document_ids": negatives}


def judged_queries(records: Iterator[Numbered], file: Path) -> Iterator[Numbered]:
    """Yield each judged query once, in the order of the file."""
    for qid, (row, _) in _judgments(records, file).items():
        yield row, {"query_id": qid}


def consecutive_triples(records: Iterator[Numbered], file: Path) -> Iterator[Numbered]:
    """Yield one record per run of lines with the same query, with each of its passages once."""
    merged: dict[str, Any] = {}
    first_row = 0
    for row, record in records:
        if merged and record.get("qid") != merged["query_id"]:
            yield first_row, merged
            merged = {}
        if not merged:
            empty: dict[str, Any] = {f"{label}_document_ids": [] for label in ("positive", "negative")}
            first_row, merged = row, {"query_id": record.get("qid"), **empty}
        for label in ("positive", "negative"):
            docid, known = record.get(f"{label}_pid"), merged[f"{label}_document_ids"]
            if docid not in known[-1000:]:
                known.append(docid)
    if merged:
        yield first_row, merged


def _judgments(records: Iterator[Numbered], file: Path) -> dict[str, tuple[int, dict[str, int]]]:
    """Return {qid: (row, {docid: score})}; a missing score means relevant."""
    judgments: dict[str, tuple[int, dict[str, int]]] = {}
    for row, record in records:
        try:
            score = int(record.get("score", 1))
        except (TypeError, ValueError):
            raise UserError(
                f"{file}, row {row}: score {record['score']!r} is not a whole number. Correct the row."
            ) from None
        qid, docid = str(record.get("query-id")), str(record.get("corpus-id"))
        judgments.setdefault(qid, (row, {}))[1][docid] = score
    return judgments
