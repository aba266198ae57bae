"""Runs compared on the same questions: the figures are those of `accuracy.py`, whatever the order of questions."""

import csv
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from support.commands import assert_mistake, assert_succeeds, run_script

from dpr_lightning.evaluation.accuracy import accuracy_at, paired_difference
from dpr_lightning.evaluation.resampling import bootstrap_intervals, holm, mean_with_interval, paired_mean_difference
from dpr_lightning.retrieval.provenance import file_hash


def write_run(
    run_dir, first_hits, *, topk=(1, 5, 20), split="test", answers_of=None, question="?", measures=None, **changes
):
    folder = run_dir / "evaluation" / split
    folder.mkdir(parents=True)
    metrics = {"accuracy": dict.fromkeys(map(str, topk), 0.0), "answers": "string", "match_title": False, **changes}
    if measures is not None:
        for name in ("qrels", "qrels_interval"):
            metrics[name] = {}
        for name, values in measures.items():
            metrics["qrels"][name] = float(np.mean(list(values.values())))
            metrics["qrels_interval"][name] = list(mean_with_interval([np.array(list(values.values()))])[1:])
    (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = [
        {"qid": qid, "question": question, "answers": (answers_of or {}).get(qid, ["a"]), "first_hit": rank or None}
        for qid, rank in first_hits.items()
    ]
    for row in rows if measures is not None else ():
        row["measures"] = {name: values[row["qid"]] for name, values in measures.items() if row["qid"] in values}
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

    texts = {e.text for e in ElementTree.parse(tmp_path / "c.svg").iter() if e.tag.endswith("text")}
    assert {"a", "b", "accuracy@k", "1", "2", "5"} <= texts
    assert "10" not in texts
    assert "left out, because not every run has them: top-20, top-100\n" in out
    assert result["left_out"] == [20, 100]


def test_runs_of_one_name_are_told_apart_by_the_end_of_their_path(tmp_path, hits, monkeypatch):
    runs = [write_run(tmp_path / x / "run", hits[x]) for x in "ab"]
    other = write_run(tmp_path / "other", hits["a"])
    evaluations = [run / "evaluation" / "test" for run in runs]
    monkeypatch.chdir(tmp_path / "a")
    for given, names in (
        ([*runs, other], ["a/run", "b/run", "other"]),
        (["run", runs[1]], ["run", "b/run"]),
        (evaluations, ["a/run/test", "b/run/test"]),
    ):
        assert_succeeds(run_script("compare", *given, "--json", tmp_path / "c.json"))
        assert list(json.loads((tmp_path / "c.json").read_text())["systems"]) == names


def test_another_split_is_compared_on_demand(tmp_path, hits):
    run = write_run(tmp_path / "a", hits["a"], split="dev")
    assert "dev, 80 questions" in assert_succeeds(run_script("compare", run, "--split", "dev"))
    assert f"{run}/evaluation/test/metrics.json does not exist" in assert_mistake(run_script("compare", run))


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


def test_runs_on_different_corpora_are_told(tmp_path, hits):
    runs = [write_run(tmp_path / name, hits["a"], corpus_fingerprint=f"c{name}") for name in "ab"]
    assert "the runs were evaluated on different corpora\n" in assert_succeeds(run_script("compare", *runs))
    runs[1] = write_run(tmp_path / "c", hits["a"], corpus_fingerprint="ca")
    assert "different corpora" not in assert_succeeds(run_script("compare", *runs))


def test_a_damaged_evaluation_is_named(tmp_path, hits):
    run = write_run(tmp_path / "a", hits["a"])
    (run / "evaluation" / "test" / "metrics.json").write_text("{")
    assert "metrics.json: damaged" in assert_mistake(run_script("compare", run))


def judged(seed, qids, better=0.0):
    rng = np.random.default_rng(seed)
    return {"nDCG@10": dict(zip(qids, np.minimum(1, rng.random(len(qids)) + better).tolist(), strict=True))}


def test_judged_measures_are_compared_on_the_judged_questions(tmp_path, hits):
    qids = list(hits["a"])[:50]
    values = [judged(0, qids), judged(1, qids, 0.5), judged(2, qids)]
    runs = [
        write_run(tmp_path / name, hits["a"], measures=own, qrels_fingerprint="x", topk=())
        for name, own in zip("abc", values, strict=True)
    ]
    out = assert_succeeds(run_script("compare", *runs, "--json", tmp_path / "c.json"))
    systems = json.loads((tmp_path / "c.json").read_text())["systems"]
    a, b, c = (np.array(list(own["nDCG@10"].values())) for own in values)
    assert systems["b"]["measures"]["nDCG@10"]["value"] == b.mean()
    expected = [paired_mean_difference([own], [a]) for own in (b, c)]
    assert [systems[name]["measure_difference"]["nDCG@10"] for name in "bc"] == [one._asdict() for one in expected]
    assert expected[0].p_value < 0.001 < expected[1].p_value
    assert systems["b"]["p_holm"]["nDCG@10"] == pytest.approx(2 * expected[0].p_value)
    assert "p: randomization test, corrected for 2 comparisons (Holm)" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    write_run(tmp_path / "d", hits["a"], measures=values[0], qrels_fingerprint="y", topk=())
    assert "have different judgments" in assert_mistake(run_script("compare", runs[0], tmp_path / "d"))


def test_a_folder_of_runs_or_a_glob_stands_for_its_runs(tmp_path, hits):
    for name in ("lr-1e-5+seed-1+batch_size-128", "lr-3e-5+seed-1+batch_size-128"):
        write_run(tmp_path / "sweep" / name, hits["a"])
    (tmp_path / "sweep" / "lr-9" / "train").mkdir(parents=True)
    (tmp_path / "sweep" / "logs" / "train").mkdir(parents=True)
    outs = [assert_succeeds(run_script("compare", spec)) for spec in (tmp_path / "sweep", tmp_path / "sweep" / "l*r*")]
    for out in outs:
        assert f"skipped, because they have no evaluation of test: {tmp_path}/sweep/lr-9\n" in out
        assert "80 questions" in out
        assert all(len(line) <= 80 for line in out.splitlines() if "skipped" not in line and "differences" not in line)
    assert outs[0].count("lr-3e-5") == outs[1].count("lr-3e-5") == 3
    bm25 = write_run(tmp_path / "sweep" / "lr-9", hits["b"], split="test.bm25") / "evaluation" / "test.bm25"
    assert "test.bm25" in assert_succeeds(run_script("compare", tmp_path / "sweep", bm25))
    (tmp_path / "empty").mkdir()
    assert "does not exist. Run evaluate.py" in assert_mistake(run_script("compare", tmp_path / "empty"))


def test_settings_that_differ_are_columns(tmp_path, hits):
    shared = "data:\n  train: x\nmodel: {}\ntrainer:\n  max_epochs: 3\n"
    for name, lr, more in (("a", "1.0e-05", ""), ("b", "2.0e-05", "early_stopping:\n  patience: 2\n")):
        file = write_run(tmp_path / name, hits[name]) / "train" / "config.yaml"
        file.parent.mkdir()
        file.write_text(f"name: {name}\nrun_dir: {name}\n{shared}{more}optimizer:\n  lr: {lr}\n")
    runs = [tmp_path / "a", tmp_path / "b" / "evaluation" / "test"]
    out = assert_succeeds(run_script("compare", *runs, "--json", tmp_path / "c.json"))
    settings = {"optimizer.lr": 1e-5, "early_stopping.patience": None}
    assert json.loads((tmp_path / "c.json").read_text())["settings"]["a"] == settings
    lines = [line.split() for line in out.splitlines()]
    table = lines[lines.index(["settings", "that", "differ"]) :]
    assert ["system", "lr", "patience"] in table and ["a", "1e-05", "null"] in table
    assert ["test", "2e-05", "2"] in table
    rows = list(csv.reader(io.StringIO(run_script("compare", *runs, "--to", "csv")[1])))
    assert rows[:3] == [["system", "lr", "patience"], ["a", "1e-05", "null"], ["test", "2e-05", "2"]]
    (tmp_path / "a" / "train" / "config.yaml").unlink()
    assert "settings that differ" not in assert_succeeds(run_script("compare", *runs))


def test_tables_are_written_for_papers_and_programs(tmp_path, hits):
    runs = [write_run(tmp_path / name, hits[name[0]]) for name in ("a_1", "b&2")]
    difference = paired_difference(*(np.array(list(hits[name].values())) for name in "ba"), 20)
    p = f"{difference.p_value:.2g}"
    rows = list(csv.reader(io.StringIO(run_script("compare", *runs, "--to", "csv")[1])))
    assert rows[0] == ["top-k", "system", "mean", "95 %", "diff.", "95 %", "p"]
    assert (len(rows), rows[-1][:2], rows[-1][4], rows[-1][-1]) == (7, ["20", "b&2"], f"{difference.value:+.3f}", p)
    code, markdown, notes = run_script("compare", *runs, "--to", "markdown")
    assert (code, "differences from a_1; p: sign test (accuracy)" in notes) == (0, True)
    assert [line.strip("| ").split(" | ") for line in markdown.splitlines()[4:]] == [
        [c for c in r if c] for r in rows[1:]
    ]
    latex = run_script("compare", *runs, "--to", "latex")[1]
    assert f"20 & b\\&2 & {accuracy_at(np.array(list(hits['b'].values())), 20).value:.3f} & " in latex
    assert "1 & a\\_1 & " in latex
    assert latex.count("\\midrule") == 3


def test_data_sets_give_a_row_each_and_their_mean(tmp_path):
    values = {}
    for system, better in (("one", 0.0), ("two", 0.4)):
        for name, count in (("fiqa", 30), ("nfcorpus", 90), ("only-" + system, 5)):
            qids = [f"{name}-{i}" for i in range(count)]
            values[system, name] = judged(count, qids, better)
            write_run(tmp_path / system / name, dict.fromkeys(qids, 1), measures=values[system, name], topk=())
    systems = [tmp_path / "one", tmp_path / "two"]
    out = assert_succeeds(run_script("compare", "--datasets", *systems, "--json", tmp_path / "c.json"))
    result = json.loads((tmp_path / "c.json").read_text())
    assert list(result["datasets"]) == ["fiqa", "nfcorpus"]
    means = {key: np.mean(list(own["nDCG@10"].values())) for key, own in values.items()}
    expected = np.mean([means["two", "fiqa"], means["two", "nfcorpus"]])
    assert result["systems"]["two"]["measures"]["nDCG@10"]["value"] == pytest.approx(expected)
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["fiqa"] == ["30", f"{means['one', 'fiqa']:.3f}", f"{means['two', 'fiqa']:.3f}*"]
    assert rows["mean"][-1] == f"{expected:.3f}*"
    assert "left out, because not every run has them: only-one, only-two\n" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "no common data set" in assert_mistake(run_script("compare", "--datasets", systems[0], tmp_path / "absent"))


def test_resampling_is_that_of_its_definitions():
    rng = np.random.default_rng(5)
    first, second = rng.random(12), rng.random(12)
    difference = paired_mean_difference([first], [second])
    changes = first - second
    flips = (np.arange(1 << 12)[:, None] >> np.arange(12)) & 1  # every way to swap the systems
    exact = (np.abs((changes * (1 - 2 * flips)).mean(1)) >= abs(changes.mean()) - 1e-12).mean()
    assert difference.p_value == pytest.approx(exact, abs=0.015)  # three standard errors of 10,000 draws
    assert (difference.low, difference.high) == pytest.approx(bootstrap_intervals(changes[:, None])[0])
    error = changes.std() / 12**0.5
    assert difference.high - difference.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert paired_mean_difference([first], [first]) == (0, 0, 0, 1)
    assert holm({"a": 0.03, "b": 0.01, "c": 0.02, "d": 0.9}) == {"b": 0.04, "c": 0.06, "a": 0.06, "d": 0.9}
