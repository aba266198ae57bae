"""Rankings keep queries, order and scores on the way from one form into another."""

import json

import pytest
from support.commands import assert_mistake, assert_succeeds, run_script
from support.world import write_jsonl

TREC = "q2 Q0 d1 1 1.5 bm25\nq2 Q0 d2 2 0.1 bm25\nq1 Q0 d3 1 -7.25 bm25\n"
TEXT = "q2\td1\t1.5\nq2\td2\t0.1\nq1\td3\t-7.25\n"
FAIR = json.dumps(
    [
        {"question": "b", "ctxs": [{"id": "d1", "score": 1.5}, {"id": "d2", "score": 0.1}]},
        {"question": "a", "ctxs": [{"id": "d3", "score": -7.25}]},
    ]
)
MSMARCO = "q2\td1\t1\nq2\td2\t2\nq1\td3\t1\n"


@pytest.mark.parametrize(
    ("source", "to", "options", "expected"),
    [
        (TREC, "text", [], TEXT),
        (TREC, "msmarco", [], MSMARCO),
        (TREC, "trec", ["--tag", "mine"], TREC.replace("bm25", "mine")),
        (TEXT, "msmarco", [], MSMARCO),
        (TEXT, "trec", ["--tag", "bm25"], TREC),
        (TEXT, "trec", [], TREC.replace("bm25", "-")),
        (MSMARCO, "msmarco", ["--from-msmarco"], MSMARCO),
        (MSMARCO, "text", [], "q2\td1\t1.0\nq2\td2\t0.5\nq1\td3\t1.0\n"),
        (TEXT, "text", ["--from", "text"], TEXT),
        (FAIR, "text", [], TEXT.replace("q2", "0").replace("q1", "1")),
        (FAIR, "trec", ["--queries", "QUERIES", "--tag", "bm25"], TREC),
        (MSMARCO, "text", ["--from-msmarco"], "q2\td1\t1.0\nq2\td2\t0.5\nq1\td3\t1.0\n"),
    ],
)
def test_each_form_becomes_each_other(tmp_path, source, to, options, expected):
    (tmp_path / "in").write_text(source)
    rows = [{"query_id": "q1", "query": "a"}, {"query_id": "q2", "query": "b"}]
    queries = write_jsonl(tmp_path / "queries.jsonl", rows)
    options = [str(queries) if option == "QUERIES" else option for option in options]
    out = assert_succeeds(run_script("convert_run", tmp_path / "in", tmp_path / "out", "--to", to, *options))
    assert out == f"{tmp_path / 'out'}: 2 queries as {to}\n"
    assert (tmp_path / "out").read_text() == expected
    again, out = tmp_path / "again", tmp_path / "out"
    assert_succeeds(run_script("convert_run", out, again, "--to", to))
    assert again.read_text() == expected


def test_the_order_of_thousands_of_ranks_survives(tmp_path):
    lines = [f"q\td{rank}\t{rank}\n" for rank in range(1, 5001)]
    (tmp_path / "in").write_text("".join(reversed(lines)))
    assert_succeeds(run_script("convert_run", tmp_path / "in", tmp_path / "a", "--to", "trec", "--from-msmarco"))
    assert_succeeds(run_script("convert_run", tmp_path / "a", tmp_path / "b", "--to", "msmarco"))
    assert (tmp_path / "b").read_text() == "".join(lines)


def test_mistakes_are_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "in").write_text("q\td\t0\n")
    (tmp_path / "there").write_text("kept")
    out = tmp_path / "out"
    assert "line 1: 'q\\td\\t0' is not MS MARCO `qid docid rank` with a rank of at least 1" in assert_mistake(
        run_script("convert_run", tmp_path / "in", out, "--to", "trec", "--from-msmarco")
    )
    assert "--tag: 'a b' contains white space" in assert_mistake(
        run_script("convert_run", tmp_path / "in", out, "--to", "trec", "--tag", "a b")
    )
    assert "Give --overwrite" in assert_mistake(
        run_script("convert_run", tmp_path / "in", tmp_path / "there", "--to", "trec")
    )
    assert (tmp_path / "there").read_text() == "kept"
    assert not out.exists()
    assert_succeeds(run_script("convert_run", tmp_path / "in", tmp_path / "there", "--to", "trec", "--overwrite"))
    assert (tmp_path / "there").read_text() == "q Q0 d 1 0.0 -\n"
