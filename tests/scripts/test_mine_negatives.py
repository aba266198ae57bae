"""Mined training files: positives stay, negatives are the best-ranked passages without an answer."""

import json

import pytest
from support.commands import assert_mistake, assert_succeeds, run_script
from support.world import write_jsonl

from dpr_lightning.data.sources import open_training

CORPUS = [
    {"docid": "p0", "title": "Darwin", "text": "He wrote the Origin."},
    {"docid": "p1", "title": "Origin", "text": "A book by Charles Darwin."},
    {"docid": "p2", "title": "Charles Darwin", "text": "He sailed."},
    {"docid": "p3", "title": "Wallace", "text": "Another naturalist."},
    {"docid": "p4", "title": "Lyell", "text": "A geologist, born 1797."},
    {"docid": "copy", "title": "Copy", "text": "He wrote the Origin."},
]
ROWS = [
    {"query_id": "q0", "query": "who", "answers": ["charles darwin"], "positive_passages": [CORPUS[0]]},
    {"query_id": "q1", "query": "when", "answers": ["1797"], "positive_passages": [CORPUS[4]]},
    {"query_id": "q2", "query": "unsearched", "answers": ["x"], "positive_passages": [CORPUS[4]]},
]
RANKING = {"q0": ["p0", "copy", "p1", "p2", "p3", "p4"], "q1": ["p4"]}


@pytest.fixture
def mine(tmp_path):
    """Runs the script on these rows; gives its result, and the rows it wrote through `mine.written()`."""

    def run(*options, rows=ROWS, ranking=RANKING, name="mined.jsonl.gz"):
        rows = [{"negative_passages": [CORPUS[2]], **row} for row in rows]
        train = write_jsonl(tmp_path / "train.jsonl.gz", rows)
        corpus = write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
        lines = [f"{qid}\t{docid}\t{9 - i}\n" for qid, docids in ranking.items() for i, docid in enumerate(docids)]
        (tmp_path / "train.txt").write_text("".join(lines))
        run.out = tmp_path / name
        arguments = [tmp_path / "train.txt", "--train", train, "--corpus", corpus, "--out", run.out]
        return run_script("mine_negatives", *arguments, *options)

    def written():
        rows = open_training(str(run.out)).rows
        return {row["query_id"]: [passage["docid"] for passage in row["negatives"]] for row in rows}

    run.written = written
    return run


def test_negatives_are_not_positives_or_copies_and_have_no_answer(mine):
    out = assert_succeeds(mine())
    assert mine.written() == {"q0": ["p2", "p3", "p4"]}
    line = f"{mine.out}: 1 questions with 3 negatives (3.0 each), 2 dropped for lack of negatives"
    assert out == f"{line}\n"


@pytest.mark.parametrize(
    ("options", "negatives"),
    [
        (["--keep-answers"], ["p1", "p2", "p3", "p4"]),
        (["--match-title"], ["p3", "p4"]),
        (["--depth", "5"], ["p2", "p3"]),
        (["--negatives", "1"], ["p2"]),
        (["--keep-answers", "--negatives", "2", "--depth", "3"], ["p1"]),
    ],
)
def test_options_choose_the_negatives(mine, options, negatives):
    assert_succeeds(mine(*options))
    assert mine.written() == {"q0": negatives}


def test_answers_may_be_regular_expressions(mine):
    rows = [{**ROWS[0], "answers": [r"born \d{4}", "nat.*list"]}]
    assert_succeeds(mine("--answers", "regex", rows=rows, ranking={"q0": RANKING["q0"]}))
    assert mine.written() == {"q0": ["p1", "p2"]}
    assert "answer '(' of question q0 is not a regular expression" in assert_mistake(
        mine("--answers", "regex", "--overwrite", rows=[{**ROWS[0], "answers": ["("]}], ranking={"q0": ["p1"]})
    )


def test_questions_and_positives_stay_and_the_bytes_repeat(mine):
    rows = [{**ROWS[0], "query": "wér?", "positive_passages": [CORPUS[0], CORPUS[3]]}]
    ranking = {"q0": RANKING["q0"]}
    assert_succeeds(mine(rows=rows, ranking=ranking, name="mined.jsonl"))
    (row,) = map(json.loads, mine.out.read_text(encoding="utf-8").splitlines())
    assert row == {**rows[0], "negative_passages": [CORPUS[2], CORPUS[4]]}
    assert_succeeds(mine(rows=rows, ranking=ranking, name="a.jsonl.gz"))
    first = mine.out.read_bytes()
    assert_succeeds(mine("--overwrite", rows=rows, ranking=ranking, name="a.jsonl.gz"))
    assert mine.out.read_bytes() == first


def test_a_depth_beyond_the_rankings_is_reported(mine):
    ranking = {"q0": RANKING["q0"][:4], "q1": ["p3"]}
    assert assert_succeeds(mine(ranking=ranking)).endswith(
        "dropped for lack of negatives; rankings end after 4, not 100\n"
    )
    assert "rankings end" not in assert_succeeds(mine("--depth", "4", "--overwrite", ranking=ranking))
    assert "rankings end" not in assert_succeeds(mine("--overwrite"))


def test_mistakes_are_refused_and_nothing_is_written(mine):
    bare = [{**ROWS[0], "answers": []}]
    for options, changes, message in (
        ([], {"rows": bare, "ranking": {"q0": ["p1"]}}, "question q0 has no answers. Add them, or give --keep-answers"),
        ([], {"ranking": {"q9": ["p1"]}}, "train.txt: question q9 (the first of 1) is not in --train"),
        ([], {"ranking": {"q0": ["p9"]}}, "train.txt: passage p9 (the first of 1) is not in"),
        ([], {"ranking": {"q1": ["p4"]}}, "train.txt: no question got a negative"),
        (["--depth", "0"], {}, "--depth: 0 is not a whole number of at least 1"),
        (["--negatives", "0"], {}, "--negatives: 0 is not a whole number of at least 1"),
        ([], {"name": "mined.csv"}, "mined.csv does not end in .jsonl or .jsonl.gz"),
    ):
        assert message in assert_mistake(mine(*options, **changes))
        assert not mine.out.exists()
    assert_succeeds(mine("--keep-answers", rows=bare, ranking={"q0": ["p1"]}))
    assert "Give --overwrite, or another name" in assert_mistake(mine())


def test_a_positive_with_another_text_in_the_corpus_is_not_mined(mine):
    rows = [{**ROWS[0], "positive_passages": [{**CORPUS[3], "text": "One more naturalist."}]}]
    assert_succeeds(mine(rows=rows, ranking={"q0": ["p3", "p4"]}))
    assert mine.written() == {"q0": ["p4"]}
