"""Ranking files read back as they were written; foreign files are read, malformed lines named."""

import json
import struct

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.world import write_jsonl

from dpr_lightning import text_files
from dpr_lightning.data.sources import open_queries
from dpr_lightning.errors import UserError
from dpr_lightning.retrieval.rankings import Ranking, merge_rankings, read_rankings, write_rankings


def ranking(qid, found, tag="t"):
    return Ranking(qid, list(found), np.array(list(found.values()), np.float32), tag)


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def as_lists(rankings):
    return [(r.qid, r.docids, r.scores.tolist()) for r in rankings]


def float32_from_bits(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


SCORES = st.integers(0, 2**32 - 1).map(float32_from_bits).filter(np.isfinite)
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT_IDS = st.text(CHARACTERS, min_size=1, max_size=8).filter(lambda s: s.strip() and "\t" not in s and "\n" not in s)
TREC_IDS = TEXT_IDS.filter(lambda s: s.split() == [s])


@settings(deadline=None, max_examples=150)
@given(data=st.data(), format=st.sampled_from(["trec", "text"]))
def test_rankings_read_back_bit_for_bit_and_in_order(data, format, tmp_path_factory):
    ids = TREC_IDS if format == "trec" else TEXT_IDS
    qids = data.draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    written = []
    for qid in qids:
        docids = data.draw(st.lists(ids, min_size=1, max_size=8, unique=True))
        scores = data.draw(st.lists(SCORES, min_size=len(docids), max_size=len(docids)))
        written.append(Ranking(qid, docids, np.sort(np.array(scores, np.float32))[::-1], "a-tag"))
    path = tmp_path_factory.getbasetemp() / f"round-trip.{format}"
    assert write_rankings(path, written, format=format) == len(written)
    read = list(read_rankings(path))
    assert [(r.qid, r.docids) for r in read] == [(r.qid, r.docids) for r in written]
    for before, after in zip(written, read, strict=True):
        assert after.scores.dtype == np.float32
        assert after.scores.tobytes() == before.scores.tobytes()
        assert after.tag == ("a-tag" if format == "trec" else "")


@settings(deadline=None)
@given(text=st.text(CHARACTERS, max_size=5), format=st.sampled_from(["trec", "text", "msmarco"]), is_qid=st.booleans())
def test_an_id_reads_back_or_is_refused(tmp_path_factory, text, format, is_qid):
    ids = ("q", text) if not is_qid else (text, "d")
    path = tmp_path_factory.getbasetemp() / f"one-id.{format}"
    try:
        write_rankings(path, [ranking(ids[0], {ids[1]: 1.0})], format=format)
    except UserError:
        assert not path.exists()
        return
    try:
        (read,) = read_rankings(path)
        assert (read.qid, read.docids) == (ids[0], [ids[1]])
    finally:
        path.unlink()


def test_files_look_as_documented(tmp_path):
    found = [ranking("q 1", {"d 1": 1.5, "d2": -0.1}), ranking("q2", {"d3": 2})]
    write_rankings(tmp_path / "a.txt", found, format="text")
    assert (tmp_path / "a.txt").read_text() == "q 1\td 1\t1.5\nq 1\td2\t-0.1\nq2\td3\t2.0\n"
    write_rankings(tmp_path / "a.trec", [found[1], ranking("q3", {"d4": 1, "d5": 1}, "")], format="trec")
    assert (tmp_path / "a.trec").read_text() == "q2 Q0 d3 1 2.0 t\nq3 Q0 d4 1 1.0 -\nq3 Q0 d5 2 1.0 -\n"


@pytest.mark.parametrize(
    ("docid", "format", "message"),
    [
        ("d 1", "trec", r"id 'd 1' has white space, which a trec ranking cannot represent. Set format=text."),
        ("d\u20031", "trec", "has white space.*Set format=text"),
        ("d\t1", "trec", "id 'd\\\\t1' has white space.*Rename it"),
        ("d\t1", "text", "which a text ranking cannot represent. Rename it"),
        ("d\n1", "text", "which a text ranking cannot represent. Rename it"),
        ("", "trec", "id '' is blank"),
    ],
)
def test_an_unrepresentable_id_is_refused_and_no_file_appears(tmp_path, docid, format, message):
    with pytest.raises(UserError, match=message):
        write_rankings(tmp_path / "x", [ranking("q", {"d": 1}), ranking("q2", {docid: 1})], format=format)
    assert list(tmp_path.iterdir()) == []


def test_foreign_runs_are_sorted_by_every_digit_of_their_scores(tmp_path):
    file = write(
        tmp_path / "foreign.run",
        "q2\tQ0\td1\t1\t1.00000000001\tother\r\n"
        "q2 Q0   d2 2 1.00000000002 other\r\n"
        "q2 Q0 d3 0 -3e2 other\n"
        "q2 Q0 d4 0 7 other\n"
        "\n"
        "q1 Q0 d9 1 0.5 other\n"
        "q1 Q0 d8 2 0.5 other",
    )
    assert as_lists(read_rankings(file)) == [
        ("q2", ["d4", "d2", "d1", "d3"], [7.0, 1.0, 1.0, -300.0]),
        ("q1", ["d9", "d8"], [0.5, 0.5]),
    ]
    assert next(read_rankings(file)).tag == "other"


def test_a_trec_line_may_have_two_tabs_among_blanks(tmp_path):
    file = write(tmp_path / "a.trec", "q1 Q0\td1 1 0.5\t7\nq1 Q0 d2 2 0.25 7\n")
    assert as_lists(read_rankings(file)) == [("q1", ["d1", "d2"], [0.5, 0.25])]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
@example([0.0, -0.0, 1e-4, 9.9e-5, 1e-3, -2.5e-3, 3.0, 0.1, 16777216.0, 999999.94, 1e6, 1.5e7, 3.4e38, 1e-45])
def test_scores_are_written_as_numpy_writes_them(tmp_path_factory, values):
    file, scores = tmp_path_factory.mktemp("ranking") / "x.trec", np.array(values, np.float32)
    docids = [f"d{i}" for i in range(len(scores))]
    write_rankings(file, [Ranking("q", docids, scores, "tag"), Ranking("none", [], scores[:0])], format="trec")
    lines = [f"q Q0 d{i} {i + 1} {score!s} tag\n" for i, score in enumerate(scores)]
    assert file.read_text() == "".join(lines)


def test_only_finite_scores_are_written_and_all_are_read_back(tmp_path):
    largest, file = np.finfo(np.float32).max, tmp_path / "a.trec"
    write_rankings(file, [Ranking("q", ["a", "b"], np.array([largest, -largest], np.float32))], format="trec")
    assert as_lists(read_rankings(file)) == [("q", ["a", "b"], [largest, -largest])]
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(UserError, match="query q has a score that is not finite"):
            write_rankings(file, [Ranking("q", ["a"], np.array([bad], np.float32))], format="trec")


def test_tevatron_text_may_have_blanks_in_ids_or_as_separator(tmp_path):
    file = write(tmp_path / "rank.txt", "a q\tdoc 1\t1\na q\tdoc 2\t2.5\n01 7 1e-3\n")
    assert as_lists(read_rankings(file)) == [("a q", ["doc 2", "doc 1"], [2.5, 1.0]), ("01", ["7"], [np.float32(1e-3)])]


@pytest.mark.parametrize(
    "line",
    [
        "q1 Q0 d2 2 0.5",
        "q1 d2",
        "q1 Q0 d2 2 high t",
        "q1\td2\tnan",
        "q1\td2\tinf",
        "q1\td2\t1e39",
        "q1 Q0 d2 2 1_0 t",
        "q1 Q0 d2 2 \u0661 t",
        "q1\t\t0.5",
        "q1 Q0 d2 2 0.5 t more",
    ],
)
def test_a_malformed_line_is_named(tmp_path, line):
    file = write(tmp_path / "bad.trec", f"q1 Q0 d1 1 0.75 t\n\n{line}\n")
    with pytest.raises(UserError) as error:
        list(read_rankings(file))
    form = "TREC `qid Q0 docid rank score tag` with a finite score"
    assert str(error.value) == f"{file}, line 3: {line!r} is not {form}. Correct the line."


@pytest.mark.parametrize("line", ["q1\td2\tnan", "q1\td2\tinf", "q1\td2\t1e39", "q1\t\t0.5", "q1 Q0 d2 1 0.5 t"])
def test_a_malformed_line_among_three_columns_is_named(tmp_path, line):
    file = write(tmp_path / "bad.txt", f"q1\td1\t0.75\n{line}\n")
    with pytest.raises(UserError) as error:
        list(read_rankings(file))
    form = "text `qid docid score` with a finite score"
    assert str(error.value) == f"{file}, line 2: {line!r} is not {form}. Correct the line."


FORMS = "TREC `qid Q0 docid rank score tag`; text `qid docid score`; MS MARCO `qid docid rank`; DPR JSON `[{ctxs}]`"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\nq1 d1\n", "line 2: 'q1 d1' has 2 columns"),
        ("query,passage,score\nq,d,1\n", "line 1: 'query,passage,score' has 1 columns"),
        ('{"qid": "q", "hits": []}\n{"qid": "r", "hits": []}\n', "entry 1: found '\"q\"'"),
        ('[{"question": "x", "hits": []}]', "entry 1: found the fields 'question', 'hits'"),
        ('[{"question": "x", "ctxs": [{"id": "1", "text": "t"}]}]', "found the fields 'id', 'text'"),
        ('[{"ctxs": [{"id": "1", "score": 1}]}]', "entry 1: it has neither an id nor a question"),
        ('[{"question": "x", "ctxs": [{"id": "1", "score": "NaN"}]}]', "entry 1: a passage without an id or a finite"),
        ('[{"question": "x", "ctxs": [{"id": "1", "score": 1}]}', "after entry 1: not valid JSON"),
    ],
)
def test_another_form_is_named_with_the_accepted_ones(tmp_path, text, found):
    file = write(tmp_path / "x", text)
    with pytest.raises(UserError) as error:
        list(read_rankings(file))
    assert str(error.value).startswith(f"{file}, ")
    assert found in str(error.value)
    assert f"Accepted: {FORMS}; Pyserini JSON `{{qid: {{contexts}}}}`." in str(error.value)


CONTEXTS = [
    {"id": "d1", "title": "t", "text": "x [1]", "score": "2.5", "has_answer": True},
    {"id": "wiki:7", "score": 3},
]
PYSERINI = [{"docid": "d1", "score": "2.5", "text": "t\nx", "has_answer": True}, {"docid": "7", "score": 3.0}]
FAIR = [{"question": "who’s  x", "answers": ["a"], "ctxs": CONTEXTS}, {"question": "y", "answers": [], "ctxs": []}]
SOURCES = {
    "FAIR, a list": FAIR,
    "with ids": [{"id": "q9", **FAIR[0]}],
    "Pyserini": {"q9": {"question": "who's x", "answers": ["a"], "contexts": PYSERINI}, "q8": {"contexts": []}},
}


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("source", SOURCES)
def test_the_json_of_dpr_and_of_pyserini_is_a_ranking(tmp_path, monkeypatch, source, indent):
    file = write(tmp_path / "r.json", "\ufeff" + json.dumps(SOURCES[source], indent=indent))
    rows = write_jsonl(tmp_path / "q.jsonl", [{"query_id": "q1", "query": "y"}, {"query_id": "q9", "query": "who's x"}])
    for characters in (8, 1 << 20):  # in pieces that end anywhere
        monkeypatch.setattr(text_files, "_PIECE", characters)
        assert as_lists(read_rankings(file, open_queries(str(rows)))) == [("q9", ["7", "d1"], [3.0, 2.5])]
    assert [r.qid for r in read_rankings(file)] == ["0" if source == "FAIR, a list" else "q9"]


def test_questions_of_one_text_are_matched_in_their_order(tmp_path):
    entries = [{"question": "x", "ctxs": [{"id": f"d{i}", "score": 1}]} for i in range(3)]
    file = write(tmp_path / "r.json", json.dumps(entries))
    rows = [{"query_id": f"q{i}", "query": "x"} for i in range(3)]
    queries = [open_queries(str(write_jsonl(tmp_path / f"{n}.jsonl", rows[:n]))) for n in (2, 3)]
    assert [(r.qid, r.docids) for r in read_rankings(file, queries[1])] == [(f"q{i}", [f"d{i}"]) for i in range(3)]
    with pytest.raises(UserError, match=r"r.json, entry 3: no query has the text 'x'"):
        list(read_rankings(file, queries[0]))


def test_ranks_from_one_are_ms_marco_s_and_other_numbers_scores(tmp_path):
    def docids(text, **options):
        return [r.docids for r in read_rankings(write(tmp_path / "r", text), **options)]

    ranks = "q0\tz\t1\nq1\ta\t1\nq1\tb\t2\nq1\tc\t4\nq2\tb\t2\nq2\ta\t1\n"
    assert docids(ranks) == [["z"], ["a", "b", "c"], ["a", "b"]]
    assert docids(ranks, format="text") == [["z"], ["c", "b", "a"], ["b", "a"]]
    assert docids("q a 1\nq b 2.0\n") == [["b", "a"]]
    assert docids("q a 3\nq b 2\nq c 1\n") == [["a", "b", "c"]]
    assert docids("q a 1\nq b 1\n") == [["a", "b"]]
    with pytest.raises(UserError, match=r"r, line 7: 'q2\\tc\\t0.5' is not MS MARCO .* with a rank of at least 1"):
        docids(ranks + "q2\tc\t0.5\n")
    with pytest.raises(UserError, match="r has ranks and no scores, which cannot be merged"):
        list(merge_rankings([write(tmp_path / "r", ranks)], depth=9))


def test_bytes_that_are_not_text_are_named_by_line(tmp_path):
    with pytest.raises(UserError, match="line 2: not UTF-8 text"):
        list(read_rankings(write(tmp_path / "bad.trec", b"q1 d1 1\nq1 d\xe9 1\n")))


def test_what_is_not_a_ranking_is_refused(tmp_path):
    with pytest.raises(UserError, match="absent does not exist"):
        list(read_rankings(tmp_path / "absent"))
    with pytest.raises(UserError, match="does not exist"):
        list(read_rankings(tmp_path))
    with pytest.raises(UserError, match="empty is empty"):
        list(read_rankings(write(tmp_path / "empty", "\n")))
    with pytest.raises(UserError, match="line 3: query q1 appears in two parts"):
        list(read_rankings(write(tmp_path / "mixed", "q1 d1 1\nq2 d1 1\nq1 d2 1\n")))
    with pytest.raises(UserError, match="query q1 has passage d1 twice"):
        list(read_rankings(write(tmp_path / "twice", "q1 d1 1\nq1 d1 2\n")))


@settings(deadline=None)
@given(
    scores=st.lists(st.lists(st.integers(-2, 2), min_size=0, max_size=12), min_size=1, max_size=5),
    depth=st.integers(1, 20),
)
def test_merging_equals_sorting_all_with_ties_in_corpus_order(scores, depth, tmp_path_factory):
    assume(all(scores))
    folder = tmp_path_factory.mktemp("merge")
    files, corpus = [], []
    for shard, values in enumerate(scores):
        passages = {f"{shard}-{row}": value for row, value in enumerate(values)}
        corpus += passages.items()
        best = dict(sorted(passages.items(), key=lambda pair: -pair[1])[:depth])
        files.append(folder / f"{shard}.trec")
        write_rankings(files[-1], [ranking("q", best), ranking("q2", {f"{shard}": shard})], format="trec")
    expected = sorted(corpus, key=lambda pair: -pair[1])[:depth]
    first, second = merge_rankings(files, depth=depth)
    assert list(zip(first.docids, first.scores.tolist(), strict=True)) == expected
    assert second.docids == [str(shard) for shard in reversed(range(len(scores)))][:depth]
    assert first.tag == "t"


def merge(tmp_path, *texts):
    files = [write(tmp_path / f"{k}.trec", text) for k, text in enumerate(texts)]
    return list(merge_rankings(files, depth=10))


def test_shards_that_do_not_belong_together_are_named(tmp_path):
    with pytest.raises(UserError, match=r"1.trec has query q2 where .*0.trec has query q1"):
        merge(tmp_path, "q1 Q0 a 1 1 t\nq2 Q0 a 1 1 t\n", "q2 Q0 b 1 1 t\nq1 Q0 b 1 1 t\n")
    with pytest.raises(UserError, match=r"1.trec ends where .*0.trec has query q2"):
        merge(tmp_path, "q1 Q0 a 1 1 t\nq2 Q0 a 1 1 t\n", "q1 Q0 b 1 1 t\n")
    with pytest.raises(UserError, match=r"1.trec has query q2 where .*0.trec ends"):
        merge(tmp_path, "q1 Q0 a 1 1 t\n", "q1 Q0 b 1 1 t\nq2 Q0 b 1 1 t\n")
    with pytest.raises(UserError, match=r"1.trec and .*0.trec are tagged u and t: they are by two models"):
        merge(tmp_path, "q1 Q0 a 1 1 t\n", "q1 Q0 b 1 1 u\n")
    with pytest.raises(UserError, match=r"passage b of query q1 appears in 1.trec and 2.trec"):
        merge(tmp_path, "q1 Q0 a 1 1 t\n", "q1 Q0 b 1 1 t\n", "q1 Q0 b 1 2 t\n")


def test_merging_warns_of_shards_searched_less_deep(tmp_path, caplog):
    merge(tmp_path, "q1 Q0 a 1 1 t\n", "q1 Q0 b 1 1 t\n")
    assert "depth=10, but shards have 1 passages per query" in caplog.text
    caplog.clear()
    deep = "".join(f"q1 Q0 a{i} {i} 1 t\n" for i in range(10))
    merge(tmp_path, deep, "q1 Q0 b 1 1 t\n")
    assert not caplog.text
