"""Mined training files: positives stay, negatives are ranked passages that no filter drops."""

import json

import pytest
import torch
from support.commands import assert_mistake, assert_succeeds, run_script
from support.world import write_jsonl
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from dpr_lightning.data.sources import open_training
from dpr_lightning.evaluation.mining import Margin
from dpr_lightning.model.cross_encoder import CrossEncoder

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
    assert out.splitlines() == [
        f"{mine.out}: 1 questions with 3 negatives (3.0 each), 1 without negatives",
        "passages dropped at ranks 1 to 100: 3 positives or copies of one, 1 with an answer",
    ]


@pytest.mark.parametrize(
    ("options", "negatives"),
    [
        (["--keep-answers"], ["p1", "p2", "p3", "p4"]),
        (["--match-title"], ["p3", "p4"]),
        (["--depth", "5"], ["p2", "p3"]),
        (["--ranks", "5:6"], ["p3", "p4"]),
        (["--margin", "3"], ["p2", "p3", "p4"]),  # the ranking has scores 9, 8, 7, …, and 9 is the positive's
        (["--margin", "3.5"], ["p3", "p4"]),
        (["--share", "0.5"], ["p4"]),
        (["--share", "0.56", "--margin", "3"], ["p3", "p4"]),
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
    assert assert_succeeds(mine(ranking=ranking)).endswith("\nrankings end after 4, not 100\n")
    assert "rankings end" not in assert_succeeds(mine("--depth", "4", "--overwrite", ranking=ranking))
    assert "rankings end" not in assert_succeeds(mine("--overwrite"))


def test_mistakes_are_refused_and_nothing_is_written(mine):
    bare = [{**ROWS[0], "answers": []}]
    for options, changes, message in (
        ([], {"rows": bare, "ranking": {"q0": ["p1"]}}, "question q0 has no answers. Add them, or give --keep-answers"),
        ([], {"ranking": {"q9": ["p1"]}}, "train.txt: question q9 is not in --train"),
        ([], {"ranking": {"q0": ["p9"]}}, "train.txt: passage p9 (the first of 1) is not in"),
        ([], {"ranking": {"q1": ["p4"]}}, "train.txt: no question got a negative"),
        (["--depth", "0"], {}, "--depth: 0 is not a whole number of at least 1"),
        (["--negatives", "0"], {}, "--negatives: 0 is not a whole number of at least 1"),
        (["--ranks", "10:9"], {}, "--ranks: 10:9 is not FIRST:LAST"),
        (["--share", "1.1"], {}, "--share: 1.1 is not above 0 and at most 1"),
        (["--margin", "-1"], {}, "--margin: -1.0 is not a number of at least 0"),
        (["--qrels", "absent"], {}, "qrels: there is no file absent"),
        (["--share", "0.01"], {}, "train.txt: no question got a negative"),
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


def test_judged_passages_are_not_mined_unless_irrelevant(mine, tmp_path):
    (tmp_path / "qrels").write_text("q0 0 p2 1\nq0 0 p3 0\nq1 0 p4 1\n")
    out = assert_succeeds(mine("--qrels", tmp_path / "qrels", "--keep-answers"))
    assert mine.written() == {"q0": ["p1", "p3", "p4"]}
    assert "3 positives or copies of one, 1 judged relevant\n" in out


def test_the_margin_drops_all_passages_above_a_positive_that_is_not_ranked(mine):
    ranking = {"q0": RANKING["q0"], "q1": ["p2", "p3"]}
    assert_succeeds(mine(ranking=ranking, name="all.jsonl"))
    assert mine.written() == {"q0": ["p2", "p3", "p4"], "q1": ["p2", "p3"]}
    out = assert_succeeds(mine("--margin", "0", "--keep-questions", ranking=ranking))
    assert mine.written() == {"q0": ["p2", "p3", "p4"], "q1": []}
    assert "1 with an answer, 2 too close to the positive's score\n" in out
    assert "\n1 questions lose all passages to the margin: no positive is ranked\n" in out


def test_the_highest_positive_counts_and_limits_lie_below_negative_scores():
    assert Margin(share=0.95).limit(-2.0) == pytest.approx(-2.1)
    assert Margin(share=0.95, distance=0.5).limit(2.0) == 1.5
    assert Margin().limit(1.0) == float("inf")


@pytest.fixture(scope="module")
def teacher(tiny_model, tmp_path_factory):
    """The folder of a tiny random cross-encoder."""
    folder = tmp_path_factory.mktemp("teacher")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(tiny_model, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_teacher_gives_scores_to_all_passages_and_the_margin_compares_them(mine, teacher):
    rows = [{**ROWS[0], "positive_passages": [CORPUS[0], CORPUS[3]]}]
    ranking = {"q0": RANKING["q0"]}
    assert_succeeds(mine("--teacher", teacher, "--keep-answers", rows=rows, ranking=ranking, name="all.jsonl"))
    (row,) = map(json.loads, mine.out.read_text().splitlines())
    expected = CrossEncoder(str(teacher), batch_size=1).score("who", [CORPUS[i] for i in (0, 3, 1, 2, 4)])
    assert [passage["docid"] for passage in row["negative_passages"]] == ["p1", "p2", "p4"]
    assert row["scores"] == pytest.approx(expected, abs=1e-6)
    assert len(set(row["scores"])) > 3

    positive, scored = max(row["scores"][:2]), dict(zip(["p1", "p2", "p4"], row["scores"][2:], strict=True))
    nearest, *_, farthest = sorted(positive - score for score in scored.values())
    margin = (max(nearest, 0) + farthest) / 2
    options = ["--teacher", teacher, "--keep-answers", "--negatives", "1", "--margin", margin]
    assert_succeeds(mine(*options, rows=rows, ranking=ranking))
    assert mine.written() == {"q0": [next(n for n, score in scored.items() if positive - score > margin)]}


def test_models_that_are_no_cross_encoders_are_refused(mine, tiny_model):
    assert "has 2 outputs. Choose a cross-encoder" in assert_mistake(mine("--teacher", tiny_model))
    assert assert_mistake(mine("--teacher", "absent/model")).startswith("--teacher: absent/model is not a folder")
