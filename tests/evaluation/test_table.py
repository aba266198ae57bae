"""The table in the terminal."""

import pytest

from dpr_lightning.evaluation.table import accuracy_table

METRICS = {
    "questions": 1234,
    "missing": 0,
    "accuracy": {"1": 0.25, "20": 0.5},
    "interval": {"1": [0.2, 0.3], "20": [0.45, 0.55]},
    "split": "test",
    "without_answers": 0,
    "skipped": 0,
    "undecided": {},
    "left_out": {},
}


def printed(metrics, published, name="mine"):
    return accuracy_table(name, metrics, published, width=120) + "\n"


def test_measured_figures_stand_above_published_ones_at_each_cutoff():
    lines = printed(METRICS, {"DPR paper": {20: 0.784, 100: 0.86}}).splitlines()
    assert lines[0] == "answer accuracy, 1,234 questions"
    assert [line.split() for line in lines[1:] if "top" in line] == [
        ["top-1", "mine", "(measured)", "0.250", "[0.200,", "0.300]"],
        ["top-20", "mine", "(measured)", "0.500", "[0.450,", "0.550]"],
        ["top-20", "DPR", "paper", "(published)", "0.784"],
    ]


@pytest.mark.parametrize("cutoffs", [1, 3, 4, 6])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_one_table_has_all_cutoffs_and_unbroken_intervals(width, cutoffs):
    topk = [str(10**k) for k in range(cutoffs)]
    metrics = {
        **METRICS,
        "accuracy": dict.fromkeys(topk, 0.5),
        "interval": {k: [0.4, 0.5 + i / 100] for i, k in enumerate(topk)},
    }
    text = accuracy_table("optimizer.lr-2e-05+seed-7", metrics, {"DPR, released model": {1: 0.75}}, width=width)
    assert all(len(line) <= width for line in text.splitlines())
    assert (text.count("answer accuracy"), text.count("cutoff")) == (1, 1)
    rows = [line.split() for line in text.splitlines() if "top-" in line]
    measured, published = [row for row in rows if row[-1].endswith("]")], [row for row in rows if row[-1] == "0.75"]
    assert [(row[0], *row[-3:]) for row in measured] == [
        (f"top-{k}", "0.500", "[0.400,", f"0.5{i}0]") for i, k in enumerate(topk)
    ]
    assert [row[0] for row in published] == ["top-1"] and len(rows) == cutoffs + 1
    if width >= 80:
        assert all("optimizer.lr-2e-05+seed-7 (measured)" in " ".join(row) for row in measured)


def test_the_row_names_the_run_its_folder_the_method_and_a_given_ranking(command, settings, finished_run):
    def system(*words):
        code, out, err = command("evaluate", *settings, "overwrite=true", *words)
        assert code == 0, err
        rows = [line for line in out.splitlines() if "(measured)" in line]
        (named,) = {row.split(" (measured)")[0].split(maxsplit=1)[1] for row in rows}
        return named

    assert command("search", *settings, "method=bm25")[0] == 0
    assert system() == "run"
    assert system("name=mine") == "mine, run"
    assert system("method=bm25") == "run, bm25"
    assert system(f"run_file={finished_run}/rankings/test.bm25.trec") == "run, test.bm25.trec"


def test_published_figures_are_those_of_the_test_questions():
    assert "DPR paper" not in printed({**METRICS, "split": "dev"}, {"DPR paper": {20: 0.784}})


def test_names_are_printed_as_they_are():
    assert "[red]x[/red] (measured)" in printed(METRICS, {}, name="[red]x[/red]")


def test_a_note_says_what_the_means_run_over():
    judged = {"qrels": {"RR": 0.5, "Success@20": 0.75}, "judged": 900, "judged_without_relevant": 3}
    judged["qrels_interval"] = {"RR": [0.45, 0.55], "Success@20": [0.7, 0.8]}
    text = printed({**METRICS, "missing": 7, "skipped": 2, **judged}, {})
    assert "7 questions are not in the ranking and count as misses\n" in text
    assert "2 invalid questions were skipped and do not count\n" in text
    assert "judged passages, 900 of 1,234 questions, 3 of them without a relevant passage\n" in text
    (row,) = [line for line in text.splitlines() if "Success@20" in line]
    assert row.split() == ["Success@20", "0.750", "[0.700,", "0.800]"]
    assert "misses" not in printed(METRICS, {})


def test_a_note_says_what_is_left_out_and_why():
    undecided = {"accuracy@20": 1, "accuracy@100": 40, "nDCG@10": 12}
    left_out = {"accuracy@100": [0.5, 0.75], "nDCG@10": [0.125, 1.0]}
    text = printed({**METRICS, "undecided": undecided, "left_out": left_out}, {})
    left, counted = text.splitlines()[-2:]
    assert left == (
        "left out, because the rankings end before the cutoff: "
        "top-100 (between 0.500 and 0.750), nDCG@10 (between 0.125 and 1.000)"
    )
    assert counted == "counted as misses, because their rankings end before the cutoff: top-20 (1 questions)"


def test_without_answers_a_note_replaces_the_table():
    metrics = {**METRICS, "accuracy": {}, "interval": {}, "without_answers": 1234}
    assert (
        printed(metrics, {"DPR paper": {20: 0.7}})
        == "1,234 questions without answers: answer accuracy is not measured\n"
    )
