"""Qrels files in the forms of TREC, BEIR, MS MARCO and the hub."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.qrels import qrels_fingerprint, read_qrels


def test_qrels_are_read_with_any_blanks(tmp_path):
    (tmp_path / "q").write_text("q1 Q0\td1\t1\r\n\nq1\t0\td2  0\nq2 Q0 dé 2\n", encoding="utf-8")
    assert read_qrels(tmp_path / "q") == {"q1": {"d1": 1, "d2": 0}, "q2": {"dé": 2}}


@pytest.mark.parametrize(
    "line", ["q1 0 d2", "q1 0 d2 yes", "q1 0 d 2 1", "q1 0 d2 0.5", "q1 0 d2 1_0", "q1 0 d2 \u0661"]
)
def test_a_malformed_line_is_named(tmp_path, line):
    (tmp_path / "q").write_text(f"q1 0 d1 1\n{line}\n")
    with pytest.raises(UserError) as error:
        read_qrels(tmp_path / "q")
    assert str(error.value) == f"{tmp_path}/q, line 2: {line!r} is not `qid 0 docid relevance`. Correct it."


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"qrels: there is no file .*absent"):
        read_qrels(tmp_path / "absent")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError, match="empty is empty"):
        read_qrels(tmp_path / "empty")
    (tmp_path / "latin").write_bytes(b"q1 0 d\xe9 1\n")
    with pytest.raises(UserError, match="latin, line 1"):
        read_qrels(tmp_path / "latin")


JUDGED = {"q1": {"d1": 2, "d 2": -1}, "q2": {"é": 0}}
RECORDS = [{"query-id": qid, "corpus-id": d, "score": v} for qid, some in JUDGED.items() for d, v in some.items()]
LINES = [tuple(record.values()) for record in RECORDS]


def text(*lines):
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)


FORMS = {
    "trec.tsv": text(*((qid, 0, docid, value) for qid, docid, value in LINES)),
    "columns.tsv": text(*LINES),
    "beir.tsv": text(("query-id", "corpus-id", "score"), *LINES),
    "header.tsv": text(("Score", "query_id", "iter", "docid"), *((v, qid, "Q0", docid) for qid, docid, v in LINES)),
    "floats.tsv": text(("query-id", "corpus-id", "score"), *((qid, docid, float(v)) for qid, docid, v in LINES)),
    "records.jsonl": "".join(json.dumps(record) + "\n" for record in RECORDS),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_judgments(tmp_path, name):
    for variant in (FORMS[name], "\ufeff" + FORMS[name].replace("\n", "\r\n")):
        (tmp_path / name).write_bytes(variant.encode())
        assert read_qrels(tmp_path / name) == JUDGED


def test_parquet_and_files_without_relevances_are_read(tmp_path):
    parquet.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    assert read_qrels(str(tmp_path / "*.parquet")) == JUDGED
    bare = [{key: record[key] for key in ("query-id", "corpus-id")} for record in RECORDS]  # as NanoBEIR has them
    parquet.write_table(pa.Table.from_pylist(bare), tmp_path / "b.parquet")
    (tmp_path / "b.tsv").write_text(text(("query-id", "corpus-id"), *(line[:2] for line in LINES)))
    relevant = {"q1": {"d1": 1, "d 2": 1}, "q2": {"é": 1}}
    assert read_qrels(tmp_path / "b.parquet") == read_qrels(tmp_path / "b.tsv") == relevant


def test_several_files_are_one_set_of_judgments(tmp_path):
    (tmp_path / "1.tsv").write_text(text(LINES[0]))
    (tmp_path / "2.tsv").write_text(text(*LINES[1:]))
    assert read_qrels([str(tmp_path / "1.tsv"), str(tmp_path / "2.tsv")]) == read_qrels(f"{tmp_path}/?.tsv") == JUDGED
    with pytest.raises(UserError, match=r"1.tsv, line 1: passage d1 of question q1 is judged in the same way"):
        read_qrels([str(tmp_path / "1.tsv")] * 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.tsv", "query\tpassage\tgrade\nq\td\t1\n", "line 1: 'query\\tpassage\\tgrade' is not `qid docid relevance`"),
        ("q.tsv", "q d\n", "line 1: 'q d' has 2 columns. Qrels are `qid 0 docid relevance`, `qid docid relevance`, or"),
        ("q.tsv", "q d 1\nq 0 e 1\n", "line 2: 'q 0 e 1' is not `qid docid relevance`"),
        ("q.tsv", "query-id\tcorpus-id\tscore\nq\td\n", "line 2: 'q\\td' is not `query-id corpus-id score`"),
        ("q.tsv", "query-id corpus-id score\n", "q.tsv is empty"),
        (
            "q.jsonl",
            '{"qid": "q", "passage": "d"}\n',
            "line 1: found the fields 'qid', 'passage'. Judgments have query-id",
        ),
        ("q.jsonl", '{"qid": "q", "docid": "d", "score": "high"}\n', "line 1: .* is not a judgment"),
    ],
)
def test_another_form_is_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message.replace("\\", "\\\\")) as error:
        read_qrels(tmp_path / name)
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_that_of_the_judgments_in_any_order():
    turned = {qid: dict(reversed(some.items())) for qid, some in reversed(JUDGED.items())}
    assert qrels_fingerprint(JUDGED) == qrels_fingerprint(turned)
    assert qrels_fingerprint(JUDGED) != qrels_fingerprint({**JUDGED, "q2": {"é": 1}})
