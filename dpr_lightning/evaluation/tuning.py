"""Choose the weights of a fusion of two rankings by the questions of a development split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpr_lightning.data.sources import Source
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import FirstHits, first_hit
from dpr_lightning.evaluation.measures import find_answers
from dpr_lightning.evaluation.passages import passage_rows, read_passages
from dpr_lightning.evaluation.qrels import Qrels
from dpr_lightning.retrieval.fusion import fuse
from dpr_lightning.retrieval.rankings import Ranking

Hits = Mapping[str, set[str]]  # {qid: docids of the passages that count as hits}
WEIGHTS = tuple(round(0.05 * i, 2) for i in range(21))


class Trial(NamedTuple):
    """A weight of the first ranking, and what the fusion reaches with it: first hits [N], mean reciprocal rank."""

    weight: float
    first_hits: FirstHits
    mrr: float


def fused_rankings(
    rankings: Sequence[Mapping[str, Ranking]], weights: Sequence[float], *, fusion: str, depth: int, tag: str = "fused"
) -> list[Ranking]:
    """Return the fused ranking of each query, in the order of the first rankings.

    Args:
        rankings: Of each system, the rankings by qid.
        weights: The weight of each system.
        fusion: `sum` or `rrf`; see `fuse`.
        depth: Passages per query, at most.
        tag: The tag of the fused rankings.

    Raises:
        UserError: The systems ranked different queries.
    """
    first, *others = rankings
    for other in others:
        if different := sorted(first.keys() ^ other.keys()):
            raise UserError(
                f"the rankings have different queries: {different[0]} (the first of {len(different):,}) is in one of "
                "them only. Fuse rankings of the same queries."
            )
    fused = {
        qid: fuse([(one[qid].docids, one[qid].scores) for one in rankings], weights, fusion=fusion, depth=depth)
        for qid in first
    }
    return [Ranking(qid, docids, scores, tag) for qid, (docids, scores) in fused.items()]


def tune(rankings: Sequence[Mapping[str, Ranking]], hits: Hits, *, fusion: str, depth: int) -> list[Trial]:
    """Return what the fusion of two systems reaches with each of `WEIGHTS`.

    The mean reciprocal rank is that of the first hit among `depth` passages, 0 without one, over all questions of
    `hits`; a question that the rankings lack counts 0.

    Args:
        rankings: Of both systems, the rankings by qid.
        hits: The passages of each question that count.
        fusion: `sum` or `rrf`.
        depth: Passages per query, at most.

    Raises:
        UserError: No question has a hit.
    """
    if not any(hits.values()):
        raise UserError("no question has a passage that counts as a hit. Check answers and judgments, and their ids.")
    trials = []
    for weight in WEIGHTS:
        fused = {one.qid: one for one in fused_rankings(rankings, [weight, 1 - weight], fusion=fusion, depth=depth)}
        ranked = [[docid in own for docid in fused[qid].docids] if qid in fused else [] for qid, own in hits.items()]
        first_hits = np.array([first_hit(of_one) for of_one in ranked], np.int64)
        reciprocal = np.divide(1, first_hits, out=np.zeros(len(first_hits)), where=first_hits > 0)
        trials.append(Trial(weight, first_hits, float(reciprocal.mean())))
    return trials


def judged_hits(qrels: Qrels, queries: Source) -> Hits:
    """Return the relevant passages of each question."""
    qids = queries.rows["query_id"]
    return {qid: {docid for docid, value in qrels.get(qid, {}).items() if value > 0} for qid in qids}


def answer_hits(
    paths: Sequence[Path], rankings: Sequence[Mapping[str, Ranking]], queries: Source, corpus: Source, *, rule: str
) -> Hits:
    """Return the ranked passages of each question that contain an answer.

    Args:
        paths: The files of the rankings, for messages.
        rankings: Of each system, the rankings by qid.
        queries: Questions with their answers.
        corpus: The passages that were searched.
        rule: Rule by which a passage contains an answer, `string` or `regex`; see `answers.py`.

    Raises:
        UserError: The corpus lacks a ranked passage.
    """
    qids = queries.rows["query_id"][:]
    hits: dict[str, set[str]] = {qid: set() for qid in qids}
    for path, own in zip(paths, rankings, strict=True):
        docids = (docid for ranking in own.values() for docid in ranking.docids)
        passages = read_passages(passage_rows(docids, corpus, run_file=path), corpus)
        depth = max(len(ranking.docids) for ranking in own.values())
        found, _ = find_answers(own, queries, passages, rule, False, depth)
        for qid, of_one in zip(qids, found, strict=True):
            ranked = own[qid].docids if qid in own else []
            hits[qid] |= {docid for docid, is_hit in zip(ranked, of_one, strict=True) if is_hit}
    return hits
