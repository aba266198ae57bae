"""A report has the figures of its evaluations and every question, harmless whatever the texts, and of bounded size."""

import json
import random
import re
import sys
from html.parser import HTMLParser

import pytest
from support.evaluations import write_evaluation

from dpr_lightning.errors import MissingExtraError, UserError
from dpr_lightning.evaluation.comparison import compare
from dpr_lightning.evaluation.output import read_metrics
from dpr_lightning.evaluation.report.lengths import Counter
from dpr_lightning.evaluation.report.page import write_report

EVIL = "</script><img src=x onerror=alert(1)><!--<script>"


class Page(HTMLParser):
    """What a browser makes of a page: its elements, its text, and the content of each script."""

    def __init__(self, file):
        super().__init__()
        self.tags, self.texts, self.scripts = [], [], []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.scripts[-1] == "":
            self.scripts[-1] = data
        else:
            self.texts.append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])


def shown(data, run, question):
    """The passages of a question as `(rank, docid, text, highlighted)`; highlighted is None for a miss."""
    passages = []
    for place, (entry, _, *more) in enumerate(data["runs"][run]["ranked"][question], 1):
        docid, title, text = data["passages"][entry]
        spans = more[0] if more else 0
        both = f"{title}\n{text}"
        marked = None if spans == 0 else [both[a:b] for a, b in zip(spans[::2], spans[1::2], strict=True)]
        passages.append((more[1] if len(more) > 1 else place, docid, text, marked))
    return passages


QUESTIONS = [
    ("q0", f"who? {EVIL}", ["Ada Lovelace"]),
    ("q1", "where", [EVIL]),
    ("q2", "when", ["1815"]),
    ("q3", "?", ["x"]),
]
ADA = ("d0", f"Title {EVIL}", "🙂 The work of ADA LOVELACE and others.")
FILLER = [(f"f{i}", f"Filler {i}", "Nothing to see.") for i in range(30)]
RANKINGS = {
    "q0": [FILLER[0], ADA, *FILLER[1:9]],
    "q1": [("d1", "", f"Beware of {EVIL} here"), ADA],
    "q2": [*FILLER[:24], ("d2", "Born", "In 1815."), *FILLER[24:]],
}


@pytest.fixture
def evaluations(tmp_path):
    """Two evaluations of four questions; the second one reverses the rankings."""
    relevant = {"q0": {"d0": 2, "gone": None}, "q2": {"d2": 25}}
    turned = {qid: ranking[::-1] for qid, ranking in RANKINGS.items()}
    return {
        "first": write_evaluation(tmp_path / "a" / "evaluation" / "test", QUESTIONS, RANKINGS, relevant=relevant),
        "<b>second": write_evaluation(tmp_path / "b" / "evaluation" / "test", QUESTIONS[::-1], turned),
    }


def test_texts_of_users_are_never_markup(evaluations, tmp_path):
    write_report(tmp_path / "r.html", evaluations, published={EVIL: {20: 0.5}}, command=EVIL)
    page = Page(tmp_path / "r.html")
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert len(page.scripts) == 2
    assert [question[1] for question in page.data["questions"]] == [question for _, question, _ in QUESTIONS]
    assert ["d0", f"Title {EVIL}", ADA[2]] in page.data["passages"]
    assert any(EVIL in text for text in page.texts)
    links = {value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")}
    assert all(link.startswith("#") for link in links if link)


def test_the_figures_are_those_of_the_evaluations(evaluations, tmp_path):
    write_report(tmp_path / "one.html", {"first": evaluations["first"]}, published={"Paper": {20: 0.784, 100: 0.854}})
    write_report(tmp_path / "two.html", evaluations)
    one, two = (" ".join(Page(tmp_path / name).texts) for name in ("one.html", "two.html"))
    metrics = read_metrics(evaluations["first"])
    for k, value in metrics["accuracy"].items():
        low, high = metrics["interval"][k]
        assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in one
    assert "Paper  published" in one and "0.784" in one and "0.854" not in one
    result, _ = compare(list(evaluations.values()), "test", list(evaluations))
    for difference in result["systems"]["<b>second"]["difference"].values():
        assert f"{difference['value']:+.3f}" in two and f"[{difference['low']:+.3f}, {difference['high']:+.3f}]" in two
    assert "<b>second" in two


def test_each_question_has_its_hits_and_where_its_relevant_passages_stand(evaluations, tmp_path):
    write_report(tmp_path / "r.html", evaluations)
    data = Page(tmp_path / "r.html").data
    assert [question[0] for question in data["questions"]] == ["q0", "q1", "q2", "q3"]
    assert [run["first"] for run in data["runs"]] == [[2, 1, 25, 0], [9, 2, 7, 0]]
    assert data["questions"][0][3] == {"d0": [2, 0], "gone": [0, 0]}
    ranked = shown(data, 0, 0)
    assert [(rank, docid) for rank, docid, _, _ in ranked] == [
        (1, "f0"),
        (2, "d0"),
        *((i + 2, f"f{i}") for i in range(1, 9)),
    ]
    assert [marked for _, _, _, marked in ranked[:3]] == [None, ["ADA LOVELACE"], None]
    deep = shown(data, 0, 2)
    assert len(deep) == 21
    assert deep[-1] == (25, "d2", "In 1815.", ["1815"])
    assert shown(data, 0, 3) == []
    assert [marked for *_, marked in shown(data, 0, 1)] == [[EVIL], None]


@pytest.mark.slow
def test_a_large_report_cuts_texts_around_the_answers_and_stays_under_15_mb(tmp_path):
    rng, alphabet = random.Random(3), "bcdfghklmnprstvwz"
    words = ["".join(rng.choices(alphabet, k=rng.randrange(2, 9))) for _ in range(5000)]
    questions, rankings = [], {}
    for i in range(3610):
        answer = f"aa{i} ee"
        questions.append((f"q{i}", " ".join(rng.choices(words, k=9)), [answer]))
        rankings[f"q{i}"] = []
        for rank in range(20):
            text = rng.choices(words, k=100)
            if rank % 4 == 3:
                text[rng.randrange(100)] = answer.upper()
            rankings[f"q{i}"].append((f"{i * 20 + rank}", "Some title", " ".join(text)))
    folder = write_evaluation(tmp_path / "evaluation" / "test", questions, rankings)
    write_report(tmp_path / "r.html", {"large": folder})
    assert (tmp_path / "r.html").stat().st_size < 15_000_000
    data = Page(tmp_path / "r.html").data
    assert len(data["passages"]) == 3610 * 20
    for question in range(0, 3610, 100):
        ranked = shown(data, 0, question)
        assert [marked for *_, marked in ranked[3::4]] == [[f"AA{question} EE"]] * 5
        assert all(len(text) > 60 for _, _, text, _ in ranked)
        assert any(text.startswith("…") and text.endswith("…") for _, _, text, _ in ranked)


def test_judged_passages_alone_make_a_report(tmp_path):
    questions = [(qid, question, []) for qid, question, _ in QUESTIONS]
    relevant = {"q0": {"d0": 2}, "q2": {"d2": 25}}
    figures = {"qrels": {"RR": 0.27}, "qrels_interval": {"RR": [0.0, 0.5]}, "judged": 2, "judged_without_relevant": 0}
    changes = {"accuracy": {}, "interval": {}, "without_answers": 4, **figures}
    folder = write_evaluation(tmp_path / "test", questions, RANKINGS, relevant=relevant, **changes)
    write_report(tmp_path / "r.html", {"only": folder})
    page = Page(tmp_path / "r.html")
    assert page.data["runs"][0]["first"] == [2, 0, 25, 0]
    text = " ".join(page.texts)
    assert "is judged relevant" in text and "Success at every cutoff" in text and "0.270" in text


def test_provenance_and_training_curves_come_from_the_run_folder(evaluations, tmp_path):
    run = evaluations["first"].parent.parent
    (run / "provenance.json").write_text(json.dumps({"train": {"command": "python train.py a=<1>"}}))
    (run / "train").mkdir()
    (run / "train" / "metrics.csv").write_text("step,train/loss,val/mrr\n0,3.5,\n1,3.0,0.5\n")
    write_report(tmp_path / "r.html", evaluations, command="python evaluate.py run_dir=a")
    texts = " ".join(Page(tmp_path / "r.html").texts)
    assert '"command": "python train.py a=<1>"' in texts and "python evaluate.py run_dir=a" in texts
    assert "Training of" not in texts  # the evaluation is of no model: BM25's, say
    folder = write_evaluation(run / "evaluation" / "dev", QUESTIONS, RANKINGS, model_fingerprint="f", split="dev")
    write_report(tmp_path / "r.html", {"x": folder}, published={"Paper": {20: 0.784}})
    texts = " ".join(Page(tmp_path / "r.html").texts)
    assert "Training: train/loss" in texts and "Training: val/mrr" in texts and "Paper" not in texts


def test_lengths_are_the_models_own_tokens(finished_run, world):
    from transformers import AutoTokenizer

    file = finished_run / "evaluation" / "test" / "report.html"
    texts = " ".join(Page(file).texts)
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "model")
    rows = [json.loads(line) for line in (world / "corpus.jsonl").read_text().splitlines()]
    longest = max(len(tokenizer(f"{row['title']} {row['text']}")["input_ids"]) for row in rows)
    assert re.search(rf"In tokens: .* the longest {longest}. The model reads 156, special tokens included; 0.0%", texts)
    assert "The model reads 32, special" in texts


@pytest.mark.parametrize(
    ("settings", "limit", "lengths"),
    [
        ({"passage_max_length": 5}, 5, [6, 4]),
        ({"passage_max_length": 5, "separator": "pair"}, 5, [7, 4]),
        ({"passage_prompt": "a b ", "separator": " "}, None, [8, 6]),
    ],
)
def test_tokens_count_prompts_separators_and_special_tokens(tmp_path, tiny_model, settings, limit, lengths):
    (tmp_path / "dpr_lightning.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    texts = ["bap\nbap bar bas", "\nbap bar"]
    assert Counter(tmp_path).passages(texts) == (lengths, "tokens", limit)
    (tmp_path / "tokenizer.json").write_text("{")
    assert Counter(tmp_path).passages(texts) == Counter(None).passages(texts) == ([4, 2], "words", None)


def test_a_damaged_evaluation_is_named(evaluations, tmp_path):
    file = evaluations["first"] / "dpr.json"
    file.write_text(file.read_text().replace("ADA", "ADB"))
    with pytest.raises(UserError, match=rf"{re.escape(str(file))}: damaged \(its checksum differs\)"):
        write_report(tmp_path / "r.html", evaluations)


def test_a_finished_evaluation_gets_the_report_that_it_lacks(finished_run, settings, command, monkeypatch):
    folder = finished_run / "evaluation" / "test"
    metrics = (folder / "metrics.json").read_text()
    assert Page(folder / "report.html").data["runs"][0]["name"] == "run"
    (folder / "report.html").unlink()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, out, err = command("evaluate", *settings)
    assert code == 0
    assert f"{folder}/report.html is left out: charts and reports need jinja2. Install it: pip install" in out + err
    monkeypatch.delitem(sys.modules, "jinja2")
    code, out, err = command("evaluate", *settings)
    assert (code, out.splitlines()[-1].endswith("; report.html")) == (0, True)
    assert "overwrite=true" in " ".join(Page(folder / "report.html").texts)
    code, out, err = command("evaluate", *settings)
    assert (code, out.splitlines()[-1].endswith("; report.html")) == (0, False)
    assert (folder / "metrics.json").read_text() == metrics


def test_without_the_extra_the_error_names_it(evaluations, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"dpr_lightning\[report\]"):
        write_report(tmp_path / "r.html", evaluations)
