"""The evaluation stage on a world of six passages: what counts, what is written, what is refused."""

import json
import re
import unicodedata

import numpy as np
import pytest
from support.world import SHARED, write_jsonl

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.stage import evaluate, read_first_hits

PASSAGES = [
    {"docid": "d0", "title": "Paris", "text": "The capital of France."},
    {"docid": "d1", "title": "Lyon", "text": "A city, not Paris,\nbut \u201cclose\u201d."},
    {"docid": "d2", "title": "", "text": "Beyonce\u0301 was born in 1981."},
    {"docid": "d 3", "title": "Numbers", "text": "Forty-two, 42."},
    {"docid": "d4", "title": "Two\nlines", "text": "Nothing."},
    {"docid": "d5", "title": "Rome", "text": "ROME."},
]
QUESTIONS = [
    {"query_id": "q0", "query": "what is close", "answers": ["Paris"]},
    {"query_id": "7", "query": 'who said "hi" \\ é', "answers": ["nobody", "Beyoncé"]},
    {"query_id": "q2", "query": "how many", "answers": ["42", "forty-two"]},
    {"query_id": "q3", "query": "where", "answers": ["Rome"]},
    {"query_id": "q4", "query": "not searched", "answers": ["Rome"]},
]
RUN = {
    "q3": ["d0", "d1", "d2", "d 3", "d4", "d5"],
    "q0": ["d0", "d4", "d1"],
    "7": ["d2", "d0"],
    "q2": ["d0", "d1", "d5"],
}


@pytest.fixture
def run(tmp_path):
    """Evaluates the world; keyword arguments change a part of it. Gives metrics and the folder."""

    def evaluated(*, questions=QUESTIONS, ranking=RUN, passages=PASSAGES, **options):
        lines = [f"{qid}\t{docid}\t{9 - i}.5\n" for qid, docids in ranking.items() for i, docid in enumerate(docids)]
        (tmp_path / "run.txt").write_text("".join(lines))
        queries = open_queries(str(write_jsonl(tmp_path / "questions.jsonl", questions)))
        corpus = open_corpus(str(write_jsonl(tmp_path / "corpus.jsonl", passages)))
        options = {"topk": [1, 3, 5], **options}
        evaluation = evaluate(tmp_path / "run.txt", queries, corpus, tmp_path / "evaluation", **options)
        return evaluation.metrics, tmp_path / "evaluation"

    return evaluated


def first_hits(folder):
    return dict(zip(*read_first_hits(folder), strict=True))


def test_accuracy_counts_every_question_and_searches_the_text_only(run):
    metrics, folder = run()
    assert first_hits(folder) == {"q0": 3, "7": 1, "q2": 0, "q3": 0, "q4": 0}
    assert metrics["accuracy"] == {"1": 0.2, "3": 0.4, "5": 0.4}
    assert (metrics["questions"], metrics["missing"]) == (5, 1)
    assert metrics == json.loads((folder / "metrics.json").read_text())
    for k, (low, high) in metrics["interval"].items():
        assert 0 <= low <= metrics["accuracy"][k] <= high <= 1


def test_passages_beyond_the_last_cutoff_do_not_count(run):
    metrics, folder = run(topk=[6])
    assert metrics["accuracy"] == {"6": 0.6}
    assert first_hits(folder)["q3"] == 6
    assert run(topk=[5], overwrite=True)[0]["accuracy"] == {"5": 0.4}


def test_titles_are_searched_when_asked_for(run):
    metrics, folder = run(match_title=True)
    assert first_hits(folder)["q0"] == 1
    assert metrics["match_title"] is True


def test_regular_expressions_are_searched_when_asked_for(run):
    questions = [{**question, "answers": [r"c\w+e of fr", r"CAPITAL\b"]} for question in QUESTIONS]
    _, folder = run(questions=questions, answers="regex")
    assert first_hits(folder) == {"q0": 1, "7": 2, "q2": 1, "q3": 1, "q4": 0}
    questions[2]["answers"] = ["(open"]
    with pytest.raises(UserError, match=r"answer '\(open' of question q2 is no regular expression"):
        run(questions=questions, answers="regex", overwrite=True)


def test_a_line_per_question_tells_its_first_hit(run):
    _, folder = run()
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    assert [row["qid"] for row in rows] == ["q0", "7", "q2", "q3", "q4"]
    assert rows[0] == {"qid": "q0", "question": "what is close", "answers": ["Paris"], "first_hit": 3, "docid": "d1"}
    assert (rows[2]["first_hit"], rows[2]["docid"]) == (None, None)


def dpr_accuracy(file, topk):
    """What Pyserini's program reports: the share of the file's questions with a hit among the first k contexts.

    As in tevatron.md, section 9: the stored `has_answer`, and, as the program's early versions, the rule applied to
    the second line of `text`; they must agree.
    """

    def tokens(text):
        return re.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFD", text).lower())

    entries = json.loads(file.read_text())
    hits = dict.fromkeys(topk, 0)
    for entry in entries.values():
        assert set(entry) == {"question", "answers", "contexts"}
        stored, again = [], []
        for context in entry["contexts"]:
            assert set(context) == {"docid", "score", "text", "has_answer"}
            assert float(context["score"]) >= 0
            _, text = context["text"].split("\n")
            words = tokens(text)
            stored.append(context["has_answer"])
            again.append(
                any(
                    words[i : i + len(tokens(answer))] == tokens(answer)
                    for answer in entry["answers"]
                    for i in range(len(words))
                )
            )
        assert stored == again
        for k in topk:
            hits[k] += any(stored[:k])
    return {str(k): hits[k] / len(entries) for k in topk}


def test_the_dpr_json_evaluates_to_our_metrics(run):
    metrics, folder = run(topk=[1, 2, 3, 5, 6])
    assert dpr_accuracy(folder / "dpr.json", [1, 2, 3, 5, 6]) == metrics["accuracy"]
    entries = json.loads((folder / "dpr.json").read_text())
    assert list(entries) == ["q0", "7", "q2", "q3", "q4"]
    assert entries["7"]["question"] == QUESTIONS[1]["query"]
    assert entries["q4"]["contexts"] == []
    contexts = entries["q3"]["contexts"]
    assert [context["docid"] for context in contexts] == RUN["q3"]
    assert [context["score"] for context in contexts] == ["9.5", "8.5", "7.5", "6.5", "5.5", "4.5"]
    assert contexts[0]["text"] == "Paris\nThe capital of France."
    assert contexts[4]["text"] == "Two lines\nNothing."


def test_qrels_are_measured_beside_answers(run, tmp_path):
    (tmp_path / "qrels").write_text("q0 0 d4 1\n7 0 d2 1\nq4 0 d5 1\nother 0 d1 1\n")
    metrics, _ = run(qrels_file=tmp_path / "qrels")
    assert metrics["qrels"]["Success@1"] == pytest.approx(1 / 3)
    assert metrics["qrels"]["RR"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert metrics["accuracy"]["3"] == 0.4


def test_questions_without_answers_are_measured_by_qrels_alone(run, tmp_path):
    bare = [{"query_id": question["query_id"], "query": question["query"]} for question in QUESTIONS]
    with pytest.raises(UserError, match=r"data.queries: question q0 \(5 in all\) has no answers"):
        run(questions=bare)
    (tmp_path / "qrels").write_text("q0 0 d4 1\n")
    metrics, folder = run(questions=bare, qrels_file=tmp_path / "qrels")
    assert metrics["accuracy"] == metrics["interval"] == {}
    assert metrics["qrels"]["RR"] == 0.5
    assert set(first_hits(folder).values()) == {0}
    with pytest.raises(UserError, match=r"question 7 \(1 in all\) has no answers"):
        some = [QUESTIONS[0], bare[1], *QUESTIONS[2:]]
        run(questions=some, qrels_file=tmp_path / "qrels", overwrite=True)


def test_a_ranking_of_other_questions_or_passages_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"run.txt: question q9 \(2 in all\) is not in data.queries"):
        run(ranking={**RUN, "q9": ["d0"], "q8": ["d0"]})
    with pytest.raises(UserError, match=r"run.txt: passage d9 \(1 in all\) is not in data.corpus"):
        run(ranking={**RUN, "q4": ["d0", "d9"]})
    assert not (tmp_path / "evaluation").exists()
    run(ranking={**RUN, "q4": ["d0", "d9"]}, topk=[1])  # which looks no deeper


def test_settings_that_are_not_possible_are_refused(run):
    for topk, message in (
        ([], r"topk: \[\] is no list of cutoffs"),
        (5, "topk: 5 is no list of cutoffs"),
        ([1, 0], "topk: 0 is not a whole number of at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            run(topk=topk)
    with pytest.raises(UserError, match=r"data.answers: 'exact' is not possible"):
        run(answers="exact")


def test_finished_output_is_replaced_only_on_demand(run):
    _, folder = run()
    before = (folder / "questions.jsonl").read_bytes()
    with pytest.raises(UserError, match="evaluation is finished already"):
        run(match_title=True)
    assert (folder / "questions.jsonl").read_bytes() == before
    run(match_title=True, overwrite=True)
    assert (folder / "questions.jsonl").read_bytes() != before


def test_first_hits_of_a_folder_without_evaluation_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"questions.jsonl is not there. Run evaluate.py"):
        read_first_hits(tmp_path)


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="nq-mini is not there")
def test_the_gold_passages_of_nq_mini_hold_their_answers(tmp_path):
    """A ranking of every question's gold passage alone: qrels are all met, and nearly all hold the answer."""
    gold = dict(line.split()[0:3:2] for line in (SHARED / "test.qrels").read_text().splitlines())
    (tmp_path / "run.trec").write_text("".join(f"{qid} Q0 {docid} 1 1.0 gold\n" for qid, docid in gold.items()))
    queries, corpus = open_queries(str(SHARED / "test.jsonl.gz")), open_corpus(str(SHARED / "corpus.jsonl.gz"))
    options = {"topk": [1], "qrels_file": SHARED / "test.qrels"}
    evaluation = evaluate(tmp_path / "run.trec", queries, corpus, tmp_path / "evaluation", **options)
    assert evaluation.metrics["qrels"]["Success@1"] == evaluation.metrics["qrels"]["nDCG@10"] == 1
    assert evaluation.metrics["accuracy"]["1"] > 0.95
    _, found = read_first_hits(tmp_path / "evaluation")
    assert np.mean(found == 1) == evaluation.metrics["accuracy"]["1"]
