"""Judged measures against plain computation in the order of the ranking."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.qrels import judged_measures, read_qrels

DOCIDS = [f"d{i}" for i in range(14)]


def naive(qrels, rankings, qids, topk):
    """Averages over the judged questions; a document is relevant from 1 on, and its gain is its relevance."""
    judged = [qid for qid in qids if qid in qrels]
    sums = {**{f"Success@{k}": 0.0 for k in topk}, "RR": 0.0, "nDCG@10": 0.0}
    for qid in judged:
        gains = [qrels[qid].get(docid, 0) for docid in rankings.get(qid, [])]
        hit = next((rank for rank, gain in enumerate(gains, 1) if gain > 0), 0)
        for k in topk:
            sums[f"Success@{k}"] += 0 < hit <= k
        sums["RR"] += 1 / hit if hit else 0
        ideal = sorted(qrels[qid].values(), reverse=True)
        found, best = (sum(max(g, 0) / math.log2(i + 2) for i, g in enumerate(some[:10])) for some in (gains, ideal))
        sums["nDCG@10"] += found / best if best else 0
    return {name: value / len(judged) for name, value in sums.items()}


@settings(deadline=None, max_examples=60)
@given(
    qrels=st.dictionaries(
        st.sampled_from(["q1", "q2", "q3"]),
        st.dictionaries(st.sampled_from(DOCIDS), st.integers(0, 3), min_size=1, max_size=5),
        min_size=1,
    ),
    rankings=st.dictionaries(st.sampled_from(["q1", "q2", "q4"]), st.permutations(DOCIDS).map(lambda d: d[:12])),
)
def test_measures_are_the_naive_ones(qrels, rankings):
    qids = ["q1", "q2", "q3", "q4"]
    found = judged_measures(qrels, rankings, qids=qids, topk=[1, 5])
    assert found == pytest.approx(naive(qrels, rankings, qids, [1, 5]), abs=1e-9)


def test_the_order_of_the_ranking_counts_not_that_of_docids():
    rankings = {"q": [f"d{i:03}" for i in range(120)]}
    for rank, docid in ((1, "d000"), (2, "d001"), (120, "d119")):
        assert judged_measures({"q": {docid: 1}}, rankings, qids=["q"], topk=[1])["RR"] == pytest.approx(1 / rank)


def test_judgments_of_other_questions_do_not_count():
    found = judged_measures({"q": {"d": 1}, "other": {"d": 1}}, {"q": ["d"], "other": ["x"]}, qids=["q"], topk=[1])
    assert found["Success@1"] == 1


def test_judgments_of_other_questions_only_are_refused():
    with pytest.raises(UserError, match=r"data.qrels judges none of the questions"):
        judged_measures({"other": {"d": 1}}, {"q": ["d"]}, qids=["q"], topk=[1])


def test_qrels_are_read_with_any_blanks(tmp_path):
    (tmp_path / "q").write_text("q1 0 d1 1\r\n\nq1\t0\td2  0\nq2 Q0 dé 2\n", encoding="utf-8")
    assert read_qrels(tmp_path / "q") == {"q1": {"d1": 1, "d2": 0}, "q2": {"dé": 2}}


@pytest.mark.parametrize("line", ["q1 0 d2", "q1 0 d2 yes", "q1 0 d 2 1", "q1 0 d2 0.5"])
def test_a_malformed_line_is_named(tmp_path, line):
    (tmp_path / "q").write_text(f"q1 0 d1 1\n{line}\n")
    with pytest.raises(UserError) as error:
        read_qrels(tmp_path / "q")
    assert str(error.value) == f"{tmp_path}/q, line 2: {line!r} is not `qid 0 docid relevance`. Correct it."


def test_files_that_are_no_qrels_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data.qrels: there is no file .*absent"):
        read_qrels(tmp_path / "absent")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError, match="empty is empty"):
        read_qrels(tmp_path / "empty")
    (tmp_path / "latin").write_bytes(b"q1 0 d\xe9 1\n")
    with pytest.raises(UserError, match="latin, line 1"):
        read_qrels(tmp_path / "latin")
