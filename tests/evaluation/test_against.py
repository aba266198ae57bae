"""An evaluation against another one: the figures are those of `scripts/compare.py`, and the questions are named."""

import json
import shutil

import pytest
from support.commands import run_script
from support.world import write_jsonl

from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.errors import UserError
from dpr_lightning.evaluation.output import read_metrics
from dpr_lightning.evaluation.stage import evaluate
from dpr_lightning.evaluation.table import accuracy_table
from dpr_lightning.run_dir import RunDir

WORDS = ["ant", "bee", "cat", "dog", "eel", "fox"]
PASSAGES = [{"docid": f"d{i}", "title": "", "text": f"the {word}"} for i, word in enumerate(WORDS)]
QUESTIONS = [{"query_id": f"q{i}", "query": f"which {word}", "answers": [word]} for i, word in enumerate(WORDS)]
FIRST_HITS = {"old": [1, 2, 3, 4, 1, 6], "new": [2, 1, 1, 3, 1, 6]}


@pytest.fixture
def evaluated(tmp_path):
    """A function that evaluates a run in which the answer of each question has a given rank."""

    def run(name, first_hits, *, questions=QUESTIONS, **options):
        lines = []
        for i, rank in enumerate(first_hits):
            docids = [f"d{j}" for j in range(6) if j != i]
            docids.insert(rank - 1, f"d{i}")
            lines += [f"q{i}\t{docid}\t{9 - j}.5\n" for j, docid in enumerate(docids)]
        ranking = tmp_path / f"{name}.{options.get('split')}.txt"
        ranking.write_text("".join(lines))
        (tmp_path / "qrels").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(6)))
        queries = open_queries(str(write_jsonl(tmp_path / f"{name}.jsonl", questions)))
        corpus = open_corpus(str(write_jsonl(tmp_path / "corpus.jsonl", PASSAGES)))
        options = {"topk": [1, 2, 5], "run_file": ranking, **options}
        return evaluate(RunDir(tmp_path / name), queries, corpus, **options).metrics

    return run


def test_won_and_lost_questions_are_named_and_figures_are_those_of_compare(evaluated, tmp_path):
    qrels = tmp_path / "qrels"
    evaluated("old", FIRST_HITS["old"], qrels=qrels)
    against = evaluated("new", FIRST_HITS["new"], qrels=qrels, against=tmp_path / "old", topk=[1, 2, 3])["against"]
    assert (against["run"], against["name"]) == (str(tmp_path / "old"), "old")
    assert list(against["accuracy"]) == ["1", "2"]  # the cutoffs of both
    assert {k: (one["won"], one["lost"]) for k, one in against["accuracy"].items()} == {
        "1": (["q1", "q2"], ["q0"]),
        "2": (["q2"], []),
    }
    assert run_script("compare", tmp_path / "old", tmp_path / "new", "--json", tmp_path / "c.json")[0] == 0
    compared = json.loads((tmp_path / "c.json").read_text())["systems"]["new"]
    for ours, theirs in ((against["accuracy"], "difference"), (against["measures"], "measure_difference")):
        for figure, one in ours.items():
            expected = compared[theirs][figure]
            assert (one["difference"], one["p"]) == (expected["value"], expected["p_value"])
            assert one["interval"] == [expected["low"], expected["high"]]
    assert {"RR", "Success@1"} <= against["measures"].keys()

    table = accuracy_table("new", read_metrics(tmp_path / "new" / "evaluation" / "test"), {}, 80)
    (line,) = (line for line in table.splitlines() if line.startswith("top-1 "))
    assert line.split() == ["top-1", "+0.167", "[-0.333,", "+0.667]", "p", "1", "2", "won,", "1", "lost"]
    assert max(map(len, table.splitlines())) <= 80


def test_the_folder_of_an_evaluation_stands_for_itself(evaluated, tmp_path):
    evaluated("one", FIRST_HITS["old"])
    folder = tmp_path / "one" / "evaluation" / "test"
    against = evaluated("one", FIRST_HITS["new"], split="dev", against=folder)["against"]
    assert (against["run"], against["name"]) == (str(folder), "one/test")
    with pytest.raises(UserError, match=r"against: .*one has this evaluation itself. Give another run"):
        evaluated("one", FIRST_HITS["new"], against=tmp_path / "one", overwrite=True)


def test_a_stored_evaluation_notices_another_comparison(evaluated, tmp_path):
    for name in ("old", "older"):
        evaluated(name, FIRST_HITS["old"])
    metrics = evaluated("new", FIRST_HITS["new"], against=tmp_path / "old")
    assert evaluated("new", FIRST_HITS["new"], against=tmp_path / "old") == metrics
    for against in (tmp_path / "older", None):
        with pytest.raises(UserError, match=r"finished already with against=.*/old\. Set overwrite=true"):
            evaluated("new", FIRST_HITS["new"], against=against)
    evaluated("old", FIRST_HITS["new"], overwrite=True)
    with pytest.raises(UserError, match="finished already with against_xxh3="):
        evaluated("new", FIRST_HITS["new"], against=tmp_path / "old")


def test_an_evaluation_of_other_questions_is_refused_and_nothing_is_written(evaluated, tmp_path):
    evaluated("fewer", FIRST_HITS["old"][:5], questions=QUESTIONS[:5])
    evaluated("cutoffs", FIRST_HITS["old"], topk=[4])
    other = [{**one, "answers": ["the"]} for one in QUESTIONS]
    evaluated("answers", FIRST_HITS["old"], questions=other)
    new = tmp_path / "new" / "evaluation" / "test"
    for name, message in (
        ("fewer", f"{new} and {tmp_path}/fewer/evaluation/test differ in question q5"),
        ("answers", "have different answers to question q0"),
        ("cutoffs", "against: .*cutoffs/evaluation/test has no cutoff and no measure of this evaluation"),
        ("absent", "absent/evaluation/test/metrics.json does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            evaluated("new", FIRST_HITS["new"], against=tmp_path / name)
        assert not new.exists()


def test_the_command_compares(command, settings, finished_run, tmp_path):
    shutil.copytree(finished_run / "evaluation" / "test", tmp_path / "earlier run")
    code, out, err = command("evaluate", *settings, f"against={tmp_path}/earlier run", "overwrite=true")
    assert (code, err) == (0, "")
    assert "+0.000 [+0.000, +0.000]  p 1" in out and "0 won, 0 lost" in out
    code, _, err = command("evaluate", *settings)
    assert code == 1 and f"is finished already with against={tmp_path}/earlier run. Set overwrite=true" in err
    code, _, err = command("evaluate", *settings, "against=absent", "overwrite=true")
    assert code == 1 and err.startswith("absent/evaluation/test/metrics.json does not exist")
