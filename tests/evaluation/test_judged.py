"""Judged measures against plain computation in the order of the ranking, and against trec_eval's."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.judged import judge, parse_measures
from dpr_lightning.retrieval.rankings import Ranking

DOCIDS = [f"d{i}" for i in range(14)]


def rankings_of(docids, scores=None):
    """Rankings of these docids, by default with descending scores."""
    return {
        qid: Ranking(qid, list(some), np.array((scores or {}).get(qid, range(len(some), 0, -1)), np.float32))
        for qid, some in docids.items()
    }


def judged(qrels, docids, *, qids=("q",), topk=(1,), corpus_rows=None, scores=None, measures=None):
    rows = corpus_rows or max(map(len, docids.values()))
    rankings = rankings_of(docids, scores)
    return judge(qrels, rankings, qids=qids, topk=topk, corpus_rows=rows, measures=measures)


def naive(qrels, docids, qids, topk, depth=None):
    """Averages over the judged questions; a document is relevant from 1 on, and its gain is its relevance."""
    judged = [qid for qid in qids if qid in qrels]
    reciprocal_rank = f"RR@{depth}" if depth else "RR"
    sums = {**{f"Success@{k}": 0.0 for k in topk}, reciprocal_rank: 0.0, "nDCG@10": 0.0}
    for qid in judged:
        gains = [qrels[qid].get(docid, 0) for docid in docids.get(qid, [])]
        hit = next((rank for rank, gain in enumerate(gains[:depth], 1) if gain > 0), 0)
        for k in topk:
            sums[f"Success@{k}"] += 0 < hit <= k
        sums[reciprocal_rank] += 1 / hit if hit else 0
        ideal = sorted(qrels[qid].values(), reverse=True)
        dcg, best = (sum(max(g, 0) / math.log2(i + 2) for i, g in enumerate(some[:10])) for some in (gains, ideal))
        sums["nDCG@10"] += dcg / best if best else 0
    return {name: value / len(judged) for name, value in sums.items()}


QRELS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOCIDS), st.integers(0, 3), min_size=1, max_size=5),
    min_size=1,
)
RANKED = st.dictionaries(st.sampled_from(["q1", "q2", "q4"]), st.permutations(DOCIDS), min_size=1)
QIDS = ["q1", "q2", "q3", "q4"]
MEASURED = {"Success@1": 1, "Success@5": 5, "Success@12": 12, "nDCG@10": 10}


@settings(deadline=None, max_examples=60)
@given(qrels=QRELS, docids=RANKED)
def test_measures_are_the_naive_ones(qrels, docids):
    result = judged(qrels, docids, qids=QIDS, topk=[1, 5])
    assert result.values == pytest.approx(naive(qrels, docids, QIDS, [1, 5]), abs=1e-9)
    assert result.questions == len(qrels)
    assert result.without_relevant == sum(not any(values.values()) for values in qrels.values())
    assert (result.undecided, result.left_out, result.ties) == ({}, {}, {})


@settings(deadline=None, max_examples=150)
@given(qrels=QRELS, docids=RANKED, lengths=st.lists(st.integers(1, 14), min_size=3, max_size=3))
def test_a_shorter_ranking_gives_the_same_figures_or_their_bounds(qrels, docids, lengths):
    whole = judged(qrels, docids, qids=QIDS, topk=[1, 5, 12])
    cut = {qid: some[:length] for (qid, some), length in zip(docids.items(), lengths, strict=False)}
    result = judged(qrels, cut, qids=QIDS, topk=[1, 5, 12], corpus_rows=14)
    for name, value in result.values.items():
        if name.startswith("RR@"):
            expected = naive(qrels, docids, QIDS, [], depth=int(name.removeprefix("RR@")))[name]
        else:
            expected = whole.values[name]
        assert value == pytest.approx(expected, abs=1e-9)
    for name, (low, high) in result.left_out.items():
        assert low - 1e-9 <= whole.values[name] <= high + 1e-9
        assert name in result.undecided or int(name.partition("@")[2]) > max(map(len, cut.values()))
    assert all(k in result.left_out for k, cutoff in MEASURED.items() if cutoff > max(map(len, cut.values())))
    assert len(result.values) + len(result.left_out) == 5


@settings(deadline=None, max_examples=100)
@given(
    qrels=QRELS,
    docids=RANKED,
    scores=st.lists(st.lists(st.integers(0, 3), min_size=14, max_size=14), min_size=3, max_size=3),
)
def test_ties_that_change_a_measure_come_with_the_value_of_trec_eval(qrels, docids, scores):
    scores = {qid: sorted(some, reverse=True) for qid, some in zip(docids, scores, strict=False)}
    result = judged(qrels, docids, qids=list(docids), topk=[1, 5], scores=scores) if docids.keys() & qrels else None
    if result is None:
        return
    run = {qid: dict(zip(some, map(float, scores[qid]), strict=True)) for qid, some in docids.items() if qid in qrels}
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"success_1", "success_5", "recip_rank", "ndcg_cut_10"})
    by_question = evaluator.evaluate(run).values()
    names = {"Success@1": "success_1", "Success@5": "success_5", "RR": "recip_rank", "nDCG@10": "ndcg_cut_10"}
    for name, other in names.items():
        expected = np.mean([values[other] for values in by_question])
        ours, theirs = result.ties.get(name, [result.values[name]] * 2)
        assert ours == result.values[name]
        assert theirs == pytest.approx(expected, abs=1e-6)
    assert result.values == pytest.approx(naive(qrels, docids, list(docids), [1, 5]), abs=1e-9)


def test_docids_of_equal_scores_compare_by_their_code_points():
    result = judged({"q": {"é": 1}}, {"q": ["z", "é", "😀"]}, scores={"q": [1.0, 1.0, 0.5]})
    assert result.ties == {"Success@1": [0, 1], "RR": [0.5, 1], "nDCG@10": [pytest.approx(0.63093, abs=1e-5), 1]}
    assert not judged({"q": {"é": 1}}, {"q": ["é", "z"]}, scores={"q": [1.0, 1.0]}).ties


def test_the_order_of_the_ranking_counts_not_that_of_docids():
    docids = {"q": [f"d{i:03}" for i in range(120)]}
    for rank, docid in ((1, "d000"), (2, "d001"), (120, "d119")):
        assert judged({"q": {docid: 1}}, docids).values["RR"] == pytest.approx(1 / rank)


def test_judgments_of_other_questions_do_not_count():
    result = judged({"q": {"d": 1}, "other": {"d": 1}}, {"q": ["d"], "other": ["x"]})
    assert (result.values["Success@1"], result.questions) == (1, 1)


def test_judgments_of_other_questions_only_are_refused():
    with pytest.raises(UserError, match=r"qrels: they judge none of the questions \(but other\)"):
        judged({"other": {"d": 1}}, {"q": ["d"]})


def test_one_short_ranking_of_thousands_is_counted_not_fatal():
    docids = {f"q{i}": ["a", "b", "c"] for i in range(2000)} | {"q7": ["b"], "q8": ["c"]}
    qrels = {qid: {"a": 1} for qid in docids}
    result = judged(qrels, docids, qids=docids, topk=[1, 3], corpus_rows=9)
    assert result.values["Success@3"] == result.values["RR"] == 1998 / 2000
    assert result.undecided["Success@3"] == 2
    docids["q9"] = ["b", "c"]
    result = judged(qrels, docids, qids=docids, topk=[1, 3], corpus_rows=9)
    assert result.left_out["Success@3"] == [1997 / 2000, 1.0]
    assert result.values["RR@2"] == result.values["Success@1"] == 1997 / 2000


def test_judged_questions_that_the_rankings_lack_count_zero():
    result = judged({"q": {"d": 1}}, {"other": ["d"]}, qids=["q", "other"])
    assert (result.values, result.questions) == ({"Success@1": 0, "RR": 0, "nDCG@10": 0}, 1)


def plain_ndcg(grades, ranked, k):
    gains = [max(grades.get(docid, 0), 0) for docid in ranked[:k]]
    best = sorted((max(value, 0) for value in grades.values()), reverse=True)[:k]
    dcg, ideal = (sum(gain / math.log2(i + 2) for i, gain in enumerate(some)) for some in (gains, best))
    return dcg / ideal if ideal else 0.0


def plain_average_precision(grades, ranked, least=1):
    hits, total = 0, 0.0
    for rank, docid in enumerate(ranked, 1):
        if grades.get(docid, 0) >= least:
            hits += 1
            total += hits / rank
    relevant = sum(value >= least for value in grades.values())
    return total / relevant if relevant else 0.0


def plain_err(grades, ranked, k):
    """Expected reciprocal rank with grades up to 4, as gdeval has it."""
    value, goes_on = 0.0, 1.0
    for rank, docid in enumerate(ranked[:k], 1):
        stops = (2 ** max(grades.get(docid, 0), 0) - 1) / 2**4
        value, goes_on = value + goes_on * stops / rank, goes_on * (1 - stops)
    return value


PLAIN = {
    "nDCG@3": lambda grades, ranked: plain_ndcg(grades, ranked, 3),
    "R@5": lambda grades, ranked: (
        sum(grades.get(docid, 0) > 0 for docid in ranked[:5]) / max(sum(value > 0 for value in grades.values()), 1)
    ),
    "P(rel=2)@5": lambda grades, ranked: sum(grades.get(docid, 0) >= 2 for docid in ranked[:5]) / 5,
    "AP": plain_average_precision,
    "AP(rel=2)@5": lambda grades, ranked: plain_average_precision(grades, ranked[:5], 2),
    "Judged@4": lambda grades, ranked: sum(docid in grades for docid in ranked[:4]) / 4,
    "ERR@5": lambda grades, ranked: plain_err(grades, ranked, 5),
}


def test_measures_of_every_kind_are_the_plain_ones():
    rng = np.random.default_rng(3)
    qrels = {
        f"q {i}": dict(zip(rng.permutation(DOCIDS)[:5].tolist(), rng.integers(-2, 4, 5).tolist(), strict=True))
        for i in range(9)
    }
    docids = {qid: rng.permutation(DOCIDS).tolist() for qid in qrels if qid != "q 8"}
    result = judged(qrels, docids, qids=qrels, measures=[*PLAIN, "Recall@5"])
    assert list(result.values) == list(PLAIN)  # R@5 and Recall@5 are the same
    for name, measure in PLAIN.items():
        expected = {qid: measure(grades, docids[qid]) if qid in docids else 0.0 for qid, grades in qrels.items()}
        tolerance = 1e-5 if name == "ERR@5" else 1e-9  # gdeval prints five digits
        assert result.by_question[name] == pytest.approx(expected, abs=tolerance)
        assert result.values[name] == pytest.approx(np.mean(list(expected.values())), abs=tolerance)
        low, high = result.intervals[name]
        assert low <= result.values[name] <= high


@pytest.mark.parametrize("name", ["AP", "R@5", "Judged@5", "nDCG(judged_only=True)@3"])
def test_any_measure_of_a_shorter_ranking_is_the_same_or_left_out(name):
    rng = np.random.default_rng(4)
    qrels = {f"q{i}": {docid: int(rng.integers(0, 3)) for docid in rng.permutation(DOCIDS)[:3]} for i in range(4)}
    docids = {qid: rng.permutation(DOCIDS).tolist() for qid in qrels}
    for lengths in rng.integers(1, 15, [12, 4]).tolist():
        cut = {qid: some[:length] for (qid, some), length in zip(docids.items(), lengths, strict=True)}
        result = judged(qrels, cut, qids=qrels, measures=[name], corpus_rows=14)
        for measured, value in result.values.items():
            depth = int(measured.partition("@")[2]) if name == "AP" and "@" in measured else None
            whole = {qid: some[:depth] for qid, some in docids.items()}
            if depth is None:
                assert value == judged(qrels, whole, qids=qrels, measures=[name]).values[name]
            else:
                expected = [plain_average_precision(qrels[qid], some) for qid, some in whole.items()]
                assert value == pytest.approx(np.mean(expected), abs=1e-9)
        for low, high in result.left_out.values():
            assert low - 1e-9 <= judged(qrels, docids, qids=qrels, measures=[name]).values[name] <= high + 1e-9


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ndcg@10"], r"ir-measures does not know 'ndcg@10'; similar names are .*nDCG"),
        (["zzz"], "ir-measures does not know 'zzz'. Set `measures` like"),
        (["R"], r"'R' is not a measure of ir-measures \(it needs cutoff\)"),
        (["P@x"], "'P@x' is not a measure of ir-measures"),
        (["nDCG@0"], r"'nDCG@0' is not .* \(its cutoff is less than 1\)"),
        (["NumQ"], "'NumQ' is a count and has no mean"),
        (["nDCG@10", "RBP"], "'RBP' needs a package that ir-measures does not find"),
        ([], r"\[\] is not a list of measures"),
        ("nDCG@10", "'nDCG@10' is not a list of measures"),
    ],
)
def test_a_measure_that_does_not_exist_is_refused_in_one_line(names, message):
    with pytest.raises(UserError, match=f"^measures: {message}") as error:
        parse_measures(names, [1])
    assert "\n" not in str(error.value)
