"""Text files in the variants that other programs write: every reader takes them, and none prints binary data."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.output import read_questions
from dpr_lightning.evaluation.qrels import read_qrels
from dpr_lightning.retrieval.rankings import read_rankings
from dpr_lightning.text_files import excerpt, read_lines


def _gzip(data):
    """Compress without a time stamp, which would change the names of the tests."""
    return gzip.compress(data, mtime=0)


BOM = b"\xef\xbb\xbf"
VARIANTS = {
    "plain": lambda data: data,
    "byte order mark": lambda data: BOM + data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "no last line end": lambda data: data.removesuffix(b"\n"),
    "gzip": gzip.compress,
    "gzip, several members": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
    "concatenated": lambda data: b"".join(BOM + line for line in data.splitlines(keepends=True)),
    "all": lambda data: gzip.compress(BOM + data.replace(b"\n", b"\r\n")),
}


def plain(rankings):
    return [(ranking.qid, ranking.docids, ranking.scores.tolist()) for ranking in rankings]


def questions(path):
    return read_questions(path.parent)


READERS = {
    "qrels": (read_qrels, "test.qrels", "q0 0 d0 1\nq0 0 dé 0\nq1 0 d9 2\n"),
    "trec": (
        lambda path: plain(read_rankings(path)),
        "test.trec",
        "q0 Q0 d0 1 2.5 t\nq0 Q0 dé 2 2 t\nq1 Q0 d9 1 1 t\n",
    ),
    "text": (lambda path: plain(read_rankings(path)), "test.txt", "q0\td 0\t2.5\nq0\td1\t2\nq1\td9\t1\n"),
    "questions": (questions, "questions.jsonl", '{"qid": "q0", "first_hit": 3}\n{"qid": "é", "first_hit": null}\n'),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_every_variant(tmp_path, reader, variant):
    read, name, text = READERS[reader]
    (tmp_path / "as-is").mkdir()
    (tmp_path / "as-is" / name).write_bytes(text.encode())
    (tmp_path / name).write_bytes(VARIANTS[variant](text.encode()))
    assert read(tmp_path / name) == read(tmp_path / "as-is" / name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"q0 0 d0 1\nq0 0 d\xff 1\n", "line 2: not UTF-8 text"),
        ("q0 0 d0 1\n".encode("utf-16"), "line 1: not UTF-8 text"),
        (_gzip(b"".join(b"q%d 0 d0 1\n" % i for i in range(1000)))[:-9], "damaged gzip data"),
        (_gzip(bytes(range(255, 127, -1)) * 99), "line 1: not UTF-8 text"),
        (_gzip(b"q0 0 d0 1\n") + b"rubbish", "damaged gzip data"),
        (b"\x1f\x8b\x08", "damaged gzip data"),
        (b"\x7fELF\x02\x01\x01\x1b[2J\x00\x07", "line 1"),
        (b"PK\x03\x04" + bytes(range(32)) * 9, "line 1"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_named_in_one_printable_line(tmp_path, reader, data, message):
    read, name, _ = READERS[reader]
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(UserError) as error:
        read(file)
    assert str(file) in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < len(str(file)) + 250
    if reader == "qrels":
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("reader", "again", "message"),
    [
        ("qrels", "q0 0 d0 1\n", "line 4: passage d0 of question q0 is judged in the same way in an earlier line"),
        ("qrels", "q0 0 d0 0\n", "line 4: passage d0 of question q0 is judged 1, not 0, in an earlier line"),
        ("trec", "q1 Q0 d9 1 1 t\n", "line 4: query q1 has passage d9 twice"),
        ("trec", "q1 Q0 d9 2 0.5 t\n", "line 4: query q1 has passage d9 twice"),
        ("text", "q1\td9\t1\n", "line 4: query q1 has passage d9 twice"),
        ("text", "q0\td 0\t2.5\n", "line 4: query q0 appears in two parts"),
        ("questions", '{"qid": "q0", "first_hit": 3}\n', "line 3: question q0 is in an earlier line too"),
        ("questions", '{"qid": "q0", "first_hit": 4}\n', "line 3: question q0 is in an earlier line too"),
    ],
)
def test_every_reader_refuses_a_repeated_line(tmp_path, reader, again, message):
    read, name, text = READERS[reader]
    (tmp_path / name).write_text(text + again)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert f"{tmp_path / name}, {message}" in str(error.value)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=10)


@settings(deadline=None)
@given(lines=st.lists(TEXT.filter(lambda line: not line.startswith("\ufeff") and not line.endswith("\r"))))
def test_lines_end_at_line_feeds_only(tmp_path_factory, lines):
    file = tmp_path_factory.getbasetemp() / "lines.txt"
    for end in ("\n", "\r\n"):
        file.write_bytes("".join(line + end for line in lines).encode())
        assert list(read_lines(file)) == list(enumerate(lines, 1))


@given(st.text(max_size=200))
def test_an_excerpt_is_short_and_printable(line):
    assert excerpt(line).isprintable()
    assert len(excerpt(line)) <= 2 + 60 * len("\\U0010ffff")


def test_a_message_is_printed_without_control_characters(capsys):
    from dpr_lightning.errors import report_user_errors

    with pytest.raises(SystemExit), report_user_errors():
        raise UserError("file \x1b[2J\x07\u202e of Zürich 日本\n is damaged")
    assert capsys.readouterr().err == "file \\x1b[2J\\x07\\u202e of Zürich 日本 is damaged\n"


def test_the_lines_of_a_json_file_are_those_of_its_writer(tmp_path):
    values = ["a\u2028b", "\x85", "\x0b\x0c\x1c\x1d\x1e", "\r", "\ufeff"]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values), "utf-8")
    assert [json.loads(line) for _, line in read_lines(tmp_path / "x.jsonl")] == values
