"""Reads judged passages: TREC and BEIR text with or without a header, JSON Lines and Parquet."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import xxhash

from dpr_lightning.data.containers import read_records
from dpr_lightning.errors import UserError
from dpr_lightning.text_files import excerpt, plain_number, read_lines

Qrels = dict[str, dict[str, int]]  # {qid: {docid: relevance}}
_NAMES = {
    "qid": ("query-id", "query_id", "qid", "topic", "topic_id"),
    "docid": ("corpus-id", "corpus_id", "docid", "doc-id", "doc_id", "docno", "pid", "passage_id"),
    "relevance": ("score", "relevance", "rel", "label", "relevancy"),
}
"""Field names in headers and records, in lower case."""
_FORMS = {4: "`qid 0 docid relevance`", 3: "`qid docid relevance`"}
_RELEVANT = 1  # the relevance of a passage in a file without relevances


def read_qrels(files: Path | str | Sequence[str]) -> Qrels:
    """Return the judgments of one file or several.

    Text has the columns `qid 0 docid relevance` (TREC) or `qid docid relevance`, or columns in any order below a header
    such as BEIR's `query-id corpus-id score`. JSON Lines (.jsonl, .jsonl.gz) and .parquet have fields of these names.
    A header or fields without a relevance mean that each passage is relevant.

    Args:
        files: A path, a glob or a list of them.

    Raises:
        UserError: A file does not exist or is empty, a line has another form, or a passage is judged twice for a
            question; the message names file and line.
    """
    qrels: Qrels = {}
    for path in find_qrels(files):
        is_text = not path.name.endswith((".jsonl", ".jsonl.gz", ".parquet"))
        empty = True
        for number, qid, docid, value in _read_text(path) if is_text else _read_fields(path):
            empty = False
            if docid in qrels.setdefault(qid, {}):
                earlier = "in the same way" if qrels[qid][docid] == value else f"{qrels[qid][docid]}, not {value},"
                raise UserError(
                    f"{path}, line {number}: passage {docid} of question {qid} is judged {earlier} in an earlier line. "
                    "Remove one of them."
                )
            qrels[qid][docid] = value
        if empty:
            raise UserError(f"{path} is empty. Give judgments, or leave `qrels` out.")
    return qrels


def qrels_fingerprint(qrels: Qrels) -> str:
    """Return a hash of all judgments, in any order."""
    lines = sorted(f"{qid}\t{docid}\t{value}\n" for qid, grades in qrels.items() for docid, value in grades.items())
    return xxhash.xxh3_128_hexdigest("".join(lines).encode())


def find_qrels(files: Path | str | Sequence[str]) -> list[Path]:
    """Return the files of paths and globs. Raises UserError if one does not exist."""
    found: list[Path] = []
    for file in [files] if isinstance(files, str | Path) else files:
        path = Path(file).expanduser()
        matches = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path))))  # noqa: PTH207
        if not any(match.is_file() for match in matches):
            raise UserError(f"qrels: there is no file {file}. Correct the path.")
        found += filter(Path.is_file, matches)
    return found


def _read_text(path: Path) -> Iterator[tuple[int, str, str, int]]:
    """Yield line, qid, docid and relevance; the first line decides which columns they are in."""
    columns: dict[str, int] = {}
    width, form, has_header = 0, "", False
    for number, line in read_lines(path):
        if not line.strip():
            continue
        fields = _split(line, width, has_header)
        if not width:
            width = len(fields)
            if columns := _columns(fields):
                form, has_header = f"`{' '.join(fields)}`", True
                continue
            columns = {"qid": 0, "docid": width - 2, "relevance": width - 1}
            if width not in _FORMS:
                raise UserError(
                    f"{path}, line {number}: {excerpt(line)} has {width} columns. Qrels are {_FORMS[4]}, {_FORMS[3]}, "
                    "or columns below a header such as `query-id corpus-id score`."
                )
            form = _FORMS[width]
        try:
            if len(fields) != width:
                raise ValueError
            value = _grade(fields[columns["relevance"]]) if "relevance" in columns else _RELEVANT
        except ValueError:
            raise UserError(f"{path}, line {number}: {excerpt(line)} is not {form}. Correct it.") from None
        yield number, fields[columns["qid"]], fields[columns["docid"]], value


def _split(line: str, width: int, has_header: bool) -> list[str]:
    """Return the columns of a line, between tabs if their number fits, else between any white space."""
    tabs = [field.strip() for field in line.split("\t")]
    fits = len(tabs) == width if width else len(tabs) > 2
    words = line.split()
    if not has_header and len(tabs) == 3 and len(words) == 4 and words[1] in ("0", "Q0"):
        return words  # TREC with two tabs among blanks
    return tabs if fits and (has_header or " " not in tabs[-1]) else words


def _columns(names: Sequence[str]) -> dict[str, int]:
    """Return the columns of qid, docid and perhaps relevance, if `names` are those of a header, else nothing."""
    found = {
        role: next((i for i, name in enumerate(names) if name.strip().lower() in known), None)
        for role, known in _NAMES.items()
    }
    is_header = found["qid"] is not None and found["docid"] is not None
    return {role: column for role, column in found.items() if column is not None} if is_header else {}


def _read_fields(path: Path) -> Iterator[tuple[int, str, str, int]]:
    for number, record in read_records(path):
        fields = list(record) if isinstance(record, Mapping) else []
        columns = _columns(fields)
        if not columns:
            raise UserError(
                f"{path}, line {number}: found the fields {', '.join(map(excerpt, fields)) or 'none'}. Judgments have "
                "query-id, corpus-id and perhaps score."
            )
        values = {role: record[fields[column]] for role, column in columns.items()}
        try:
            if not all(isinstance(values[role], str | int) for role in ("qid", "docid")):
                raise TypeError
            yield number, str(values["qid"]), str(values["docid"]), _grade(values.get("relevance", _RELEVANT))
        except (TypeError, ValueError):
            raise UserError(f"{path}, line {number}: {excerpt(str(values))} is not a judgment. Correct it.") from None


def _grade(relevance: str | float) -> int:
    """Return a relevance as a whole number. Raises ValueError if it is not one."""
    value = float(plain_number(relevance) if isinstance(relevance, str) else relevance)
    if not value.is_integer():
        raise ValueError
    return int(value)
