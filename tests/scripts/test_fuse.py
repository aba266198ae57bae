"""fuse.py: rankings are fused as the hybrid retriever does, and the weight with the best reciprocal rank is named."""

import pytest
from support.commands import assert_mistake, assert_succeeds, run_script
from support.world import passage, question, write_jsonl

DENSE = "q0 Q0 d1 1 2.0 a\nq0 Q0 d0 2 1.5 a\nq0 Q0 d4 3 0 a\nq3 Q0 d3 1 2.0 a\nq3 Q0 d2 2 1.0 a\n"
SPARSE = "q0 Q0 d0 1 9 b\nq0 Q0 d2 2 1 b\nq3 Q0 d5 1 4 b\nq3 Q0 d9 2 1 b\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "dense.trec").write_text(DENSE)
    (tmp_path / "sparse.trec").write_text(SPARSE)
    (tmp_path / "qrels").write_text("q0 0 d0 1\nq3 0 d3 2\nq3 0 d5 0\n")
    write_jsonl(tmp_path / "corpus.jsonl", [passage(i) for i in range(10)])
    write_jsonl(tmp_path / "queries.jsonl", [question(0), question(3)])
    return tmp_path


def test_rankings_are_fused_with_their_weights(files):
    rankings, out = [files / "dense.trec", files / "sparse.trec"], files / "fused.trec"
    printed = assert_succeeds(run_script("fuse", *rankings, "--out", out, "--weights", 0.5, 0.5, "--depth", 2))
    assert printed == f"{out}: 2 queries fused from 2 rankings\n"
    lines = [line.split() for line in out.read_text().splitlines()]
    assert [(line[0], line[2], float(line[4])) for line in lines] == [
        ("q0", "d0", 0.875),
        ("q0", "d1", 0.5),
        ("q3", "d3", 0.5),
        ("q3", "d5", 0.5),
    ]
    assert "Give --overwrite, or another name" in assert_mistake(run_script("fuse", *rankings, "--out", out))
    assert_succeeds(run_script("fuse", *rankings, rankings[0], "--out", out, "--fusion", "rrf", "--overwrite"))
    assert out.read_text().split()[2] == "d0"


@pytest.mark.parametrize("judged", [True, False])
def test_tuning_names_the_weight_with_the_best_reciprocal_rank(files, judged):
    """Dense search alone has the first hits at ranks 2 and 1, BM25 alone at 1 and 3; some mixtures at 1 and 1."""
    source = ["--qrels", files / "qrels"] if judged else ["--corpus", files / "corpus.jsonl"]
    words = ["--tune", "--queries", files / "queries.jsonl", *source]
    out = assert_succeeds(run_script("fuse", files / "dense.trec", files / "sparse.trec", *words))
    rows = {line.split()[1]: line.split()[-2] for line in out.splitlines() if line.startswith("│")}
    assert (rows["0.00"], rows["1.00"]) == ("0.667", "0.750")
    assert rows["0.55"] == "1.000"
    assert "best: --weights 0.5 0.5, or hybrid.weight=0.5" in out


def test_mistakes_are_refused_in_one_line(files):
    dense, sparse, queries = files / "dense.trec", files / "sparse.trec", files / "queries.jsonl"
    other = files / "other.trec"
    other.write_text("q7 Q0 d1 1 1 x\n")
    (files / "none").write_text("q9 0 d0 1\n")
    for words, message in (
        ([dense, "--out", files / "x"], "--weights: give at least two rankings"),
        ([dense, sparse, "--weights", 1, "--out", files / "x"], "--weights: give at least two rankings"),
        ([dense, sparse, "--weights", 1, "nan", "--out", files / "x"], "--weights: give at least two rankings"),
        ([dense, sparse], "--out: is missing"),
        ([dense, sparse, "--tune", "--queries", queries], "--tune: give two rankings, --queries, and"),
        ([dense, sparse, "--depth", 0, "--out", files / "x"], "--depth: 0 is not a whole number of at least 1"),
        ([dense, other, "--out", files / "x"], "the rankings have different queries: q0 (the first of 3)"),
        ([dense, sparse, "--tune", "--queries", queries, "--qrels", files / "none"], "no question has a passage"),
    ):
        assert assert_mistake(run_script("fuse", *words)).startswith(message)
