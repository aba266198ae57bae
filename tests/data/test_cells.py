"""Lists in the cells of tables, the ids of questions, and messages about both in terms of the user's columns."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import passage, write_jsonl

from dpr_lightning.data.cells import with_lists
from dpr_lightning.data.sources import open_corpus, open_queries, open_training
from dpr_lightning.errors import UserError

QUERY_HEADERS = [
    (id_, question, answers)
    for id_, question in (("query_id", "query"), ("query_id", "query_text"), ("id", "question"), ("qid", "question"))
    for answers in ("answers", "answer")
    if (question, answers) != ("query", "answer")  # a layout without `answer`
]
TABLES = [("q.csv", ","), ("q.tsv", "\t")]
CELLS = [
    ("Lisbon", ["Lisbon"]),
    (" Lisbon ", ["Lisbon"]),
    ("010", ["010"]),
    ('["Addis Ababa"]', ["Addis Ababa"]),
    (' ["a", "b\\/c", "\\ud83d\\ude00"] ', ["a", "b/c", "😀"]),
    ("['its', \"it's\"]", ["its", "it's"]),
    ("[]", []),
    ("", []),
    ("[sic] a", ["[sic] a"]),
]


def table(path, header, *rows, delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    path.write_text(out.getvalue())
    return str(path)


def message_of(opening, *args, **options):
    with pytest.raises(UserError) as caught:
        opening(*args, **options)
    return str(caught.value)


@pytest.mark.parametrize(("name", "delimiter"), TABLES)
@pytest.mark.parametrize("header", QUERY_HEADERS)
def test_answers_of_every_table_are_lists_or_single_cells(tmp_path, name, delimiter, header):
    rows = [(f"q{i}", "who", cell) for i, (cell, _) in enumerate(CELLS)]
    source = open_queries(table(tmp_path / name, header, *rows, delimiter=delimiter))
    expected = [{"query_id": f"q{i}", "query": "who", "answers": answers} for i, (_, answers) in enumerate(CELLS)]
    assert source.rows.to_list() == expected


@pytest.mark.parametrize("cell", ["[a, b]", '["a, b]', "[Lisbon]", "['a' 'b']", "['a'\n 'b']", "[010]"])
@pytest.mark.parametrize("header", QUERY_HEADERS)
def test_a_cell_in_brackets_that_is_not_a_list_is_shown_with_an_accepted_one(tmp_path, header, cell):
    path = table(tmp_path / "q.csv", header, ("q0", "who", "x"), ("q1", "who", cell), delimiter=",")
    message = message_of(open_queries, path)
    row = 3 + cell.count("\n")
    assert f'{path}, row {row} ({header[0]} "q1"): {header[2]} is not a JSON or Python list, but {cell!r}; ' in message
    assert 'write it as Lisbon or ["Lisbon", "Lisboa"]. Correct the row' in message
    assert open_queries(path, skip_invalid=True).skipped == 1


@pytest.mark.parametrize("header", QUERY_HEADERS)
@pytest.mark.parametrize("cell", ["[1912]", '["a", " "]', "[null]"])
def test_answers_that_are_not_strings_name_the_column(tmp_path, header, cell):
    message = message_of(open_queries, table(tmp_path / "q.csv", header, ("q1", "who", cell), delimiter=","))
    assert f'(q1): {header[2]} is not a list of non-empty strings, such as ["Lisbon", "Lisboa"].' in message.replace(
        f'{header[0]} "q1"', "q1"
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_python_and_json_lists_are_read_alike(elements):
    for cell in (json.dumps(elements), json.dumps(elements, ensure_ascii=False), repr(elements)):
        assert with_lists({"answers": cell, "query": cell}, ["answers", "answer"]) == {
            "answers": elements,
            "query": cell,
        }


@pytest.mark.parametrize(("name", "delimiter"), TABLES)
@pytest.mark.parametrize("question", ["query", "query_text"])
def test_ids_of_passages_are_lists_or_single_cells(tmp_path, name, delimiter, question):
    corpus = str(write_jsonl(tmp_path / "corpus.jsonl", [passage(i) | {"docid": f"0{i}"} for i in range(4)]))
    header = ("query_id", question, "positive_document_ids", "negative_document_ids", "answers")
    rows = [
        ("q0", "who", "01", "", "a"),
        ("q1", "who", '["01", "02"]', "03", ""),
        ("q2", "who", "['02']", "[]", "['a', 'b']"),
    ]
    path = table(tmp_path / name, header, *rows, delimiter=delimiter)
    found = [
        ([p["docid"] for p in row["positives"]], [p["docid"] for p in row["negatives"]], row["answers"])
        for row in open_training(path, corpus=corpus).rows
    ]
    assert found == [(["01"], [], ["a"]), (["01", "02"], ["03"], []), (["02"], [], ["a", "b"])]
    for cell, problem in [
        ("[01]", 'is not a JSON or Python list, but \'[01]\'; write it as 7 or ["7", "9"].'),
        ("", "is empty, but a training question needs one."),
        ("09", "the corpus has no passage '09'."),
    ]:
        bad = table(tmp_path / name, header, ("q0", "who", cell, "", ""), delimiter=delimiter)
        between = ": " if "corpus" in problem else " "
        message = message_of(open_training, bad, corpus=corpus)
        assert f'row 2 (query_id "q0"): positive_document_ids{between}{problem}' in message
    # Without a table, ids are a list.
    row = {"query_id": "q0", question: "who", "positive_document_ids": "01"}
    message = message_of(open_training, str(write_jsonl(tmp_path / "t.jsonl", [row])), corpus=corpus)
    assert 'positive_document_ids is not a list of ids, such as ["7", "9"].' in message


def test_passages_are_lists_in_cells(tmp_path):
    header = ("query_id", "query", "positive_passages", "negative_passages")
    rows = [("q0", "who", json.dumps([passage(1)]), ""), ("q1", "who", repr([passage(1)]), json.dumps([passage(2)]))]
    source = open_training(table(tmp_path / "t.csv", header, *rows, delimiter=","))
    assert [len(row["negatives"]) for row in source.rows] == [0, 1]
    assert source.rows[0]["positives"] == source.rows[1]["positives"]
    header = ("question", "positive_ctxs", "id")
    assert (
        open_training(table(tmp_path / "u.csv", header, ("who", rows[1][2], "x"), delimiter=",")).rows[0]["query_id"]
        == "x"
    )


@pytest.mark.parametrize("negatives", [{}, {"negative_passages": None}, {"negative_passages": []}])
@pytest.mark.parametrize("question", ["query", "query_text"])
def test_negative_passages_are_optional(tmp_path, question, negatives):
    row = {"query_id": "q", question: "who", "positive_passages": [passage(1)]}
    without = open_training(str(write_jsonl(tmp_path / "a.jsonl", [row | negatives])))
    empty = open_training(str(write_jsonl(tmp_path / "b.jsonl", [row | {"negative_passages": []}])))
    assert without.fingerprint == empty.fingerprint


def test_questions_have_their_own_ids_or_else_positions(tmp_path):
    records = [
        {"question": "a", "id": 7},
        {"question": "b", "id": "x"},
        {"question": "c", "id": None},
        {"question": "d"},
    ]
    file = str(write_jsonl(tmp_path / "q.jsonl", records))
    assert open_queries(file).rows["query_id"] == ["7", "x", "2", "3"]
    file = str(write_jsonl(tmp_path / "r.jsonl", [{"question": "a", "_id": "y"}, {"question": " ", "_id": "z"}]))
    assert 'row 2 (_id "z"): question is empty' in message_of(open_queries, file)
    path = table(tmp_path / "q.csv", ("id", "question"), ("7", "a"), ("7", "b"), delimiter=",")
    assert 'row 3: id "7" is also in an earlier row' in message_of(open_queries, path)


def test_plain_strings_of_json_lines_keep_their_rules(tmp_path):
    file = str(write_jsonl(tmp_path / "q.jsonl", [{"query_id": "q", "query_text": "who", "answer": '["a"]'}]))
    assert open_queries(file).rows[0]["answers"] == ['["a"]']
    for row in ({"question": "who", "answer": "a"}, {"query_id": "q", "query": "who", "answers": "a"}):
        name = "answer" if "answer" in row else "answers"
        message = message_of(open_queries, str(write_jsonl(tmp_path / "q.jsonl", [row])))
        assert f"{name} is not a list of non-empty strings, such as" in message


def test_columns_that_the_layout_ignores_are_not_read_as_lists(tmp_path):
    path = table(tmp_path / "c.csv", ("docid", "text", "answers"), ("1", "[x]", "[y]"), delimiter=",")
    assert open_corpus(path).rows[0]["text"] == "[x]"
    path = table(tmp_path / "q.csv", ("id", "question", "contexts"), ("1", "[x]", "[y]"), delimiter=",")
    assert open_queries(path).rows[0]["query"] == "[x]"
    path = table(tmp_path / "t.csv", ("query", "positive", "scores"), ("[x]", "[x]", "[y]"), delimiter=",")
    assert open_training(path).rows[0]["positives"][0]["text"] == "[x]"
