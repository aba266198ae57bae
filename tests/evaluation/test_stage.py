"""The evaluation stage on a world of six passages: what counts, what is written, what is refused."""

import json
import random
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.embedding_files import numbers, write_embeddings
from support.world import SHARED, write_jsonl

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.output import read_metrics, read_questions
from dpr_lightning.evaluation.stage import evaluate
from dpr_lightning.files import file_hash
from dpr_lightning.retrieval.provenance import Provenance, write_provenance
from dpr_lightning.run_dir import RunDir

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
    "q0": ["d0", "d4", "d1", "d2", "d 3", "d5"],
    "7": ["d2", "d0", "d1", "d 3", "d4", "d5"],
    "q2": ["d0", "d1", "d5", "d2", "d4", "d 3"],
}


@pytest.fixture
def run(tmp_path):
    """A function that evaluates the world, changed by keyword arguments, and returns metrics and output folder."""

    def evaluated(*, questions=QUESTIONS, ranking=RUN, passages=PASSAGES, **options):
        lines = [f"{qid}\t{docid}\t{9 - i}.5\n" for qid, docids in ranking.items() for i, docid in enumerate(docids)]
        (tmp_path / "run.txt").write_text("".join(lines))
        queries = open_queries(str(write_jsonl(tmp_path / "questions.jsonl", questions)))
        corpus = open_corpus(str(write_jsonl(tmp_path / "corpus.jsonl", passages)))
        options = {"topk": [1, 3, 5], "run_file": tmp_path / "run.txt", **options}
        evaluation = evaluate(RunDir(tmp_path), queries, corpus, **options)
        return evaluation.metrics, tmp_path / "evaluation" / "test"

    return evaluated


def first_hits(folder):
    return {row["qid"]: row["first_hit"] or 0 for row in read_questions(folder)}


def test_accuracy_counts_every_question_and_searches_the_text_only(run):
    metrics, folder = run()
    assert first_hits(folder) == {"q0": 3, "7": 1, "q2": 0, "q3": 0, "q4": 0}
    assert metrics["accuracy"] == {"1": 0.2, "3": 0.4, "5": 0.4}
    assert (metrics["questions"], metrics["missing"]) == (5, 1)
    assert metrics == read_metrics(folder)
    for k, (low, high) in metrics["interval"].items():
        assert 0 <= low <= metrics["accuracy"][k] <= high <= 1


def test_passages_beyond_the_last_cutoff_do_not_count(run):
    metrics, folder = run(topk=[6])
    assert metrics["accuracy"] == {"6": 0.8}
    assert first_hits(folder) == {"q0": 3, "7": 1, "q2": 6, "q3": 6, "q4": 0}
    assert run(topk=[5], overwrite=True)[0]["accuracy"] == {"5": 0.4}


def test_titles_are_searched_when_asked_for(run):
    metrics, folder = run(match_title=True)
    assert first_hits(folder)["q0"] == 1
    assert metrics["match_title"] is True


def test_regular_expressions_are_searched_when_asked_for(run):
    questions = [{**question, "answers": [r"c\w+e of fr", r"CAPITAL\b"]} for question in QUESTIONS]
    _, folder = run(questions=questions, answers="regex")
    assert first_hits(folder) == {"q0": 1, "7": 2, "q2": 1, "q3": 1, "q4": 0}


@pytest.mark.parametrize("answer", ["(open", "(?L)x", "(?a)(?u)x", "a{99999999999}", "*", "(" * 500 + ")" * 500, "\\"])
def test_a_regex_that_does_not_compile_is_named_and_matches_nothing(run, caplog, answer):
    questions = [{**question, "answers": ["CAPITAL"]} for question in QUESTIONS]
    valid, _ = run(questions=questions, answers="regex")
    questions[0]["answers"] = [answer, "CAPITAL"]
    questions[2]["answers"] = [answer]
    metrics, folder = run(questions=questions, answers="regex", overwrite=True)
    assert valid["invalid_answers"] == {"count": 0, "first": []}
    assert metrics["invalid_answers"]["count"] == 2
    assert [(one["qid"], one["answer"]) for one in metrics["invalid_answers"]["first"]] == [
        ("q0", answer),
        ("q2", answer),
    ]
    assert first_hits(folder) == {"q0": 1, "7": 2, "q2": 0, "q3": 1, "q4": 0}
    (warning,) = caplog.messages
    assert f"2 answers can never match: {answer[:60]!r} of question q0 is not a regular expression" in warning
    assert warning.isprintable()


def test_answers_without_a_token_are_named_and_only_some_of_many(run, caplog):
    questions = [{**question, "answers": [f"{chr(0x200B) * (i + 1)}" for i in range(4)]} for question in QUESTIONS]
    metrics, _ = run(questions=questions)
    assert metrics["invalid_answers"]["count"] == 20
    assert len(metrics["invalid_answers"]["first"]) == 10
    assert metrics["accuracy"] == {"1": 0, "3": 0, "5": 0}
    (warning,) = caplog.messages
    assert "20 answers can never match: '\\u200b' of question q0 is without a letter" in warning
    assert warning.endswith("; …")
    assert warning.isprintable()


def test_a_line_per_question_tells_its_first_hit(run):
    _, folder = run()
    rows = read_questions(folder)
    assert [row["qid"] for row in rows] == ["q0", "7", "q2", "q3", "q4"]
    assert rows[0] == {"qid": "q0", "question": "what is close", "answers": ["Paris"], "first_hit": 3, "docid": "d1"}
    assert (rows[2]["first_hit"], rows[2]["docid"]) == (None, None)


def dpr_accuracy(file, topk):
    """What Pyserini's program reports: the share of the file's questions with a hit among the first k contexts.

    It reads the stored `has_answer`; its early versions applied the rule to the second line of `text`. Both must agree.
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
    metrics, _ = run(qrels=tmp_path / "qrels")
    assert metrics["qrels"]["Success@1"] == pytest.approx(1 / 3)
    assert metrics["qrels"]["RR"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert (metrics["judged"], metrics["judged_without_relevant"], metrics["questions"]) == (3, 0, 5)
    assert metrics["accuracy"]["3"] == 0.4


def test_questions_without_answers_are_measured_by_qrels_alone(run, tmp_path):
    bare = [{"query_id": question["query_id"], "query": question["query"]} for question in QUESTIONS]
    with pytest.raises(UserError, match=r"queries: question q0 \(the first of 5\) has no answers"):
        run(questions=bare)
    (tmp_path / "qrels").write_text("q0 0 d4 1\n")
    metrics, folder = run(questions=bare, qrels=tmp_path / "qrels")
    assert metrics["accuracy"] == metrics["interval"] == {}
    assert metrics["without_answers"] == 5
    assert metrics["qrels"]["RR"] == 0.5
    assert set(first_hits(folder).values()) == {0}
    with pytest.raises(UserError, match=r"question 7 \(the first of 1\) has no answers"):
        some = [QUESTIONS[0], bare[1], *QUESTIONS[2:]]
        run(questions=some, qrels=tmp_path / "qrels", overwrite=True)


def test_any_measures_have_intervals_and_values_by_question(run, tmp_path):
    (tmp_path / "qrels").write_text("query-id\tcorpus-id\tscore\nq0\td4\t1\n7\td2\t2\nq4\td5\t1\n")
    metrics, folder = run(qrels=tmp_path / "qrels", measures=["nDCG@3", "Recall@2"])
    assert metrics["qrels"]["R@2"] == pytest.approx(2 / 3)
    assert list(metrics["qrels_interval"]) == list(metrics["qrels"]) == ["nDCG@3", "R@2"]
    assert metrics["qrels_interval"]["R@2"] == [0, 1]
    rows = {row["qid"]: row["measures"] for row in read_questions(folder)}
    assert rows["q0"] == {"nDCG@3": pytest.approx(1 / np.log2(3)), "R@2": 1}
    assert (rows["q2"], rows["q4"]) == ({}, {"nDCG@3": 0, "R@2": 0})
    with pytest.raises(UserError, match="measures: they need judged passages"):
        run(measures=["nDCG@3"], overwrite=True)
    with pytest.raises(UserError, match="measures: ir-measures does not know 'ndcg'"):
        run(measures=["ndcg"], run_file=tmp_path / "absent", overwrite=True)


def test_a_dpr_json_without_ids_is_evaluated_by_the_questions_texts(run, tmp_path):
    metrics, folder = run()
    texts = {row["query_id"]: row["query"] for row in QUESTIONS}
    entries = [
        {"question": texts[qid], "answers": [], "ctxs": [{"id": d, "score": str(9 - i)} for i, d in enumerate(docids)]}
        for qid, docids in RUN.items()
    ]
    (tmp_path / "fair.json").write_text(json.dumps(entries))
    pyserini = (folder / "dpr.json").read_text()
    (tmp_path / "pyserini.json").write_text(pyserini)
    for name in ("fair.json", "pyserini.json"):
        other, _ = run(run_file=tmp_path / name, overwrite=True)
        assert other["accuracy"] == metrics["accuracy"]
        assert other["missing"] == 1


def test_a_ranking_of_other_questions_or_passages_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"run.txt: question q9 \(the first of 2\) is not in `queries`"):
        run(ranking={**RUN, "q9": ["d0"], "q8": ["d0"]})
    with pytest.raises(UserError, match=r"run.txt: passage d9 \(the first of 1\) is not in `corpus`"):
        run(ranking={**RUN, "q4": ["d0", "d9"]})
    assert not (tmp_path / "evaluation").exists()
    run(ranking={**RUN, "q4": ["d0", "d9"]}, topk=[1])  # reads one passage per question


def test_settings_that_are_not_possible_are_refused(run):
    for topk, message in (
        ([], r"topk: \[\] is not a list of cutoffs"),
        (5, "topk: 5 is not a list of cutoffs"),
        ([1, 0], "topk: 0 is not a whole number of at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            run(topk=topk)
    with pytest.raises(UserError, match=r"answers: 'exact' is not possible"):
        run(answers="exact")


def test_finished_output_is_replaced_only_on_demand(run):
    _, folder = run()
    before = (folder / "questions.jsonl").read_bytes()
    with pytest.raises(UserError, match="evaluation/test is finished already with match_title=False"):
        run(match_title=True)
    with pytest.raises(UserError, match="evaluation/test is finished already with other cutoffs"):
        run(topk=(1, 2))
    assert (folder / "questions.jsonl").read_bytes() == before
    run(match_title=True, overwrite=True)
    assert (folder / "questions.jsonl").read_bytes() != before


def test_a_measure_that_is_cut_at_the_rankings_depth_is_found_again(run, tmp_path):
    (tmp_path / "qrels").write_text("q3 0 d5 1\n7 0 d2 1\n")
    ranking = {qid: docids[:5] for qid, docids in RUN.items()}
    metrics, _ = run(ranking=ranking, qrels=tmp_path / "qrels")
    assert "RR@5" in metrics["qrels"]
    assert run(ranking=ranking, qrels=tmp_path / "qrels")[0] == metrics
    with pytest.raises(UserError, match="evaluation/test is finished already with other measures"):
        run(ranking=ranking, qrels=tmp_path / "qrels", measures=["RR"])


def test_first_hits_of_a_folder_without_evaluation_are_refused(tmp_path):
    for read in (read_questions, read_metrics):
        with pytest.raises(UserError, match=r"(questions.jsonl|metrics.json) does not exist. Run evaluate.py"):
            read(tmp_path)


def cut(ranking, lengths):
    return {qid: docids[:length] for (qid, docids), length in zip(ranking.items(), lengths, strict=True)}


def test_a_flipped_bit_in_the_figures_is_an_error_or_changes_nothing(run):
    (written, folder), draw = run(), random.Random(0)

    def read():
        metrics = read_metrics(folder)
        return {name: metrics.get(name) for name in written}, read_questions(folder, metrics)

    intact = read()
    for name in ("metrics.json", "questions.jsonl"):
        content = (folder / name).read_bytes()
        for position in draw.sample(range(len(content)), 80):
            flipped = content[position] ^ (1 << draw.randrange(8))
            (folder / name).write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
            try:
                assert read() == intact
            except UserError as error:
                assert f"{name}" in str(error)
        (folder / name).write_bytes(content)


def test_cutoffs_beyond_the_rankings_are_left_out(run):
    metrics, _ = run(ranking=cut(RUN, [2, 2, 2, 2]), topk=[1, 2, 3, 5, 100])
    assert metrics["accuracy"] == {"1": 0.2, "2": 0.2}
    assert list(metrics["interval"]) == ["1", "2"]
    assert metrics["left_out"] == {f"accuracy@{k}": [0.2, 0.8] for k in (3, 5, 100)}
    assert metrics["undecided"] == {f"accuracy@{k}": 3 for k in (3, 5, 100)}
    assert metrics["depth"] == 2


def test_rankings_too_short_for_every_cutoff_are_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"topk: .*run.txt ranks 2 passages per question, too few for \[3, 100\]"):
        run(ranking=cut(RUN, [2, 2, 2, 2]), topk=[100, 3])
    assert not (tmp_path / "evaluation").exists()


def test_cutoffs_beyond_the_corpus_count_every_passage(run):
    metrics, _ = run(topk=[6, 7, 1000])
    assert metrics["accuracy"] == {"6": 0.8, "7": 0.8, "1000": 0.8}
    assert metrics["left_out"] == metrics["undecided"] == {}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(st.permutations([passage["docid"] for passage in PASSAGES]), min_size=4, max_size=4),
    lengths=st.lists(st.integers(1, 6), min_size=4, max_size=4),
)
def test_a_figure_is_that_of_the_full_rankings_or_left_out(run, order, lengths):
    topk = [1, 2, 3, 4, 5, 6, 50]
    full = dict(zip(RUN, order, strict=True))
    whole, _ = run(ranking=full, topk=topk, overwrite=True)
    metrics, _ = run(ranking=cut(full, lengths), topk=topk, overwrite=True)
    assert metrics["accuracy"].items() <= whole["accuracy"].items()
    assert len(metrics["accuracy"]) + len(metrics["left_out"]) == len(topk)
    assert all(f"accuracy@{k}" in metrics["left_out"] for k in topk if min(k, 6) > max(lengths))
    for name, (low, high) in metrics["left_out"].items():
        assert low <= whole["accuracy"][name.removeprefix("accuracy@")] <= high


def test_a_few_short_rankings_of_thousands_count_as_misses(run):
    questions = [{"query_id": f"q{i}", "query": "x", "answers": ["Paris"]} for i in range(2000)]
    ranking = {row["query_id"]: ["d1", "d2", "d4"] for row in questions} | {"q5": ["d4"], "q9": ["d2"]}
    metrics, _ = run(questions=questions, ranking=ranking)
    assert metrics["accuracy"]["3"] == 1998 / 2000
    assert metrics["undecided"] == {"accuracy@3": 2, "accuracy@5": 2}
    assert metrics["left_out"] == {"accuracy@5": [0.999, 1.0]}


def test_thousands_of_distinct_passages_are_read(run):
    count = 2500
    passages = [{"docid": f"p{i}", "title": f"t{i}", "text": f"word{i} and more"} for i in range(count)]
    questions = [{"query_id": f"q{i}", "query": "x", "answers": [f"word{i}"]} for i in range(count)]
    ranking = {f"q{i}": [f"p{(i * 7 + 1) % count}", f"p{i}"] for i in range(count)}
    metrics, folder = run(questions=questions, passages=passages, ranking=ranking, topk=[1, 2])
    hits = first_hits(folder)
    assert hits == {f"q{i}": 1 if (i * 7 + 1) % count == i else 2 for i in range(count)}
    assert metrics["accuracy"]["2"] == 1
    contexts = json.loads((folder / "dpr.json").read_text())["q2345"]["contexts"]
    assert [context["text"] for context in contexts] == ["t1416\nword1416 and more", "t2345\nword2345 and more"]


def test_ties_that_change_a_measure_are_warned_of(run, tmp_path, caplog):
    (tmp_path / "qrels").write_text("q0 0 d4 1\n7 0 d2 1\n")
    (tmp_path / "tied.trec").write_text("q0 Q0 d1 1 2 x\nq0 Q0 d4 2 2 x\n7 Q0 d2 1 2 x\n7 Q0 d0 2 1 x\n")
    metrics, _ = run(qrels=tmp_path / "qrels", run_file=tmp_path / "tied.trec", topk=[1])
    assert metrics["qrels"]["RR"] == 0.75
    assert metrics["ties"]["RR"] == [0.75, 1.0]
    (warning,) = caplog.messages
    assert "tied.trec: equal scores keep the file's order here, trec_eval orders them by docid: " in warning
    assert "RR 0.7500 (trec_eval 1.0000)" in warning
    caplog.clear()
    (tmp_path / "tied.trec").write_text("q0 Q0 d4 1 2 x\nq0 Q0 d1 2 2 x\n7 Q0 d2 1 2 x\n7 Q0 d0 2 1 x\n")
    assert run(qrels=tmp_path / "qrels", run_file=tmp_path / "tied.trec", topk=[1], overwrite=True)[0]["ties"] == {}
    assert not caplog.messages


def test_the_run_folder_s_ranking_is_found_by_split_and_format(run, tmp_path):
    (tmp_path / "rankings").mkdir()
    for format, ending in (("trec", "trec"), ("text", "txt")):
        lines = "q0\td1\t1\n" if format == "text" else "q0 Q0 d1 1 1 x\n"
        (tmp_path / "rankings" / f"dev.{ending}").write_text(lines)
        metrics, _ = run(run_file=None, split="dev", format=format, topk=[1], overwrite=True)
        assert metrics["run_file"] == f"{tmp_path}/rankings/dev.{ending}"
        assert metrics["accuracy"] == {"1": 0.2}
    with pytest.raises(UserError, match="format: 'xml' is not possible"):
        run(format="xml")


def record(tmp_path, corpus=PASSAGES, questions=QUESTIONS, **changes):
    """Gives run.txt the provenance of a search over these passages and questions."""
    passages = open_corpus(str(write_jsonl(tmp_path / "c" / "corpus.jsonl", corpus))).fingerprint
    queries = open_queries(str(write_jsonl(tmp_path / "c" / "questions.jsonl", questions))).fingerprint
    facts = {"model": "m0", "queries": queries, "passages": passages, "depth": None, "index": None, "embeddings": {}}
    write_provenance(tmp_path / "run.txt", Provenance(**{**facts, **changes}))


def test_the_metrics_identify_ranking_corpus_and_model(run, tmp_path):
    foreign, _ = run()
    assert foreign["model_fingerprint"] is None
    record(tmp_path)
    metrics, _ = run(overwrite=True)
    assert metrics["model_fingerprint"] == "m0"
    assert metrics["run_file_xxh3"] == foreign["run_file_xxh3"] == file_hash(tmp_path / "run.txt")
    other, _ = run(overwrite=True, ranking={**RUN, "q0": ["d1"]}, passages=PASSAGES[::-1])
    assert other["run_file_xxh3"] != foreign["run_file_xxh3"]
    assert other["corpus_fingerprint"] != foreign["corpus_fingerprint"]


def test_a_corpus_other_than_the_searched_one_is_refused(run, tmp_path):
    run()
    record(tmp_path, corpus=[*PASSAGES[:-1], {**PASSAGES[-1], "text": "Changed since."}])
    with pytest.raises(UserError, match=r"corpus: its passages are not those that .*run.txt was made from"):
        run(overwrite=True)


def test_questions_changed_since_the_search_are_warned_of(run, tmp_path, caplog):
    run()
    record(tmp_path, questions=QUESTIONS[:-1])
    run(overwrite=True)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "the questions or answers have changed since these were searched"
    ]


def test_ranks_deeper_than_the_shards_were_searched_do_not_count(run, tmp_path, caplog):
    run()
    record(tmp_path, depth=2)
    metrics, folder = run(overwrite=True, topk=[1, 2, 3, 6])
    assert list(metrics["accuracy"]) == ["1", "2"]
    assert metrics["depth"] == 2
    assert first_hits(folder)["q0"] == 0
    assert "run.txt: ranks beyond 2 are ignored, because its shards were searched no deeper" in caplog.text


def test_a_ranking_older_than_the_run_s_embeddings_is_refused(run, tmp_path):
    ranking = RunDir(tmp_path).ranking("test")
    ranking.parent.mkdir()
    ranking.write_text("q0 Q0 d1 1 1 dpr_lightning-0123abcd\n")
    options = {"run_file": ranking, "topk": [1], "overwrite": True}
    run(**options)
    embeddings = RunDir(tmp_path).query_embeddings("test")
    write_embeddings(embeddings, numbers(5), [row["query_id"] for row in QUESTIONS], side="query", model="0123abcdef")
    run(**options)
    embeddings.unlink()
    write_embeddings(embeddings, numbers(5), [row["query_id"] for row in QUESTIONS], side="query", model="fedcba9876")
    with pytest.raises(UserError, match=r"test.trec was made with another model than .*query/test.safetensors"):
        run(**options)


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="nq-mini is not there")
def test_the_gold_passages_of_nq_mini_hold_their_answers(tmp_path):
    """A ranking of every question's gold passage alone: qrels are all met, and nearly all hold the answer."""
    gold = dict(line.split()[0:3:2] for line in (SHARED / "test.qrels").read_text().splitlines())
    (tmp_path / "run.trec").write_text("".join(f"{qid} Q0 {docid} 1 1.0 gold\n" for qid, docid in gold.items()))
    queries, corpus = open_queries(str(SHARED / "test.jsonl.gz")), open_corpus(str(SHARED / "corpus.jsonl.gz"))
    options = {"topk": [1], "qrels": SHARED / "test.qrels", "run_file": tmp_path / "run.trec"}
    evaluation = evaluate(RunDir(tmp_path), queries, corpus, **options)
    assert evaluation.metrics["qrels"] == {"Success@1": 1, "RR": 1}
    assert evaluation.metrics["left_out"] == {"nDCG@10": [1, 1]}
    assert evaluation.metrics["accuracy"]["1"] > 0.95
    assert (
        np.mean([row["first_hit"] == 1 for row in read_questions(tmp_path / "evaluation" / "test")])
        == evaluation.metrics["accuracy"]["1"]
    )
