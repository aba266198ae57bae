"""Measures of judged passages by ir-measures: means over the judged questions, with the depth rule and intervals."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ir_measures
import numpy as np
from numpy.typing import NDArray

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.accuracy import first_hit
from dpr_lightning.evaluation.depth import bounds, deepest_cutoff, is_measured, undecided_at
from dpr_lightning.evaluation.qrels import Qrels
from dpr_lightning.evaluation.resampling import bootstrap_intervals
from dpr_lightning.retrieval.rankings import Ranking

Measure = Any  # ir_measures has no types
Docids = Mapping[str, Sequence[str]]  # qid -> docids, best first
Values = dict[str, NDArray[np.float64]]
_FIRST_HIT = ("Success", "RR")  # decided by the first relevant passage
_ALL_RANKED = ("Judged", "Accuracy", "SetP", "SetF", "SetRelP")  # depend on passages that are not relevant
_SUMS = ("NumQ", "NumRel", "NumRet", "NumRelRet")
_EXAMPLE = "Set `measures` like [nDCG@10,R@100]."
_TIE_TOLERANCE = 1e-12
LARGEST_CUTOFF = 2**31 - 1


@dataclass
class Judgement:
    """Means over the judged questions.

    Attributes:
        questions: Number of judged questions.
        without_relevant: Number of those that have no relevant passage, which count 0 in every measure.
        values: Measure by its name in ir-measures.
        intervals: Bootstrap 95 % interval of each of these.
        by_question: Measures by question, of the questions that have a value.
        undecided: Number of questions, by measure, whose rankings end too early; see `depth.py`.
        left_out: Bounds of the measures that the rankings are too short for.
        ties: [value, trec_eval's value] of the measures that differ because trec_eval orders ties by docid.
    """

    questions: int
    without_relevant: int
    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    by_question: dict[str, dict[str, float]] = field(default_factory=dict)
    undecided: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, list[float]] = field(default_factory=dict)
    ties: dict[str, list[float]] = field(default_factory=dict)


def parse_measures(names: Sequence[str] | None, topk: Sequence[int]) -> list[Measure]:
    """Return the measures of ir-measures with these names; by default Success@k for each k, RR and nDCG@10.

    Raises:
        UserError: A name that ir-measures does not know or that nothing installed computes, or a count.
    """
    if names is None:
        names = [*(f"Success@{k}" for k in topk), "RR", "nDCG@10"]
    if isinstance(names, str) or not names:
        raise UserError(f"measures: {names!r} is not a list of measures. {_EXAMPLE}")
    return list(dict.fromkeys(map(_parse, names)))


def relevant_ranks(qrels: Qrels, rankings: Mapping[str, Ranking]) -> dict[str, dict[str, int | None]]:
    """Return the rank of each relevant passage of each judged question; None where the ranking lacks the passage."""
    ranks: dict[str, dict[str, int | None]] = {}
    for qid, judged in qrels.items():
        relevant = {docid for docid, value in judged.items() if value > 0}
        ranked = rankings[qid].docids if qid in rankings else []
        found = {docid: rank for rank, docid in enumerate(ranked, 1) if docid in relevant}
        ranks[qid] = {**found, **dict.fromkeys(sorted(relevant - found.keys()))}
    return ranks


def judge(
    qrels: Qrels,
    rankings: Mapping[str, Ranking],
    *,
    qids: Iterable[str],
    topk: Sequence[int],
    corpus_rows: int,
    measures: Sequence[str] | None = None,
) -> Judgement:
    """Return measures averaged over the judged ones of `qids`.

    A judged question without a ranking counts 0. Passages with equal scores keep the order of the ranking. A measure
    without a cutoff is computed to the depth that the rankings reach, and named after it (`RR@100`), unless they decide
    it without one.

    Args:
        qrels: The judgments; others than those of `qids` do not count.
        rankings: Ranking by question.
        qids: The questions.
        topk: Cutoffs of Success, if no measures are given.
        corpus_rows: Number of passages in the corpus.
        measures: Names in ir-measures; see `parse_measures`.

    Raises:
        UserError: None of `qids` is judged, or an unknown measure.
    """
    parsed = parse_measures(measures, topk)
    judged = {qid: qrels[qid] for qid in qids if qid in qrels}
    if not judged:
        raise UserError(f"qrels: they judge none of the questions (but {next(iter(qrels))}). Give those of this split.")
    docids = {qid: rankings[qid].docids for qid in judged if qid in rankings}
    longest = max(len(ranking.docids) for ranking in rankings.values())
    without = sum(all(value <= 0 for value in values.values()) for values in judged.values())
    result = Judgement(len(judged), without)

    # 1. Which measures are certain, and how deep those without a cutoff are cut.
    planned: dict[str, tuple[Measure, int | None]] = {}
    decisive = {rule: _decisive(rule, judged, docids, corpus_rows) for rule in {_rule(measure) for measure in parsed}}
    for measure in parsed:
        hits, lengths = decisive[_rule(measure)]
        cutoff, depth, name = measure.params.get("cutoff"), None, str(measure)
        if cutoff is None:
            depth = deepest_cutoff(hits, lengths, corpus_rows)
            name = f"{measure}@{depth}" if depth else name
        elif undecided := undecided_at(cutoff, hits, lengths, corpus_rows):
            result.undecided[name] = undecided
        planned[name] = measure, depth

    # 2. The values, and those in trec_eval's order.
    values = _values(planned, judged, docids)
    reordered = {qid: _trec_eval_order(rankings[qid]) for qid in docids}
    others = values if reordered == docids else _values(planned, judged, reordered)
    for name, (mean, by_question) in values.items():
        measure, undecided = planned[name][0], result.undecided.get(name, 0)
        cutoff = measure.params.get("cutoff", 1)
        if not is_measured(cutoff, undecided, len(judged), longest=longest, corpus_rows=corpus_rows):
            low, high = bounds(mean, undecided, len(judged))
            lowest = max(0.0, mean - undecided / len(judged))  # where more passages may also lower it
            result.left_out[name] = [lowest if _rule(measure).all_ranked else low, high]
            continue
        result.values[name], result.by_question[name] = mean, by_question
        if abs(mean - others[name][0]) > _TIE_TOLERANCE:
            result.ties[name] = [mean, others[name][0]]

    # 3. The intervals, for measures of the same questions at once.
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, by_question in result.by_question.items():
        alike[tuple(by_question)].append(name)
    for names in alike.values():
        table = np.array([list(result.by_question[name].values()) for name in names]).T
        result.intervals |= dict(zip(names, bootstrap_intervals(table).tolist(), strict=True))
    return result


def _parse(name: str) -> Measure:
    """Return the measure with a name. Raises UserError if there is none, or nothing installed computes it."""
    try:
        measure = ir_measures.parse_measure(str(name))
        known = measure.SUPPORTED_PARAMS
        if missing := [key for key, info in known.items() if info.required and key not in measure.params]:
            raise ValueError(f"it needs {' and '.join(missing)}")
        measure.validate_params()
        if measure.params.get("cutoff", 1) < 1:
            raise ValueError("its cutoff is less than 1")
        if measure.params.get("cutoff", 1) > LARGEST_CUTOFF:
            raise ValueError(f"its cutoff is more than {LARGEST_CUTOFF:,}")
    except NameError:
        word = str(name).partition("@")[0].partition("(")[0]
        names = {known.lower(): known for known in ir_measures.measures.registry}
        close = difflib.get_close_matches(word.lower(), names, 3)
        hint = f"; similar names are {', '.join(names[one] for one in close)}" if close else ""
        raise UserError(f"measures: ir-measures does not know {name!r}{hint}. {_EXAMPLE}") from None
    except (AssertionError, SyntaxError, TypeError, ValueError) as error:
        reason = str(error).removeprefix("problem parsing measure ")
        raise UserError(f"measures: {name!r} is not a measure of ir-measures ({reason}). {_EXAMPLE}") from error
    if measure.NAME in _SUMS:
        raise UserError(f"measures: {name!r} is a count and has no mean over the questions. {_EXAMPLE}")
    if not ir_measures.DefaultPipeline.supports(measure):
        raise UserError(
            f"measures: {name!r} needs a package that ir-measures does not find (cwl-eval, pyndeval or ranx). "
            "Install it, or leave the measure out."
        )
    return measure


class _Rule(NamedTuple):
    """What decides a question's value.

    Attributes:
        first_hit: The first relevant passage decides it.
        all_ranked: Passages that are not relevant count too, so that only a ranking of the cutoff's length decides it.
        least: The least relevance of a relevant passage.
        judged_only: Passages that are not judged do not count.
    """

    first_hit: bool
    all_ranked: bool
    least: int
    judged_only: bool


def _rule(measure: Measure) -> _Rule:
    name, params = measure.NAME, measure.params
    return _Rule(name in _FIRST_HIT, name in _ALL_RANKED, params.get("rel", 1), params.get("judged_only", False))


def _decisive(
    rule: _Rule, judged: Qrels, docids: Docids, corpus_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return `first_hits` and `lengths`, both [N], for the rule of `depth.py`.

    A question is decided if the ranking has all its relevant passages. Where only judged passages count, `lengths` are
    numbers of these.
    """
    hits, lengths = [], []
    for qid, grades in judged.items():
        ranked = docids.get(qid)
        counted = [docid for docid in ranked or () if docid in grades] if rule.judged_only else ranked or ()
        relevant = {docid for docid, value in grades.items() if value >= rule.least}
        decided = ranked is None or (not rule.all_ranked and relevant.issubset(counted))
        lengths.append(corpus_rows if decided else len(counted))
        hits.append(first_hit([docid in relevant for docid in counted]) if rule.first_hit else 0)
    return np.array(hits, np.int64), np.array(lengths, np.int64)


def _values(
    planned: Mapping[str, tuple[Measure, int | None]], judged: Qrels, docids: Docids
) -> dict[str, tuple[float, dict[str, float]]]:
    """Return each measure's mean and its values by question, of docids in their given order.

    Ids are replaced by numbers, because some programs that ir-measures calls take no others.
    """
    number: dict[str, str] = {}
    qids = {qid: str(i) for i, qid in enumerate(judged)}
    qrels = {
        qids[qid]: {number.setdefault(docid, str(len(number))): value for docid, value in grades.items()}
        for qid, grades in judged.items()
    }
    by_depth: dict[int | None, dict[Measure, str]] = defaultdict(dict)
    for name, (measure, depth) in planned.items():
        by_depth[depth][measure] = name
    result = {}
    for depth, names in by_depth.items():
        run = {
            qids[qid]: {number.setdefault(docid, str(len(number))): float(-i) for i, docid in enumerate(some[:depth])}
            for qid, some in docids.items()
        }
        means, metrics = ir_measures.calc(list(names), qrels, run)
        values: dict[Measure, dict[str, float]] = {measure: {} for measure in names}
        for metric in metrics:
            values[metric.measure][metric.query_id] = float(metric.value)
        for measure, name in names.items():
            by_question = {qid: values[measure][key] for qid, key in qids.items() if key in values[measure]}
            result[name] = float(means[measure]), by_question
    return {name: result[name] for name in planned}


def _trec_eval_order(ranking: Ranking) -> list[str]:
    """Return the docids by descending score, and those with equal scores by descending code points."""
    if (np.diff(ranking.scores) != 0).all():
        return ranking.docids
    return [docid for _, docid in sorted(zip(ranking.scores.tolist(), ranking.docids, strict=True), reverse=True)]
