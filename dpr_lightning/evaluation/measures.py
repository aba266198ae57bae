"""The figures of an evaluation: answers in the ranked passages, accuracy, measures of judged passages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpr_lightning.data.sources import Source
from dpr_lightning.evaluation.accuracy import FirstHits, accuracy_at
from dpr_lightning.evaluation.answers import answer_finder, answer_problem
from dpr_lightning.evaluation.depth import bounds, is_measured, undecided_at
from dpr_lightning.evaluation.judged import Judgement
from dpr_lightning.evaluation.passages import Passages
from dpr_lightning.retrieval.rankings import Ranking
from dpr_lightning.text_files import excerpt

_log = logging.getLogger(__name__)
_WARNED_ANSWERS = 3
Metrics = dict[str, Any]
Rankings = Mapping[str, Ranking]


def find_answers(
    rankings: Rankings, queries: Source, passages: Passages, rule: str, match_title: bool, depth: int
) -> tuple[list[list[bool]], list[dict[str, str]]]:
    """Return whether each of a question's first `depth` passages contains an answer, and the answers that never match.

    Questions come in the order of `queries`. Answers that never match are counted and named in one warning.
    """
    hits, invalid = [], []
    for row in queries.rows:
        qid = row["query_id"]
        problems = {answer: problem for answer in row["answers"] if (problem := answer_problem(answer, rule=rule))}
        invalid += [{"qid": qid, "answer": answer, "problem": problem} for answer, problem in problems.items()]
        has_answer = answer_finder([a for a in row["answers"] if a not in problems], rule=rule, qid=qid)
        texts = [passages[docid] for docid in rankings[qid].docids[:depth]] if qid in rankings else []
        hits.append([has_answer(f"{title} {text}" if match_title else text) for title, text in texts])
    if invalid:
        named = "; ".join(
            f"{excerpt(one['answer'])} of question {one['qid']} is {one['problem']}"
            for one in invalid[:_WARNED_ANSWERS]
        )
        _log.warning(
            "%d answers can never match: %s%s", len(invalid), named, "; …" if len(invalid) > _WARNED_ANSWERS else ""
        )
    return hits, invalid


def measure_accuracy(
    metrics: Metrics, queries: Source, rankings: Rankings, first_hits: FirstHits, cutoffs: list[int], corpus_rows: int
) -> None:
    """Add the accuracy at each cutoff that the rankings are deep enough for."""
    lengths = np.array(
        [len(rankings[qid].docids) if qid in rankings else corpus_rows for qid in queries.rows["query_id"]]
    )
    for k in cutoffs:
        value, low, high = accuracy_at(first_hits, k)
        undecided = undecided_at(k, first_hits, lengths, corpus_rows)
        if undecided:
            metrics["undecided"][f"accuracy@{k}"] = undecided
        if is_measured(k, undecided, len(first_hits), longest=metrics["depth"], corpus_rows=corpus_rows):
            metrics["accuracy"][str(k)], metrics["interval"][str(k)] = value, [low, high]
        else:
            metrics["left_out"][f"accuracy@{k}"] = bounds(value, undecided, len(first_hits))


def measure_judged(metrics: Metrics, judgement: Judgement, qrels_hash: str) -> None:
    """Add the measures of judged passages; warn of those that trec_eval would give another value because of ties."""
    metrics["qrels"], metrics["qrels_interval"] = judgement.values, judgement.intervals
    metrics["judged"], metrics["judged_without_relevant"] = judgement.questions, judgement.without_relevant
    metrics["qrels_fingerprint"], metrics["ties"] = qrels_hash, judgement.ties
    metrics["undecided"] |= judgement.undecided
    metrics["left_out"] |= judgement.left_out
    if judgement.ties:
        differences = ", ".join(
            f"{name} {ours:.4f} (trec_eval {other:.4f})" for name, (ours, other) in judgement.ties.items()
        )
        _log.warning(
            "%s: equal scores keep the file's order here, trec_eval orders them by docid: %s",
            metrics["run_file"],
            differences,
        )
