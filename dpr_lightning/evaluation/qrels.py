"""Judged passages: TREC qrels files, and the measures of ir-measures that need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import RR, Success, nDCG

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import first_hit
from dpr_lightning.evaluation.depth import bounds, deepest_cutoff, is_measured, undecided_at
from dpr_lightning.retrieval.rankings import Ranking
from dpr_lightning.text_files import excerpt, read_lines

Qrels = dict[str, dict[str, int]]  # {qid: {docid: relevance}}


@dataclass(frozen=True)
class Judgement:
    """Means over the judged questions.

    Attributes:
        questions: Number of judged questions.
        without_relevant: Number of those that have no relevant passage, which count 0 in every measure.
        values: Measure by its name in ir-measures.
        undecided: Number of questions, by measure, whose rankings end too early; see `depth.py`.
        left_out: Bounds of the measures that the rankings are too short for.
        ties: [value, trec_eval's value] of the measures that differ because trec_eval orders ties by docid.
    """

    questions: int
    without_relevant: int
    values: dict[str, float]
    undecided: dict[str, int]
    left_out: dict[str, list[float]]
    ties: dict[str, list[float]]


def read_qrels(path: Path) -> Qrels:
    """Return the judgments of a file of lines `qid 0 docid relevance`.

    Raises:
        UserError: The file does not exist or is empty, a line has another form, or a passage is judged twice for a
            question; the message names file and line.
    """
    if not path.is_file():
        raise UserError(f"qrels: there is no file {path}. Correct the path.")
    qrels: Qrels = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            qid, _, docid, relevance = line.split()
            value = int(relevance)
        except ValueError:
            raise UserError(
                f"{path}, line {number}: {excerpt(line)} is not `qid 0 docid relevance`. Correct it."
            ) from None
        if docid in qrels.setdefault(qid, {}):
            earlier = "in the same way" if qrels[qid][docid] == value else f"{qrels[qid][docid]}, not {value},"
            raise UserError(
                f"{path}, line {number}: passage {docid} of question {qid} is judged {earlier} in an earlier line. "
                "Remove one of them."
            )
        qrels[qid][docid] = value
    if not qrels:
        raise UserError(f"{path} is empty. Give judgments, or leave `qrels` out.")
    return qrels


def judge(
    qrels: Qrels, rankings: Mapping[str, Ranking], *, qids: Iterable[str], topk: Sequence[int], corpus_rows: int
) -> Judgement:
    """Return Success@k for each k, RR and nDCG@10, averaged over the judged ones of `qids`.

    A judged question without a ranking counts 0. Passages with equal scores keep the order of the ranking. RR is cut at
    the depth that the rankings reach, and named after it (`RR@100`), unless they decide it without a cutoff.

    Raises:
        UserError: None of `qids` is judged.
    """
    judged = {qid: qrels[qid] for qid in qids if qid in qrels}
    if not judged:
        raise UserError(f"qrels: they judge none of the questions (but {next(iter(qrels))}). Give those of this split.")
    docids = {qid: rankings[qid].docids for qid in judged if qid in rankings}
    relevant = {qid: {docid for docid, value in values.items() if value > 0} for qid, values in judged.items()}
    hits = np.array([first_hit([docid in relevant[qid] for docid in docids.get(qid, [])]) for qid in judged], np.int64)
    decided = [qid not in docids or relevant[qid].issubset(docids[qid]) for qid in judged]
    lengths = np.where(decided, corpus_rows, [len(docids.get(qid, [])) for qid in judged])

    cutoffs = {f"Success@{k}": k for k in topk} | {"nDCG@10": 10}
    undecided = {name: undecided_at(k, hits, lengths, corpus_rows) for name, k in cutoffs.items()}
    undecided["nDCG@10"] = int((lengths < min(10, corpus_rows)).sum())
    longest = max(len(ranking.docids) for ranking in rankings.values())
    depth = deepest_cutoff(hits, lengths, corpus_rows)
    values = _means(judged, docids, topk, depth)
    left_out = {
        name: bounds(values.pop(name), count, len(judged))
        for name, count in undecided.items()
        if not is_measured(cutoffs[name], count, len(judged), longest=longest, corpus_rows=corpus_rows)
    }
    reordered = {qid: _trec_eval_order(rankings[qid]) for qid in docids}
    others = values if reordered == docids else _means(judged, reordered, topk, depth)
    return Judgement(
        questions=len(judged),
        without_relevant=sum(not some for some in relevant.values()),
        values=values,
        undecided={name: count for name, count in undecided.items() if count},
        left_out=left_out,
        ties={name: [value, others[name]] for name, value in values.items() if abs(value - others[name]) > 1e-12},
    )


def _means(
    judged: Qrels, docids: Mapping[str, Sequence[str]], topk: Sequence[int], depth: int | None
) -> dict[str, float]:
    """Return the measures of docids in their given order; RR is cut at `depth`."""
    run = {qid: {docid: float(-i) for i, docid in enumerate(some)} for qid, some in docids.items()}
    cut = {qid: dict(list(scores.items())[:depth]) for qid, scores in run.items()}
    measures = [*(Success @ k for k in topk), RR, nDCG @ 10]
    values = ir_measures.calc_aggregate(measures, judged, run) | ir_measures.calc_aggregate([RR], judged, cut)
    return {f"RR@{depth}" if depth and measure == RR else str(measure): float(values[measure]) for measure in measures}


def _trec_eval_order(ranking: Ranking) -> list[str]:
    """Return the docids by descending score, and those with equal scores by descending code points."""
    if (np.diff(ranking.scores) != 0).all():
        return ranking.docids
    return [docid for _, docid in sorted(zip(ranking.scores.tolist(), ranking.docids, strict=True), reverse=True)]
