"""The files of an evaluation: `metrics.json`, `questions.jsonl` and `dpr.json`, written and read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpr_lightning.data.sources import Source
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import FirstHits
from dpr_lightning.evaluation.passages import Passages
from dpr_lightning.files import atomic_write, file_hash, values_hash, write_json
from dpr_lightning.retrieval.rankings import Ranking
from dpr_lightning.text_files import read_lines

Rankings = Mapping[str, Ranking]
METRICS, QUESTIONS, DPR_JSON = "metrics.json", "questions.jsonl", "dpr.json"


def write_questions(
    folder: Path,
    queries: Source,
    rankings: Rankings,
    first_hits: FirstHits,
    measures: Mapping[str, Mapping[str, float]] | None = None,
    relevant: Mapping[str, Mapping[str, int | None]] | None = None,
) -> None:
    """Write a line per question: the rank of its first hit and the docid there, or null, and what judges it.

    Args:
        folder: The folder of the evaluation.
        queries: The questions with their answers.
        rankings: Ranking by question.
        first_hits: The rank of each question's first hit, 0 without one: [questions].
        measures: Measure by name and question; None without judged passages.
        relevant: The rank, or None, of each question's relevant passages by docid; None without judged passages.
    """
    with atomic_write(folder / QUESTIONS) as file:
        for row, rank in zip(queries.rows, first_hits.tolist(), strict=True):
            line = {
                "qid": row["query_id"],
                "question": row["query"],
                "answers": row["answers"],
                "first_hit": rank or None,
                "docid": rankings[row["query_id"]].docids[rank - 1] if rank else None,
            }
            if measures is not None:
                own = {name: values[row["query_id"]] for name, values in measures.items() if row["query_id"] in values}
                line["measures"] = own
            if relevant is not None:
                line["relevant"] = relevant.get(row["query_id"], {})
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_dpr_json(
    folder: Path, queries: Source, rankings: Rankings, passages: Passages, hits: Sequence[Sequence[bool]]
) -> None:
    """Write the JSON that Pyserini's `evaluate_dpr_retrieval` reads; a question without a ranking has no contexts.

    A context's text has two lines, title and passage, because that program splits it there.
    """
    with atomic_write(folder / DPR_JSON) as file:
        file.write("{")
        for i, (row, has_answer) in enumerate(zip(queries.rows, hits, strict=True)):
            contexts = []
            if ranking := rankings.get(row["query_id"]):
                contexts = [
                    {"docid": docid, "score": str(score), "text": _two_lines(*passages[docid]), "has_answer": hit}
                    for docid, score, hit in zip(ranking.docids, ranking.scores, has_answer, strict=False)
                ]
            entry = {"question": row["query"], "answers": row["answers"], "contexts": contexts}
            key, value = json.dumps(row["query_id"]), json.dumps(entry, ensure_ascii=False)
            file.write(f"{',' if i else ''}\n{key}: {value}")
        file.write("\n}\n")


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Write metrics with a checksum, and return them with the hashes of the other files in the folder."""
    values = {**metrics, "xxh3": {name: file_hash(folder / name) for name in (QUESTIONS, DPR_JSON)}}
    write_json(folder / METRICS, values | {"check": values_hash(values)})
    return values


def read_questions(folder: Path, metrics: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the lines of an evaluation's `questions.jsonl`, each with at least `qid` and `first_hit`.

    Args:
        folder: The folder of the evaluation.
        metrics: Its metrics, which have the file's hash; earlier versions wrote none.

    Raises:
        UserError: The file does not exist or has another hash, or a line is damaged or repeats a question; the message
            names it.
    """
    file = _existing(folder / QUESTIONS)
    rows: dict[str, dict[str, Any]] = {}
    for number, line in read_lines(file):
        try:
            row = json.loads(line)
            if not isinstance(row["qid"], str) or not isinstance(row["first_hit"], int | None):
                raise TypeError("qid or first_hit")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file}, line {number}: damaged ({error}). Run evaluate.py again.") from error
        if row["qid"] in rows:
            raise UserError(f"{file}, line {number}: question {row['qid']} is in an earlier line too. Remove one.")
        rows[row["qid"]] = row
    if (metrics or {}).get("xxh3", {}).get(QUESTIONS) not in (None, file_hash(file)):
        raise UserError(f"{file}: damaged (its checksum differs). Run evaluate.py again.")
    return list(rows.values())


def read_contexts(folder: Path, metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the entry of each question in an evaluation's `dpr.json`, in the order of `questions.jsonl`.

    Raises:
        UserError: The file does not exist, has another hash than in `metrics`, or is damaged.
    """
    file = _existing(folder / DPR_JSON)
    if metrics.get("xxh3", {}).get(DPR_JSON) not in (None, file_hash(file)):
        raise UserError(f"{file}: damaged (its checksum differs). Run evaluate.py again.")
    for number, line in read_lines(file):
        if (entry := line.strip().rstrip(",")) in ("{", "}", ""):
            continue
        try:
            (value,) = json.loads(f"{{{entry}}}").values()
        except ValueError as error:
            raise UserError(f"{file}, line {number}: damaged ({error}). Run evaluate.py again.") from error
        yield value


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return an evaluation's `metrics.json`.

    Raises:
        UserError: The file does not exist or is damaged.
    """
    file = _existing(folder / METRICS)
    try:
        metrics: dict[str, Any] = json.loads("".join(line for _, line in read_lines(file)))
        check = metrics.pop("check", None)
        if check not in (None, values_hash(metrics)):
            raise ValueError("its checksum differs")
        {int(k): float(value) for k, value in metrics["accuracy"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: damaged ({error}). Run evaluate.py again.") from error
    return metrics


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise UserError(f"{file} does not exist. Run evaluate.py for this run folder and split first.")
    return file


def _two_lines(title: str, text: str) -> str:
    return "\n".join(part.replace("\n", " ") for part in (title, text))
