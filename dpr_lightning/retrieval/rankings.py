"""Rankings as text: TREC run files and Tevatron's three columns, written, read and merged query by query."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.files import atomic_write
from dpr_lightning.run_dir import RANKING_ENDINGS
from dpr_lightning.text_files import BYTE_ORDER_MARK, excerpt, read_lines

_log = logging.getLogger(__name__)
_NO_TAG = "-"  # written for a ranking read from text, which has no tags
_LARGEST = float(np.finfo(np.float32).max)


class Ranking(NamedTuple):
    """The passages of one query, best first, with scores [depth] float32."""

    qid: str
    docids: list[str]
    scores: NDArray[np.float32]
    tag: str = ""


def write_rankings(path: Path, rankings: Iterable[Ranking], *, format: str) -> int:
    """Write rankings in the given order, atomically, and return their number.

    `trec` is `qid Q0 docid rank score tag`, `text` is Tevatron's `qid<tab>docid<tab>score`. Scores are the shortest
    decimals that read back as the same float32.

    Raises:
        UserError: An id that the format cannot represent.
    """
    check_choice(format, "format", list(RANKING_ENDINGS))
    count = 0
    with atomic_write(path) as file:
        for ranking in rankings:
            _check_ids([ranking.qid, *ranking.docids], format)
            for rank, (docid, score) in enumerate(zip(ranking.docids, ranking.scores, strict=True), 1):
                if format == "trec":
                    file.write(f"{ranking.qid} Q0 {docid} {rank} {score!s} {ranking.tag or _NO_TAG}\n")
                else:
                    file.write(f"{ranking.qid}\t{docid}\t{score!s}\n")
            count += 1
    return count


def read_rankings(path: Path) -> Iterator[Ranking]:
    """Yield the rankings of a TREC run or of a Tevatron text file, in file order, one query at a time.

    A query's passages are sorted by score; equal scores stay in file order. Blank lines are ignored.

    Raises:
        UserError: The file does not exist or is empty, or has a line of another form, a query in two parts, or a docid
            twice; the message names file and line.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Make it with search.py, or set run_file.")
    finished: set[str] = set()
    qid: str | None = None
    docids: list[str] = []
    scores: list[float] = []
    lines: list[int] = []
    tag = ""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        next_qid, docid, score, next_tag = _parse(path, number, line)
        if next_qid != qid:
            if qid is not None:
                yield _sorted(path, qid, docids, scores, tag, lines)
                finished.add(qid)
            if next_qid in finished:
                raise UserError(f"{path}, line {number}: query {next_qid} appears in two parts. Sort by query.")
            qid, docids, scores, lines = next_qid, [], [], []
        docids.append(docid)
        scores.append(score)
        lines.append(number)
        tag = next_tag
    if qid is None:
        raise UserError(f"{path} is empty. Search again.")
    yield _sorted(path, qid, docids, scores, tag, lines)


def merge_rankings(files: list[Path], *, depth: int) -> Iterator[Ranking]:
    """Yield the `depth` best passages of each query over the rankings of all shards, given in corpus order.

    Equal scores rank by shard, then by rank in the shard: corpus order, as in the global search. One query at a time is
    in memory. Warn if all shards' rankings are shorter than `depth`: they may be of a search less deep.

    Raises:
        UserError: The files differ in their queries or tags, or have a passage twice; the message names them.
    """
    longest = 0
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(read_rankings(file))) for file in files]  # type: ignore[type-var]
        for first in readers[0]:
            parts = [first, *(next(reader, None) for reader in readers[1:])]
            for file, part in zip(files, parts, strict=True):
                if part is None or part.qid != first.qid:
                    what = "ends" if part is None else f"has query {part.qid}"
                    raise UserError(f"{file} {what} where {files[0]} has query {first.qid}. Search both shards again.")
                if part.tag != first.tag:
                    raise UserError(
                        f"{file} and {files[0]} are tagged {part.tag} and {first.tag}: they are by two models."
                    )
            longest = max(longest, *(len(part.docids) for part in parts if part))
            yield _merge(files, [part for part in parts if part], depth)
        for file, reader in zip(files[1:], readers[1:], strict=True):
            if (more := next(reader, None)) is not None:
                raise UserError(f"{file} has query {more.qid} where {files[0]} ends. Search both shards again.")
    if longest < depth:
        _log.warning("depth=%d, but shards have %d passages per query: search them as deep", depth, longest)


def _merge(files: list[Path], parts: list[Ranking], depth: int) -> Ranking:
    docids = [docid for part in parts for docid in part.docids]
    if len(set(docids)) < len(docids):
        twice = next(docid for docid in docids if docids.count(docid) > 1)
        names = " and ".join(file.name for file, part in zip(files, parts, strict=True) if twice in part.docids)
        raise UserError(f"passage {twice} of query {parts[0].qid} appears in {names}. Search these shards again.")
    scores = np.concatenate([part.scores for part in parts])
    best = np.argsort(-scores, kind="stable")[:depth]
    return Ranking(parts[0].qid, [docids[i] for i in best], scores[best], parts[0].tag)


def _sorted(path: Path, qid: str, docids: list[str], scores: list[float], tag: str, lines: list[int]) -> Ranking:
    if len(set(docids)) < len(docids):
        line, twice = next((lines[i], docid) for i, docid in enumerate(docids) if docid in docids[:i])
        raise UserError(f"{path}, line {line}: query {qid} has passage {twice} twice. Remove one.")
    values = np.array(scores)  # other programs may write more digits than float32 has
    order = np.argsort(-values, kind="stable")
    return Ranking(qid, [docids[i] for i in order], values[order].astype(np.float32), tag)


def _parse(path: Path, number: int, line: str) -> tuple[str, str, float, str]:
    try:
        fields = line.split("\t") if line.count("\t") == 2 else line.split()
        tag = ""
        if len(fields) == 6:
            qid, _, docid, _, score, tag = fields
        else:
            qid, docid, score = fields
        if not (qid and docid and abs(float(score)) <= _LARGEST):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{path}, line {number}: {excerpt(line)} is neither `qid Q0 docid rank score tag` nor "
            "`qid<tab>docid<tab>score` with a finite score. Correct the line."
        ) from None
    return qid, docid, float(score), tag


def _check_ids(ids: list[str], format: str) -> None:
    if ids[0].startswith(BYTE_ORDER_MARK):
        raise UserError(f"id {ids[0]!r} starts with a byte order mark, which no ranking can carry. Rename it.")
    if " ".join(ids).split() == ids:
        return
    for value in ids:
        fits_text = bool(value.strip()) and "\t" not in value and "\n" not in value
        if not (fits_text and (format == "text" or value.split() == [value])):
            what = "has white space" if value.strip() else "is blank"
            remedy = "Set format=text" if fits_text else "Rename it"
            raise UserError(f"id {value!r} {what}, which a {format} ranking cannot represent. {remedy}.")
