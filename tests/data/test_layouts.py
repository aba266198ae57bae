"""Layouts of other programs: the same rows, however they are written; an unknown layout is one clear line."""

import gzip
import json

import datasets
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.world import passage, question, write_jsonl

from dpr_lightning.data import convert
from dpr_lightning.data.layouts import FORMATS, LAYOUTS, text_id
from dpr_lightning.data.sources import open_corpus, open_queries, open_training
from dpr_lightning.errors import UserError

PASSAGES = [
    passage(1) | {"text": 'He said "bap",\nand  left'},
    passage(2) | {"title": ""},
    passage(3) | {"text": "é\\"},
]
ONE_LINE = [row | {"text": row["text"].replace("\n", " ")} for row in PASSAGES]
UNQUOTED = [row | {"title": ""} for row in ONE_LINE]
QUESTIONS = [question(i) | {"answers": [f"it's {i}", 'a "b"']} for i in range(3)]
BARE_QUESTIONS = [row | {"answers": []} for row in QUESTIONS]
NUMBERED = [row | {"query_id": str(i)} for i, row in enumerate(QUESTIONS)]


def message_of(opening, *args, **options):
    """Return the error's message, which must be one printable line."""
    with pytest.raises(UserError) as caught:
        opening(*args, **options)
    message = str(caught.value)
    assert message.isprintable()
    return message


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def lines(*rows):
    """Return tab-separated lines without quotes."""
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def quoted(*rows, delimiter="\t"):
    """Return lines of fields in double quotes."""
    return "".join(delimiter.join('"' + str(f).replace('"', '""') + '"' for f in row) + "\n" for row in rows)


def fields(rows, *names):
    return [[row[name] for name in names] for row in rows]


def zstd(path, rows):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(bytes(pa.Codec("zstd").compress(content)))
    return path


def saved_to_disk(path, rows):
    datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


CORPORA = {
    "JSON array": lambda p: (text(p / "c.json", json.dumps(PASSAGES, indent=1)), PASSAGES),
    "JSON array, gzip": lambda p: (
        [(p / "c.json.gz").write_bytes(gzip.compress(json.dumps(PASSAGES).encode())), p / "c.json.gz"][1],
        PASSAGES,
    ),
    "Zstandard": lambda p: (zstd(p / "c.jsonl.zst", PASSAGES), PASSAGES),
    "save_to_disk": lambda p: (saved_to_disk(p / "saved", PASSAGES), PASSAGES),
    "CSV": lambda p: (
        text(p / "c.csv", "docid,text,title\n" + quoted(*fields(PASSAGES, "docid", "text", "title"), delimiter=",")),
        PASSAGES,
    ),
    "TSV": lambda p: (
        text(p / "c.tsv", "title\tdocid\ttext\n" + quoted(*fields(ONE_LINE, "title", "docid", "text"))),
        ONE_LINE,
    ),
    "FAIR DPR": lambda p: (
        text(p / "psgs_w100.tsv", "id\ttext\ttitle\n" + quoted(*fields(ONE_LINE, "docid", "text", "title"))),
        ONE_LINE,
    ),
    "BEIR": lambda p: (
        write_jsonl(
            p / "corpus.jsonl",
            [
                {"_id": row["docid"], "title": row["title"], "text": row["text"], "metadata": {"a": []}}
                for row in PASSAGES
            ],
        ),
        PASSAGES,
    ),
    "MS MARCO": lambda p: (text(p / "collection.tsv", lines(*fields(UNQUOTED, "docid", "text"))), UNQUOTED),
    "Pyserini": lambda p: (
        write_jsonl(
            p / "docs.jsonl", [{"id": row["docid"], "contents": f"{row['title']}\n{row['text']}"} for row in PASSAGES]
        ),
        PASSAGES,
    ),
}


@pytest.mark.parametrize("layout", CORPORA)
def test_a_corpus_has_the_same_rows_and_fingerprint_in_every_layout(tmp_path, layout):
    file, expected = CORPORA[layout](tmp_path)
    source = open_corpus(str(file))
    assert source.rows.to_list() == expected
    assert source.fingerprint == open_corpus(str(write_jsonl(tmp_path / "ours.jsonl", expected))).fingerprint


QUERIES = {
    "CSV": lambda p: (
        text(
            p / "q.csv",
            "query_id,query,answers\n" + quoted(*fields(QUESTIONS, "query_id", "query", "answers"), delimiter=","),
        ),
        QUESTIONS,
    ),
    "FAIR DPR": lambda p: (text(p / "nq-test.qa.csv", quoted(*fields(QUESTIONS, "query", "answers"))), NUMBERED),
    "FAIR DPR, not quoted": lambda p: (
        text(p / "nq-test.csv", lines(*[(row["query"], ["a", "b"]) for row in QUESTIONS])),
        [row | {"answers": ["a", "b"]} for row in NUMBERED],
    ),
    "FAIR DPR, JSON": lambda p: (
        text(
            p / "dev.json",
            json.dumps([{"question": q["query"], "answers": q["answers"], "positive_ctxs": []} for q in QUESTIONS]),
        ),
        NUMBERED,
    ),
    "BEIR": lambda p: (
        write_jsonl(p / "queries.jsonl", [{"_id": row["query_id"], "text": row["query"]} for row in QUESTIONS]),
        BARE_QUESTIONS,
    ),
    "MS MARCO": lambda p: (text(p / "queries.tsv", lines(*fields(QUESTIONS, "query_id", "query"))), BARE_QUESTIONS),
    "Tevatron 2": lambda p: (
        write_jsonl(
            p / "q.jsonl",
            [{"query_id": q["query_id"], "query_text": q["query"], "query_image": None} for q in QUESTIONS],
        ),
        BARE_QUESTIONS,
    ),
}


@pytest.mark.parametrize("layout", QUERIES)
def test_queries_have_the_same_rows_in_every_layout(tmp_path, layout):
    file, expected = QUERIES[layout](tmp_path)
    assert open_queries(str(file)).rows.to_list() == expected


def summary(source):
    """Return (query, positives, negatives) of each training row, passages by id."""
    ids = [[[p["docid"] for p in row[side]] for side in ("positives", "negatives")] for row in source.rows]
    return [(row["query"], *both) for row, both in zip(source.rows, ids, strict=True)]


def test_fair_training_files_use_their_ids_or_hashes_of_texts(tmp_path):
    row = {
        "dataset": "nq",
        "question": "q",
        "answers": ["a"],
        "positive_ctxs": [{"title": "t", "text": "x"}, {"title": "t", "text": "y", "passage_id": 7, "score": 1.0}],
        "negative_ctxs": [{"title": "t", "text": "n", "psg_id": "8"}],
        "hard_negative_ctxs": [{"title": "t", "text": "h", "passage_id": "9"}],
    }
    without_hard = row | {"hard_negative_ctxs": []}
    for indent in (None, 4):
        file = text(tmp_path / f"biencoder-{indent}.json", json.dumps([row, without_hard], indent=indent))
        source = open_training(str(file))
        hashed = text_id("t\nx")
        assert summary(source) == [("q", [hashed, "7"], ["9"]), ("q", [hashed, "7"], ["8"])]
        assert source.rows[0]["query_id"] == "0"
        assert source.rows[0]["positives"][0]["text"] == "x"


def test_a_large_array_is_parsed_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("dpr_lightning.text_files._PIECE", 7)
    context = {"title": 'é"\\', "text": "x [1, {2}] \u2028"}
    rows = [{"question": f"q{i}", "positive_ctxs": [context]} for i in range(30)]
    file = text(tmp_path / "train.json", json.dumps(rows, ensure_ascii=False, indent=2))
    assert [row["query"] for row in open_training(str(file)).rows] == [f"q{i}" for i in range(30)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"question": "q", "positive_ctxs": []', "row 1: the array does not end"),
        ('[{"question": "q", "positive_ctxs": [}] ' + " " * 40, "row 1: not a JSON object (Expecting value)"),
        ('[{"question": "q"} {"question": "r"}]', "row 2: '{' instead of ','"),
        ('[{"question": "q"}] {}', "row 2: there is more text after the array"),
        ('[{"question": "q"}]', "row 1: positive_ctxs is missing or not a list"),
        ('[{"question": "q", "positive_ctxs": []}]', "row 1: positive_ctxs is empty"),
        ('[{"question": "q", "positive_ctxs": [{"title": "t"}]}]', "row 1: positive_ctxs[0].docid is null"),
    ],
)
def test_a_mistake_in_an_array_names_the_element(tmp_path, content, problem):
    assert problem in message_of(open_training, str(text(tmp_path / "a.json", content)))


def test_results_of_retrieval_are_training_data(tmp_path):
    passages = [
        {"id": f"wiki:{i}", "title": "t", "text": f"x{i}", "score": "1", "has_answer": i == 2} for i in (1, 2, 3)
    ]
    file = text(tmp_path / "results.json", json.dumps([{"question": "q", "answers": ["a"], "ctxs": passages}]))
    assert summary(open_training(str(file))) == [("q", ["2"], ["1", "3"])]


def test_results_by_query_id_are_training_data(tmp_path):
    contexts = [{"docid": f"{i}", "score": "1", "text": f"title\nx{i}", "has_answer": i == 2} for i in (1, 2)]
    results = {f"{qid}": {"question": f"q{qid}", "answers": ["a"], "contexts": contexts} for qid in (7, 8)}
    source = open_training(str(text(tmp_path / "dpr.json", json.dumps(results, indent=4))))
    assert summary(source) == [("q7", ["2"], ["1"]), ("q8", ["2"], ["1"])]
    assert source.rows["query_id"] == ["7", "8"]
    assert source.rows[0]["positives"][0]["title"] == "title"


@pytest.fixture
def beir(tmp_path):
    """A BEIR folder whose queries are more than the judged ones."""
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(5)])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(5)])
    rows = [("q3", "d1", 1), ("q3", "d2", 0), ("q1", "d0", 2), ("q3", "d4", 1), ("q0", "d0", 0)]
    text(tmp_path / "qrels" / "test.tsv", lines(("query-id", "corpus-id", "score"), *rows))
    return tmp_path


def test_judgments_of_beir_are_training_data_and_queries(beir):
    qrels = f"{beir}/qrels/test.tsv"
    assert summary(open_training(qrels)) == [("query 3", ["d1", "d4"], ["d2"]), ("query 1", ["d0"], [])]
    assert [row["query"] for row in open_queries(qrels).rows] == ["query 3", "query 1", "query 0"]


def test_changed_texts_of_ids_are_noticed(beir):
    qrels = f"{beir}/qrels/test.tsv"
    before = open_training(qrels).fingerprint
    write_jsonl(beir / "queries.jsonl", [{"_id": f"q{i}", "text": f"other {i}"} for i in range(5)])
    assert open_training(qrels).rows["query"] == ["other 3", "other 1"]
    assert open_training(qrels).fingerprint != before


@pytest.fixture
def msmarco(tmp_path):
    text(tmp_path / "collection.tsv", lines(*[(i, f'"text {i}') for i in range(5)]))
    text(tmp_path / "queries.tsv", lines(*[(i, f"query {i}") for i in range(5)]))
    return tmp_path, {"corpus": f"{tmp_path}/collection.tsv", "queries": f"{tmp_path}/queries.tsv"}


def test_ids_of_ms_marco_are_looked_up(msmarco):
    folder, texts = msmarco
    triples = text(folder / "qidpidtriples.tsv", lines((3, 0, 1), (3, 0, 2), (1, 4, 0)))
    assert summary(open_training(str(triples), **texts)) == [("query 3", ["0"], ["1", "2"]), ("query 1", ["4"], ["0"])]
    qrels = text(folder / "qrels.train.tsv", lines((2, 0, 4, 1), (0, 0, 1, 1)))
    source = open_training(str(qrels), **texts)
    assert summary(source) == [("query 2", ["4"], []), ("query 0", ["1"], [])]
    assert source.rows[0]["positives"][0]["text"] == '"text 4'


def test_triples_of_texts_get_ids_from_their_texts(tmp_path):
    file = text(
        tmp_path / "triples.train.small.tsv", lines(("a query", "a pos", '"a neg'), ("a query", "b pos", "a pos"))
    )
    a_pos = text_id("a pos")
    assert summary(open_training(str(file))) == [
        ("a query", [a_pos], [text_id('"a neg')]),
        ("a query", [text_id("b pos")], [a_pos]),
    ]
    rows = [{"anchor": "a query", "positive": "a pos", "negative_1": '"a neg', "negative_2": None}]
    pairs = saved_to_disk(tmp_path / "pairs", rows)
    assert summary(open_training(str(pairs))) == [("a query", [a_pos], [text_id('"a neg')])]


def test_tevatron_2_names_passages_of_the_corpus(msmarco):
    folder, texts = msmarco
    rows = [{"query_id": "q", "query_text": "who", "positive_document_ids": ["2"], "negative_document_ids": ["0", "1"]}]
    file = write_jsonl(folder / "train.jsonl", rows)
    assert summary(open_training(str(file), corpus=texts["corpus"])) == [("who", ["2"], ["0", "1"])]
    write_jsonl(file, [rows[0] | {"positive_document_ids": ["77"]}])
    message = message_of(open_training, str(file), corpus=texts["corpus"])
    assert f"{file}, row 1 (query_id \"q\"): positive_document_ids: the corpus has no passage '77'" in message
    assert message_of(open_training, str(file)) == (
        f"train: {file} has ids without texts. Set `corpus` to the texts of its corpus."
    )


@pytest.mark.parametrize(
    ("name", "content", "fields"),
    [
        ("c.jsonl", '{"id": "1", "body": "x"}\n', "id, body"),
        ("c.csv", "id,body\n1,x\n", "id, body"),
        ("c.tsv", "id\tbody\n1\tx\n", "id, body"),
        ("c.json", '[{"id": "1", "body": "x"}]', "id, body"),
    ],
)
def test_an_unknown_layout_names_its_fields_and_the_accepted_ones(tmp_path, name, content, fields):
    file = text(tmp_path / name, content)
    accepted = "docid, text (tevatron); _id, text (beir); id, contents (pyserini); id, text (fair_dpr); "
    assert message_of(open_corpus, str(file)) == (
        f"corpus: {file} has the fields {fields}, which is not a known layout. It looks like the format pyserini "
        f"without contents. Rename them to one of: {accepted}pid, passage (msmarco)."
    )


@pytest.mark.parametrize(("name", "delimiter"), [("c.csv", ","), ("c.tsv", "\t")])
def test_a_column_that_appears_twice_is_refused(tmp_path, name, delimiter):
    file = text(tmp_path / name, delimiter.join(["docid", "text", "text"]) + "\n" + delimiter.join("1ab") + "\n")
    assert message_of(open_corpus, str(file)) == (
        f"corpus: {file} has the column text twice in its header. Rename or remove one."
    )


def test_the_answer_of_open_questions_is_a_list(tmp_path):
    file = text(tmp_path / "q.jsonl", '{"question": "who", "answer": ["a", "b"]}\n')
    assert open_queries(str(file)).rows.to_list() == [{"query_id": "0", "query": "who", "answers": ["a", "b"]}]


def test_a_file_of_another_kind_is_recognized(tmp_path):
    file = text(tmp_path / "c.jsonl", '{"query_id": "1", "query": "x", "positive_passages": []}\n')
    expected = "It looks like queries in the format tevatron, not a corpus."
    assert expected in message_of(open_corpus, str(file))
    assert "It looks like" not in message_of(open_corpus, str(text(tmp_path / "d.jsonl", '{"body": "x"}\n')))


def test_a_forced_format_is_the_only_one(tmp_path):
    file = text(tmp_path / "c.tsv", lines(("one", "first"), ("two", "second")))
    assert "which is not a known layout" in message_of(open_corpus, str(file))
    ours = write_jsonl(tmp_path / "c.jsonl", PASSAGES)
    assert message_of(open_corpus, str(ours), format="beir").endswith("Rename them to one of: _id, text (beir).")
    assert message_of(open_queries, str(ours), format="csv").startswith("format: 'csv' is not possible. Set `format`")
    assert message_of(open_training, str(ours), format="pyserini").startswith(
        "format: 'pyserini' has no training files"
    )
    assert open_corpus(str(file), format="msmarco").rows["docid"] == ["one", "two"]
    assert {layout.name for layout in LAYOUTS} == set(FORMATS)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("c.tsv", 'id\ttext\ttitle\n1\t"a\tt\n2\tb\tt\n', "row 2: a quoted field does not end. Correct the line."),
        (
            "c.tsv",
            "id\ttext\ttitle\n1\ta\tt\n2\tb\n",
            "row 3: 2 fields instead of 3 (id, text, title). Correct the line.",
        ),
        ("c.tsv", "id\ttext\ttitle\n1\ta\tt\n\tb\tt\n", 'row 3 (id ""): id is empty'),
        ("c.csv", 'docid,text\n1,a\n2,"b\n', "row 3: not a row of CSV (unexpected end of data). Correct the row."),
        ("c.jsonl", '{"_id": "1", "text": "x"}\n{"_id": "1"}\n', 'row 2 (_id "1"): text is missing'),
        (
            "c.jsonl",
            '{"_id": "1", "text": "x"}\n{"_id": "1", "text": "y"}\n',
            'row 2: _id "1" is also in an earlier row',
        ),
        ("c.jsonl", '{"pid": "1", "passage": "x"}\n{"pid": "2"}\n', 'row 2 (pid "2"): passage is missing'),
    ],
)
def test_a_mistake_names_row_and_field_of_the_file(tmp_path, name, content, problem):
    file = text(tmp_path / name, content)
    assert f"{file}, {problem}" in message_of(open_corpus, str(file))


def test_a_damaged_zstandard_file_is_named(tmp_path):
    file = zstd(tmp_path / "c.jsonl.zst", [passage(i) for i in range(2000)])
    file.write_bytes(file.read_bytes()[:-200])
    assert "damaged Zstandard data (" in message_of(open_corpus, str(file))


def test_splits_of_a_saved_data_set_are_listed(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_list(PASSAGES)}).save_to_disk(tmp_path / "saved")
    assert "has the splits train. Choose one" in message_of(open_corpus, str(tmp_path / "saved"))
    assert open_corpus(f"{tmp_path}/saved/train").rows.to_list() == PASSAGES


ODD = [
    "",
    "  ",
    "{}",
    "[1]",
    '{"docid": 5, "text": ""}',
    '{"docid": "x", "text": null}',
    '{"docid": "", "text": "x"}',
    '{"docid": "y", "title": null, "text": "\\u0000\\ud83d\\ude00"}',
    '{"docid": "z", "text": "\\ud800"}',
    ' {"docid": "w", "text": "\t"}',
    '{"docid": "a", "text": "b"} {"docid": "c", "text": "d"}',
    '\ufeff{"docid": "v", "text": "\x7f"}',
    '{"docid": "u", "text": "x", "text": "y"}',
]
ODD_LINES = st.one_of(
    st.sampled_from(ODD),
    st.builds(lambda id_, text: json.dumps({"docid": str(id_), "title": text, "text": text}), st.integers(), st.text()),
    st.builds(
        lambda id_, text: json.dumps({"text": text, "docid": f"é{id_}"}, ensure_ascii=False), st.integers(), st.text()
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(ODD_LINES, max_size=5),
    end=st.sampled_from(["\n", "\r\n"]),
    fields=st.sampled_from([("docid", "text"), ("id", "contents")]),  # of Pyserini, where the first line is the title
)
@example(['{"docid": "1", "text": "a\\nb\\nc"}', '{"docid": "2", "text": "\\n"}'], "\n", ("id", "contents"))
@example(['{"docid": "1", "text": null}'], "\n", ("id", "contents"))
def test_columns_and_rows_are_checked_alike(tmp_path_factory, rows, end, fields):
    def outcome(name):
        file = tmp_path_factory.mktemp("odd") / "c.jsonl"
        lines = end.join([*rows, name])
        for ours, theirs in zip(("docid", "text"), fields, strict=True):
            lines = lines.replace(f'"{ours}":', f'"{theirs}":')
        file.write_bytes(lines.encode("utf-8", "surrogatepass"))
        results = []
        for skip in (False, True):
            try:
                source = open_corpus(str(file), skip_invalid=skip)
                results.append((source.rows.to_list()[:-1], source.skipped))
            except UserError as error:
                results.append(str(error).replace(str(file), ""))
        return results

    by_columns = outcome('{"docid": "last", "text": "1"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "_check_columns", lambda *args: None)
        assert outcome('{"docid": "last", "text": "2"}') == by_columns
