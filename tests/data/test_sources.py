"""Opening and checking data files: errors name the row, and rows have one form."""

import gzip
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from support.world import SHARED, passage, question, training_row, write_jsonl

from dpr_lightning.data.sources import open_corpus, open_queries, open_training
from dpr_lightning.errors import UserError

REMEDY = "Correct the row, or set `skip_invalid`=true to count and skip such rows."


def message_of(opening, *args, **options):
    """Return the error's message, which must be one printable line."""
    with pytest.raises(UserError) as caught:
        opening(*args, **options)
    message = str(caught.value)
    assert message.isprintable()
    return message


def without(row, field):
    return {name: value for name, value in row.items() if name != field}


BAD_PASSAGES = [
    (without(passage(1), "docid"), "docid is missing"),
    (passage(1) | {"docid": None}, "docid is null"),
    (passage(1) | {"docid": ""}, '(docid ""): docid is empty'),
    (passage(1) | {"docid": 1.0}, "docid is not a string, but 1.0"),
    (passage(1) | {"docid": True}, '(docid "True"): docid is not a string, but True'),
    (without(passage(1), "text"), '(docid "d1"): text is missing'),
    (passage(1) | {"text": None}, '(docid "d1"): text is null'),
    (passage(1) | {"text": ["a"]}, "(docid \"d1\"): text is not a string, but ['a']"),
    (passage(1) | {"docid": 0, "text": 5}, '(docid "0"): text is not a string, but 5'),
    (passage(1) | {"title": 0}, '(docid "d1"): title is not a string'),
    (passage(1) | {"text": "a\ud800"}, '(docid "d1"): text has half of a surrogate pair, which is not a character'),
    (passage(1) | {"title": "\udfff"}, '(docid "d1"): title has half of a surrogate pair, which is not a character'),
    (
        passage(1) | {"docid": "\ud800\n"},
        '(docid "\\ud800\\n"): docid has half of a surrogate pair, which is not a character',
    ),
    (["d1", "title", "text"], "the row is not an object with fields, but list"),
    (None, "the row is not an object with fields, but NoneType"),
]

EXAMPLE = ', such as ["Lisbon", "Lisboa"]'
BAD_QUERIES = [
    (without(question(1), "query_id"), "query_id is missing"),
    (without(question(1), "query"), '(query_id "q1"): query is missing'),
    (question(1) | {"query": None}, '(query_id "q1"): query is null'),
    (question(1) | {"query": " \t"}, '(query_id "q1"): query is empty'),
    (question(1) | {"answers": "bap"}, '(query_id "q1"): answers is not a list of non-empty strings' + EXAMPLE),
    (question(1) | {"answers": ""}, '(query_id "q1"): answers is not a list of non-empty strings' + EXAMPLE),
    (question(1) | {"answers": ["bap", " "]}, '(query_id "q1"): answers is not a list of non-empty strings' + EXAMPLE),
    (question(1) | {"answers": [3]}, '(query_id "q1"): answers is not a list of non-empty strings' + EXAMPLE),
    (
        question(1) | {"answers": ["\ud83d", "\ude00"]},
        '(query_id "q1"): answers has half of a surrogate pair, which is not a character',
    ),
]

BAD_TRAINING_ROWS = [
    *[(training_row(1) | row, problem) for row, problem in BAD_QUERIES if len(row) == len(question(1))],
    (
        training_row(1) | {"positive_passages": []},
        '(query_id "q1"): positive_passages is empty, but a training question needs one',
    ),
    (training_row(1) | {"positive_passages": None}, '(query_id "q1"): positive_passages is missing or not a list'),
    (training_row(1) | {"negative_passages": "d2"}, '(query_id "q1"): negative_passages is missing or not a list'),
    (
        training_row(1) | {"negative_passages": [passage(2), without(passage(3), "text")]},
        '(query_id "q1"): negative_passages[1].text is missing',
    ),
    (
        training_row(1) | {"positive_passages": ["d1"]},
        '(query_id "q1"): positive_passages[0].the row is not an object with fields, but str',
    ),
]


def escaped_jsonl(path, rows):
    """Write JSON Lines, which may have halves of surrogate pairs."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("opening", "key", "valid", "bad", "problem"),
    [
        *[(open_corpus, "corpus", passage(0), *case) for case in BAD_PASSAGES],
        *[(open_queries, "queries", question(0), *case) for case in BAD_QUERIES],
        *[(open_training, "train", training_row(0), *case) for case in BAD_TRAINING_ROWS],
    ],
)
def test_an_invalid_row_is_named_or_counted_and_skipped(tmp_path, opening, key, valid, bad, problem):
    file = escaped_jsonl(tmp_path / "rows.jsonl", [valid, bad, valid | {"query_id": "q9", "docid": "d9"}, bad])
    between = " " if problem.startswith("(") else ": "
    assert message_of(opening, str(file)) == f"{key}: {file}, row 2{between}{problem}. {REMEDY}"
    source = opening(str(file), skip_invalid=True)
    assert (source.skipped, len(source.rows)) == (2, 2)


def test_a_long_wrong_value_is_cut_in_the_message(tmp_path):
    file = write_jsonl(tmp_path / "c.jsonl", [passage(0) | {"text": ["x" * 10_000] * 100}])
    assert len(message_of(open_corpus, str(file))) < 400 + len(str(file))


def test_the_warning_about_skipped_rows_names_the_argument(tmp_path, caplog):
    file = write_jsonl(tmp_path / "q.jsonl", [question(0), {"query_id": "q1"}])
    for key in ("queries.dev", "queries.test"):
        caplog.clear()
        open_queries(str(file), name=key, skip_invalid=True)
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == [
            f'{key}: 1 invalid rows skipped, the first: {file}, row 2 (query_id "q1"): query is missing'
        ]


def test_a_file_of_invalid_rows_only_is_an_error(tmp_path):
    file = write_jsonl(tmp_path / "c.jsonl", [{"docid": "d"}])
    message = message_of(open_corpus, str(file), skip_invalid=True)
    assert f"{file} has 1 invalid and no valid rows, the first: {file}, row 1" in message


@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"", mtime=0)])
def test_an_empty_corpus_is_an_error(tmp_path, content):
    file = tmp_path / ("c.jsonl.gz" if content[:1] == b"\x1f" else "c.jsonl")
    file.write_bytes(content)
    assert message_of(open_corpus, str(file)) == f"corpus: {file} has no rows. Correct `corpus`."


def test_skip_invalid_must_be_true_or_false(world):
    message = message_of(open_corpus, f"{world}/corpus.jsonl", skip_invalid="maybe")
    assert message == "skip_invalid: 'maybe' is not possible. Set `skip_invalid` to one of: True, False."


@pytest.mark.parametrize("first", [3, 999, 1000, 4999])
@pytest.mark.parametrize("second", [4, 5000, 5999])
def test_a_repeated_docid_is_found_within_and_across_batches(tmp_path, first, second):
    if first >= second:
        second = 6000
    rows = [{"docid": str(i), "text": ""} for i in range(6001)]
    rows[second] = {"docid": str(first), "text": ""}
    file = write_jsonl(tmp_path / "c.jsonl", rows)
    expected = f'corpus: {file}, row {second + 1}: docid "{first}" is also in an earlier row. {REMEDY}'
    assert message_of(open_corpus, str(file)) == expected
    source = open_corpus(str(file), skip_invalid=True)
    assert source.skipped == 1
    assert source.rows["docid"] == [str(i) for i in range(6001) if i != second]


def test_a_docid_repeated_in_another_file_names_the_second(tmp_path):
    a = write_jsonl(tmp_path / "a.jsonl", [passage(1), passage(2)])
    b = write_jsonl(tmp_path / "b.jsonl", [passage(3), passage(2)])
    assert f'{b}, row 2: docid "d2" is also in an earlier row.' in message_of(open_corpus, [str(a), str(b)])
    source = open_corpus([str(b), str(a)], skip_invalid=True)
    assert (source.skipped, source.rows["docid"]) == (1, ["d3", "d2", "d1"])


def test_a_repeated_query_id_is_an_error_except_in_training(tmp_path):
    file = write_jsonl(tmp_path / "q.jsonl", [training_row(1), training_row(1)])
    assert f'{file}, row 2: query_id "q1" is also in an earlier row.' in message_of(open_queries, str(file))
    assert len(open_training(str(file)).rows) == 2


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_skipping_keeps_the_first_row_of_each_docid(tmp_path_factory, ids):
    rows = [{"docid": str(i), "text": str(place)} for place, i in enumerate(ids)]
    file = write_jsonl(tmp_path_factory.mktemp("ids") / "c.jsonl", rows)
    source = open_corpus(str(file), skip_invalid=True)
    firsts = {str(i): str(place) for place, i in reversed(list(enumerate(ids)))}
    assert dict(zip(source.rows["docid"], source.rows["text"], strict=True)) == firsts
    assert source.skipped == len(ids) - len(firsts)


def test_batches_of_repeated_rows_only_leave_no_gap(tmp_path):
    ids = [*range(1000), *range(1000), *range(1000), *range(1000, 1500)]
    file = write_jsonl(tmp_path / "c.jsonl", [{"docid": str(i), "text": ""} for i in ids])
    rows = open_corpus(str(file), skip_invalid=True).rows
    assert [rows[i]["docid"] for i in range(0, 1500, 7)] == [str(i) for i in range(0, 1500, 7)]


def test_the_fingerprint_is_that_of_the_rows_kept(tmp_path):
    ids = [*range(700), *range(600), *range(700, 2200)]
    dirty = write_jsonl(tmp_path / "dirty.jsonl", [{"docid": str(i), "text": ""} for i in ids])
    clean = write_jsonl(tmp_path / "clean.jsonl", [{"docid": str(i), "text": ""} for i in range(2200)])
    changed = write_jsonl(tmp_path / "changed.jsonl", [{"docid": str(i), "text": "."} for i in range(2200)])
    kept = open_corpus(str(dirty), skip_invalid=True)
    assert kept.fingerprint == open_corpus(str(clean)).fingerprint != open_corpus(str(changed)).fingerprint


def test_integer_ids_become_strings_and_keep_leading_zeros(tmp_path):
    file = write_jsonl(
        tmp_path / "c.jsonl", [passage(0) | {"docid": docid} for docid in (7, "007", "7.0", 0, -1, 10**30)]
    )
    assert open_corpus(str(file)).rows["docid"] == ["7", "007", "7.0", "0", "-1", "1" + "0" * 30]
    clash = write_jsonl(tmp_path / "clash.jsonl", [passage(0) | {"docid": docid} for docid in (7, "7")])
    assert 'row 2: docid "7" is also in an earlier row' in message_of(open_corpus, str(clash))


def test_a_missing_title_is_empty_and_other_fields_are_dropped(tmp_path):
    rows = [{"docid": "a", "text": "x", "url": "u"}, {"docid": "b", "text": "", "title": None}]
    file = write_jsonl(tmp_path / "c.jsonl", rows)
    assert list(open_corpus(str(file)).rows) == [
        {"docid": "a", "title": "", "text": "x"},
        {"docid": "b", "title": "", "text": ""},
    ]


def test_missing_or_null_answers_are_none(tmp_path):
    file = write_jsonl(tmp_path / "q.jsonl", [without(question(0), "answers"), question(1) | {"answers": None}])
    assert open_queries(str(file)).rows["answers"] == [[], []]


def three_forms(folder, rows):
    """Write the rows as JSON Lines, compressed JSON Lines and Parquet."""
    table = folder / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), table, row_group_size=7)
    return [write_jsonl(folder / "rows.jsonl", rows), write_jsonl(folder / "rows.jsonl.gz", rows), table]


@pytest.mark.parametrize(
    ("opening", "row"), [(open_corpus, passage), (open_queries, question), (open_training, training_row)]
)
def test_parquet_and_json_lines_give_the_same_source(tmp_path, opening, row):
    sources = [opening(str(file)) for file in three_forms(tmp_path, [row(i) for i in range(30)])]
    assert sources[0].rows.to_list() == sources[1].rows.to_list() == sources[2].rows.to_list()
    assert len({source.fingerprint for source in sources}) == 1


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=20)), min_size=1, max_size=8))
def test_any_unicode_text_is_preserved(tmp_path_factory, texts):
    rows = [{"docid": f"{i}é", "title": title, "text": text} for i, (title, text) in enumerate(texts)]
    sources = [open_corpus(str(file)) for file in three_forms(tmp_path_factory.mktemp("any"), rows)]
    assert all(source.rows.to_list() == rows for source in sources)
    assert len({source.fingerprint for source in sources}) == 1


def test_parquet_integer_ids_become_strings_and_null_is_named(tmp_path):
    file = tmp_path / "c.parquet"
    parquet.write_table(pa.table({"docid": pa.array([1, 2]), "text": ["x", "y"]}), file)
    assert open_corpus(str(file)).rows["docid"] == ["1", "2"]
    parquet.write_table(pa.table({"docid": pa.array([1, None]), "text": ["x", "y"]}), file)
    assert message_of(open_corpus, str(file)) == f"corpus: {file}, row 2: docid is null. {REMEDY}"


def test_files_split_anywhere_are_the_same_corpus(tmp_path):
    rows = [passage(i) for i in range(9)]
    whole = open_corpus(str(write_jsonl(tmp_path / "whole.jsonl", rows)))
    for cut in range(1, 9):
        write_jsonl(tmp_path / f"{cut}" / "a.jsonl", rows[:cut])
        write_jsonl(tmp_path / f"{cut}" / "b.jsonl.gz", rows[cut:])
        parts = open_corpus(f"{tmp_path}/{cut}/*")
        assert (parts.fingerprint, parts.rows.to_list()) == (whole.fingerprint, whole.rows.to_list())


@pytest.mark.real
@pytest.mark.skipif(not SHARED.exists(), reason="needs nq-mini")
def test_nq_mini_opens_row_for_row():
    for opening, name in ((open_corpus, "corpus"), (open_queries, "test"), (open_training, "train")):
        with gzip.open(SHARED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        opened = opening(str(SHARED / f"{name}.jsonl.gz")).rows
        renamed = {"positives": "positive_passages", "negatives": "negative_passages"}
        for column in opened.column_names:
            if column not in ("positives", "negatives"):
                assert opened[column] == [row.get(column) or type(opened[0][column])() for row in rows]
        for column in {"positives", "negatives"} & set(opened.column_names):
            docids = [[passage["docid"] for passage in row[renamed[column]]] for row in rows]
            assert [[passage["docid"] for passage in item] for item in opened[column]] == docids
