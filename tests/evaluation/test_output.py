"""What an evaluation writes is what is read back, whatever the text."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import write_jsonl

from dpr_lightning.data.sources import Source, open_training
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.output import read_metrics, read_questions, write_dpr_json, write_metrics, write_questions
from dpr_lightning.retrieval.rankings import Ranking, read_rankings, write_rankings

TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\u2028\u2029\x85\x0b\x0c\r\n\x1c\ufeff\0"\\')
)
WORDS = TEXT.filter(str.strip)
QUESTIONS = st.lists(
    st.tuples(TEXT.filter(bool), WORDS, st.lists(WORDS, max_size=2)), min_size=1, max_size=4, unique_by=lambda q: q[0]
)


@settings(deadline=None, max_examples=150)
@given(questions=QUESTIONS, docid=TEXT, title=TEXT, text=TEXT)
def test_questions_of_any_text_read_back(tmp_path_factory, questions, docid, title, text):
    folder = tmp_path_factory.getbasetemp()
    rows = [{"query_id": qid, "query": query, "answers": answers} for qid, query, answers in questions]
    queries, first = Source(rows, "", 0), rows[0]["query_id"]
    rankings = {first: Ranking(first, [docid], np.array([0.1], np.float32))}
    first_hits = np.array([1] + [0] * (len(rows) - 1))
    write_questions(folder, queries, rankings, first_hits)
    assert read_questions(folder) == [
        {
            "qid": qid,
            "question": query,
            "answers": answers,
            "first_hit": None if i else 1,
            "docid": None if i else docid,
        }
        for i, (qid, query, answers) in enumerate(questions)
    ]
    write_dpr_json(folder, queries, rankings, {docid: (title, text)}, [[True]] + [[]] * (len(rows) - 1))
    entries = json.loads((folder / "dpr.json").read_text(encoding="utf-8"))
    assert list(entries) == [qid for qid, _, _ in questions]
    assert [(entry["question"], entry["answers"]) for entry in entries.values()] == [q[1:] for q in questions]
    (context,) = entries[first]["contexts"]
    expected = "\n".join(part.replace("\n", " ") for part in (title, text))
    assert context == {"docid": docid, "score": "0.1", "text": expected, "has_answer": True}


@settings(deadline=None, max_examples=50)
@given(name=TEXT)
def test_metrics_of_any_text_read_back(tmp_path_factory, name):
    metrics = {"accuracy": {"5": 0.25}, "run_file": name, "invalid_answers": {"count": 1, "first": [name]}}
    folder = tmp_path_factory.getbasetemp()
    for file in ("questions.jsonl", "dpr.json"):
        (folder / file).write_text(name, encoding="utf-8")
    write_metrics(folder, metrics)
    assert {**read_metrics(folder), "xxh3": None} == {**metrics, "xxh3": None}


@settings(deadline=None, max_examples=150)
@given(qid=TEXT, docid=TEXT, format=st.sampled_from(["trec", "text"]))
def test_rankings_of_any_ids_read_back_or_are_refused(tmp_path_factory, qid, docid, format):
    file = tmp_path_factory.getbasetemp() / "any-ids"
    try:
        write_rankings(file, [Ranking(qid, [docid], np.array([1], np.float32))], format=format)
    except UserError:
        assert not (qid.isalnum() and docid.isalnum())
        return
    (read,) = read_rankings(file)
    assert (read.qid, read.docids) == (qid, [docid])


@settings(deadline=None, max_examples=25)
@given(rows=QUESTIONS, docid=TEXT.filter(bool), title=TEXT, text=TEXT, name=st.sampled_from(["a.jsonl", "a.jsonl.gz"]))
def test_training_files_of_any_text_read_back(tmp_path_factory, rows, docid, title, text, name):
    passage = {"docid": docid, "title": title, "text": text}
    lines = [
        {"query_id": q, "query": query, "answers": a, "positive_passages": [passage], "negative_passages": []}
        for q, query, a in rows
    ]
    file = write_jsonl(tmp_path_factory.mktemp("mined") / name, lines)
    for written, read in zip(lines, open_training(str(file)).rows, strict=True):
        assert [read[key] for key in ("query_id", "query", "answers")] == list(written.values())[:3]
        assert read["positives"] == [{**passage, "score": None}]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"qid": "q0"}', '{"qid": 7, "first_hit": 1}', '{"qid": "q", "first_hit": "1"}']
)
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "questions.jsonl").write_text(f'{{"qid": "a", "first_hit": 1}}\n{line}\n')
    with pytest.raises(UserError, match=r"questions.jsonl, line 2: damaged"):
        read_questions(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"accuracy": {"five": 1}}', '{"accuracy": {"5": "x"}}'])
def test_damaged_metrics_are_refused(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"metrics.json: damaged .* Run evaluate.py again"):
        read_metrics(tmp_path)
