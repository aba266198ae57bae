"""Ranking files, written, read and merged query by query; `ranking_formats.py` has the formats that are read."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpr_lightning.data.sources import Source
from dpr_lightning.errors import UserError, check_choice
from dpr_lightning.files import atomic_path, open_text
from dpr_lightning.retrieval.ranking_formats import FORMATS, Row, read_rows, recognize
from dpr_lightning.text_files import BYTE_ORDER_MARK, excerpt

_log = logging.getLogger(__name__)
_NO_TAG = "-"  # written for a ranking read from text, which has no tags
WRITTEN_FORMATS = ("trec", "text", "msmarco")


class Ranking(NamedTuple):
    """The passages of one query, best first, with scores [depth] float32."""

    qid: str
    docids: list[str]
    scores: NDArray[np.float32]
    tag: str = ""


def write_rankings(
    path: Path, rankings: Iterable[Ranking], *, format: str, describe: Callable[[Path], None] | None = None
) -> int:
    """Write rankings in the given order, atomically, and return their number.

    `trec` is `qid Q0 docid rank score tag`, `text` is Tevatron's `qid<tab>docid<tab>score`, `msmarco` is
    `qid<tab>docid<tab>rank`. Scores are the shortest decimals that read back as the same float32.

    Args:
        path: The file.
        rankings: The rankings.
        format: One of the `WRITTEN_FORMATS`.
        describe: Called with the finished file before it takes its name `path`.

    Raises:
        UserError: An id that the format cannot represent, or a score that is not finite.
    """
    check_choice(format, "format", WRITTEN_FORMATS)
    count = 0
    with atomic_path(path, is_file=True) as temporary:
        with open_text(temporary, packed=path.suffix == ".gz") as file:
            for ranking in rankings:
                _check_ids([ranking.qid, *ranking.docids], format)
                if not np.isfinite(ranking.scores).all():
                    raise UserError(f"{path}: query {ranking.qid} has a score that is not finite. Search again.")
                file.write(_lines(ranking, format))
                count += 1
        if describe:
            describe(temporary)
    return count


def read_rankings(path: Path, queries: Source | None = None, *, format: str | None = None) -> Iterator[Ranking]:
    """Yield the rankings of a file in any of the `FORMATS`, in file order, one query at a time.

    A query's passages are sorted by score; equal scores stay in file order. Blank lines are ignored.

    Args:
        path: The file.
        queries: Queries that give a JSON file without query ids the ids of the queries with the same text.
        format: A name in `FORMATS`; None recognizes it by the content.

    Raises:
        UserError: The file does not exist or is empty, or has a line of another form, a query in two parts, a docid
            twice, or a query that `queries` lacks; the message names file and line.
    """
    check_ranking_exists(path)
    format = format or recognize(path)
    unit, finished = FORMATS[format].counts, set()
    qids = _qids_by_text(queries) if queries else {}
    for qid, group in groupby(read_rows(path, format), key=attrgetter("qid")):
        rows = list(group)
        if qid in finished:
            raise UserError(f"{path}, {unit} {rows[0].number}: query {qid} appears in two parts. Sort by query.")
        finished.add(qid)
        ranking = _sorted(path, unit, rows)
        if queries and (question := rows[0].question):
            if not (same := qids[_comparable(question)]):
                raise UserError(
                    f"{path}, {unit} {rows[0].number}: no query has the text {excerpt(question)}. Give the queries "
                    "that were searched."
                )
            ranking = ranking._replace(qid=same.pop(0))
        yield ranking
    if not finished:
        raise UserError(f"{path} has no passages. Search again.")


def check_ranking_exists(path: Path) -> None:
    """Raise UserError if a ranking does not exist."""
    if not path.is_file():
        raise UserError(f"{path} does not exist. Run `search.py`, or set run_file.")


def _qids_by_text(queries: Source) -> dict[str, list[str]]:
    """Return the ids of the queries with each text, in file order: the nth ranking of a text is of its nth query."""
    qids: dict[str, list[str]] = defaultdict(list)
    for qid, text in zip(queries.rows["query_id"], queries.rows["query"], strict=True):
        qids[_comparable(text)].append(qid)
    return qids


def _comparable(text: str) -> str:
    """Return a query's text as DPR's question files have it: one kind of apostrophe, single blanks."""
    return " ".join(text.replace("’", "'").split())


def merge_rankings(files: list[Path], *, depth: int, is_deep_enough: bool = False) -> Iterator[Ranking]:
    """Yield the `depth` best passages of each query over the rankings of all shards, given in corpus order.

    Equal scores rank by shard, then by rank in the shard: corpus order, as in the global search. One query at a time is
    in memory. Warn if all shards' rankings are shorter than `depth`, which may mean that a search was less deep; not if
    the shards are known to have no more passages (`is_deep_enough`).

    Raises:
        UserError: The files differ in their queries or tags, or have a passage twice; the message names them.
    """
    for file in files:
        if recognize(file) == "msmarco":
            raise UserError(f"{file} has ranks and no scores, which cannot be merged. Search again with format=trec.")
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
    if longest < depth and not is_deep_enough:
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


def _sorted(path: Path, unit: str, rows: Sequence[Row]) -> Ranking:
    """Return the ranking of one query's rows, the best first."""
    qid, docids = rows[0].qid, [row.docid for row in rows]
    if len(set(docids)) < len(docids):
        twice = next(row for i, row in enumerate(rows) if row.docid in docids[:i])
        raise UserError(f"{path}, {unit} {twice.number}: query {qid} has passage {twice.docid} twice. Remove one.")
    values = np.array([row.score for row in rows])  # other programs may write more digits than float32 has
    order = np.argsort(-values, kind="stable")
    return Ranking(qid, [docids[i] for i in order], values[order].astype(np.float32), rows[-1].tag)


def _lines(ranking: Ranking, format: str) -> str:
    """Return the lines of one query. Joining columns is several times as fast as formatting line by line."""
    if not ranking.docids:
        return ""
    columns = [ranking.docids]
    if format != "text":
        columns.append(_rank_texts(len(ranking.docids)))
    if format != "msmarco":
        columns.append(_score_texts(ranking.scores))
    is_trec = format == "trec"
    start, end = (f"{ranking.qid} Q0 ", f" {ranking.tag or _NO_TAG}\n") if is_trec else (f"{ranking.qid}\t", "\n")
    return start + f"{end}{start}".join(map((" " if is_trec else "\t").join, zip(*columns, strict=True))) + end


@functools.lru_cache(maxsize=1)
def _rank_texts(count: int) -> list[str]:
    return list(map(str, range(1, count + 1)))


def _score_texts(scores: NDArray[np.float32]) -> list[str]:
    """Return the text `str(score)` of each score.

    Arrow writes the same shortest decimals in a fourth of the time, but whole numbers, and exponents of very large and
    very small numbers, in another form. `pa.array` would import pandas, which takes 50 MB.
    """
    import pyarrow as pa

    sizes = np.abs(scores)
    numbers = pa.Array.from_buffers(pa.float32(), len(scores), [None, pa.py_buffer(scores.astype(np.float32))])
    texts: list[str] = numbers.cast(pa.string()).to_pylist()
    for i in np.flatnonzero((sizes < 1e-3) | (sizes >= 1e6) | (scores == np.trunc(scores))):
        texts[i] = str(scores[i])
    return texts


def _check_ids(ids: list[str], format: str) -> None:
    if ids[0].startswith(BYTE_ORDER_MARK):
        raise UserError(f"id {ids[0]!r} starts with a byte order mark, which no ranking can carry. Rename it.")
    text = "".join(ids)
    if all(ids) and text.split() == [text]:
        return
    for value in ids:
        fits_text = bool(value.strip()) and "\t" not in value and "\n" not in value
        if not (fits_text and (format != "trec" or value.split() == [value])):
            what = "has white space" if value.strip() else "is blank"
            remedy = "Set format=text" if fits_text else "Rename it"
            raise UserError(f"id {value!r} {what}, which a {format} ranking cannot represent. {remedy}.")
