"""Conversion between ranking formats keeps queries, order and scores."""

import pytest
from support.commands import assert_mistake, assert_succeeds, run_script

TREC = "q2 Q0 d1 1 1.5 bm25\nq2 Q0 d2 2 0.1 bm25\nq1 Q0 d3 1 -7.25 bm25\n"
TEXT = "q2\td1\t1.5\nq2\td2\t0.1\nq1\td3\t-7.25\n"
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
        (MSMARCO, "text", ["--from-msmarco"], "q2\td1\t1.0\nq2\td2\t0.5\nq1\td3\t1.0\n"),
    ],
)
def test_each_format_converts_to_each_other(tmp_path, source, to, options, expected):
    (tmp_path / "in").write_text(source)
    out = assert_succeeds(run_script("convert_run", tmp_path / "in", tmp_path / "out", "--to", to, *options))
    assert out == f"{tmp_path / 'out'}: 2 queries as {to}\n"
    assert (tmp_path / "out").read_text() == expected


def test_the_order_of_thousands_of_ranks_is_kept(tmp_path):
    lines = [f"q\td{rank}\t{rank}\n" for rank in range(1, 5001)]
    (tmp_path / "in").write_text("".join(reversed(lines)))
    assert_succeeds(run_script("convert_run", tmp_path / "in", tmp_path / "a", "--to", "trec", "--from-msmarco"))
    assert_succeeds(run_script("convert_run", tmp_path / "a", tmp_path / "b", "--to", "msmarco"))
    assert (tmp_path / "b").read_text() == "".join(lines)


def test_mistakes_are_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "in").write_text("q\td\t0\n")
    (tmp_path / "there").write_text("kept")
    out = tmp_path / "out"
    assert "has rank 0, but ranks start at 1" in assert_mistake(
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
