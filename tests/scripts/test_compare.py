"""Comparison of runs: the figures are those of `accuracy.py`, whatever the order of the questions."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from support.commands import assert_mistake, assert_succeeds, run_script

from dpr_lightning.evaluation.accuracy import accuracy_at, paired_difference
from dpr_lightning.retrieval.provenance import file_hash


def write_run(run_dir, first_hits, *, topk=(1, 5, 20), split="test", answers_of=None, question="?", **changes):
    folder = run_dir / "evaluation" / split
    folder.mkdir(parents=True)
    metrics = {"accuracy": dict.fromkeys(map(str, topk), 0.0), "answers": "string", "match_title": False, **changes}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = [
        {"qid": qid, "question": question, "answers": (answers_of or {}).get(qid, ["a"]), "first_hit": rank or None}
        for qid, rank in first_hits.items()
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    return run_dir


@pytest.fixture
def hits():
    rng = np.random.default_rng(8)
    return {
        name: dict(zip([f"q{i}" for i in range(80)], rng.integers(0, 30, 80).tolist(), strict=True))
        for name in ("a", "b")
    }


def test_figures_are_paired_by_question_not_by_line(tmp_path, hits, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    first = write_run(tmp_path / "a", hits["a"])
    turned = dict(reversed(hits["b"].items()))
    second = write_run(tmp_path / "b", turned, topk=(1, 5, 100))
    out = assert_succeeds(
        run_script("compare", first, second, "--json", tmp_path / "c.json", "--plot", tmp_path / "c.svg")
    )
    result = json.loads((tmp_path / "c.json").read_text())
    a, b = (np.array(list(hits[name].values())) for name in "ab")
    assert (result["baseline"], result["questions"], result["split"]) == ("a", 80, "test")
    for name, ranks in (("a", a), ("b", b)):
        assert result["systems"][name]["accuracy"] == {str(k): accuracy_at(ranks, k)._asdict() for k in (1, 5)}
    assert result["systems"]["b"]["difference"] == {str(k): paired_difference(b, a, k)._asdict() for k in (1, 5)}
    assert "difference" not in result["systems"]["a"]

    difference = paired_difference(b, a, 5)
    row = [line for line in out.splitlines() if " b " in line][1]
    assert f"{accuracy_at(b, 5).value:.3f}" in row
    assert f"{difference.value:+.3f}" in row
    assert f"[{difference.low:+.3f}, {difference.high:+.3f}]" in row
    assert f"{difference.p_value:.2g}" in row

    lines = [e for e in ElementTree.parse(tmp_path / "c.svg").iter() if e.tag.endswith("polyline")]
    assert [len(line.get("points").split()) for line in lines] == [5, 5]
    assert "left out, because not every run has them: top-20, top-100\n" in out
    assert result["left_out"] == [20, 100]


def test_runs_of_the_same_name_are_named_by_their_path(tmp_path, hits):
    runs = [write_run(tmp_path / x / "run", hits[x]) for x in "ab"]
    assert_succeeds(run_script("compare", *runs, "--json", tmp_path / "c.json"))
    assert list(json.loads((tmp_path / "c.json").read_text())["systems"]) == list(map(str, runs))


def test_split_selects_what_is_compared(tmp_path, hits):
    run = write_run(tmp_path / "a", hits["a"], split="dev")
    assert "dev, 80 questions" in assert_succeeds(run_script("compare", run, "--split", "dev"))
    assert f"{run}/evaluation/test/questions.jsonl does not exist" in assert_mistake(run_script("compare", run))


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r", "\ufeff"])
def test_any_character_in_a_question_is_compared(tmp_path, character):
    hits = {f"q{character}0": 1, "q1": 0}
    runs = [
        write_run(tmp_path / name, hits, question=f"a{character}b", answers_of={"q1": [f"{character}x"]})
        for name in "ab"
    ]
    assert "2 questions" in assert_succeeds(run_script("compare", *runs))


def test_runs_that_cannot_be_compared_are_refused(tmp_path, hits):
    first = write_run(tmp_path / "a", hits["a"])
    fewer = write_run(tmp_path / "fewer", dict(list(hits["b"].items())[1:]))
    rule = write_run(tmp_path / "rule", hits["b"], answers="regex")
    title = write_run(tmp_path / "title", hits["b"], match_title=True)
    other_k = write_run(tmp_path / "k", hits["b"], topk=(2, 3))
    assert "differ in question q0" in assert_mistake(run_script("compare", first, fewer))
    assert "match answers by different rules" in assert_mistake(run_script("compare", first, rule))
    assert "match answers by different rules" in assert_mistake(run_script("compare", first, title))
    assert "no common cutoff" in assert_mistake(run_script("compare", first, other_k))
    assert "is given twice" in assert_mistake(run_script("compare", first, first))
    answers = write_run(tmp_path / "answers", hits["b"], answers_of={"q7": ["b"]})
    assert "have different answers to question q7" in assert_mistake(run_script("compare", first, answers))


def test_an_evaluation_older_than_its_ranking_is_refused(tmp_path, hits):
    ranking = tmp_path / "test.trec"
    ranking.write_text("q0 Q0 d0 1 1 t\n")
    facts = {"run_file": str(ranking), "run_file_xxh3": file_hash(ranking)}
    runs = [write_run(tmp_path / "a", hits["a"], **facts), write_run(tmp_path / "b", hits["b"])]
    assert "top-5" not in assert_succeeds(run_script("compare", *runs))
    ranking.write_text("q0 Q0 d1 1 1 t\n")
    assert f"{tmp_path}/a/evaluation/test is older than {ranking}" in assert_mistake(run_script("compare", *runs))
    ranking.unlink()
    assert_succeeds(run_script("compare", *runs))


def test_different_corpora_are_reported(tmp_path, hits):
    runs = [write_run(tmp_path / name, hits["a"], corpus_fingerprint=f"c{name}") for name in "ab"]
    assert "the runs were evaluated on different corpora\n" in assert_succeeds(run_script("compare", *runs))
    runs[1] = write_run(tmp_path / "c", hits["a"], corpus_fingerprint="ca")
    assert "different corpora" not in assert_succeeds(run_script("compare", *runs))


def test_a_damaged_evaluation_is_named(tmp_path, hits):
    run = write_run(tmp_path / "a", hits["a"])
    (run / "evaluation" / "test" / "metrics.json").write_text("{")
    assert "metrics.json: damaged" in assert_mistake(run_script("compare", run))
