"""A BEIR folder from training to figures, which are those that mteb computes with the exported model."""

import csv
import json

import ir_measures
import pytest
from ir_measures import R, nDCG
from sentence_transformers import SentenceTransformer
from support.commands import run_command
from support.metrics import logged
from support.world import passage, question, write_jsonl

MODELS = {
    "tied": [],
    "untied": [
        "model.tied=false",
        "model.pooling=mean",
        "model.normalize=true",
        "model.query_prompt='bab '",
        "model.passage_prompt='dad '",
    ],
}
SPLITS = {"train": range(32), "dev": range(32, 40), "test": range(40, 64)}
MEASURES = "evaluate.measures=[nDCG@10,R@100]"


def write_beir(folder):
    """Write 150 passages, every fifth without a title, and graded judgments of three splits."""
    passages = [{**passage(i), "title": passage(i)["title"] if i % 5 else ""} for i in range(150)]
    write_jsonl(folder / "corpus.jsonl", [{"_id": row.pop("docid"), **row, "metadata": {}} for row in passages])
    questions = [question(i) for i in range(64)]
    write_jsonl(folder / "queries.jsonl", [{"_id": row["query_id"], "text": row["query"]} for row in questions])
    (folder / "qrels").mkdir()
    for split, numbers in SPLITS.items():
        grades = [(i, i + step, grade) for i in numbers for step, grade in ((0, 2), (1, 1), (7, 1), (9, 0))]
        lines = "".join(f"q{i}\td{j}\t{grade}\n" for i, j, grade in grades)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    return folder


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    return write_beir(tmp_path_factory.mktemp("beir"))


@pytest.fixture(scope="module", params=MODELS)
def run(request, beir, tiny_model, tmp_path_factory):
    """The settings and the folder of a run with all stages finished."""
    folder = tmp_path_factory.mktemp("run")
    settings = [
        "data=beir",
        f"data.root={beir}",
        f"run_dir={folder}",
        "num_shards=2",
        "trainer=cpu",
        "encode.precision=32",
    ]
    training = ["data.num_workers=0", "data.batch_size=8", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"]
    settings += ["trainer.log_every_n_steps=1"]
    settings += [*training, f"model.name_or_path={tiny_model}", *MODELS[request.param]]
    for name, *more in (["train"], ["encode"], ["encode", "side=query"], ["search"], ["evaluate", MEASURES]):
        assert run_command(name, [*settings, *more], folder) == 0
    return settings, folder


def test_a_beir_folder_is_trained_on_validated_searched_and_evaluated(run, command):
    settings, folder = run
    assert len(logged(folder, "val/mrr")) == 1
    metrics = json.loads((folder / "evaluation" / "test" / "metrics.json").read_text())
    assert (metrics["questions"], metrics["judged"], metrics["judged_without_relevant"]) == (24, 24, 0)
    assert list(metrics["qrels"]) == list(metrics["qrels_interval"]) == ["nDCG@10", "R@100"]
    for name, value in metrics["qrels"].items():
        low, high = metrics["qrels_interval"][name]
        assert 0 < low < value < high < 1
    code, out, err = command("evaluate", *settings, "evaluate.measures=[nDCG@10,Recal@100]")
    assert (code, out) == (1, "")
    assert err.startswith("evaluate.measures: ir-measures does not know 'Recal@100'")
    assert err.count("\n") == 1


def relevant_passages(folder):
    """Return the test judgments of a BEIR folder: {qid: {docid: grade}}."""
    relevant = {}
    with (folder / "qrels" / "test.tsv").open(newline="") as opened:
        for row in csv.DictReader(opened, delimiter="\t"):
            relevant.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return relevant


def local_task(mteb, folder):
    """Return a retrieval task of mteb over a BEIR folder."""
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    def rows(name):
        lines = map(json.loads, (folder / name).read_text().splitlines())
        return Dataset.from_list(
            [{"id": row["_id"], "title": row.get("title", ""), "text": row["text"]} for row in lines]
        )

    class LocalTask(AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            name="LocalTask",
            description="A BEIR folder.",
            dataset={"path": str(folder), "revision": "1"},
            type="Retrieval",
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, **options):
            queries = rows("queries.jsonl").remove_columns("title")
            relevant = relevant_passages(folder)
            split = {"corpus": rows("corpus.jsonl"), "queries": queries, "relevant_docs": relevant, "top_ranked": None}
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    return LocalTask()


@pytest.mark.filterwarnings("ignore")  # mteb's own
def test_mteb_ranks_and_measures_as_we_do_with_the_exported_model(run, beir, tmp_path):
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (it needs Python 3.11)")
    _, folder = run
    metrics = json.loads((folder / "evaluation" / "test" / "metrics.json").read_text())
    model = SentenceTransformer(str(folder / "model"), device="cpu")
    options = {"cache": None, "show_progress_bar": False, "prediction_folder": tmp_path}
    (result,) = mteb.evaluate(model, local_task(mteb, beir), **options).task_results
    (scores,) = result.scores["test"]
    (file,) = tmp_path.rglob("*_predictions.json")
    predicted = json.loads(file.read_text())["default"]["test"]
    theirs = ir_measures.calc_aggregate([nDCG @ 10, R @ 100], relevant_passages(beir), predicted)
    for measure, name in ((nDCG @ 10, "ndcg_at_10"), (R @ 100, "recall_at_100")):
        assert theirs[measure] == pytest.approx(metrics["qrels"][str(measure)], abs=1e-6)
        assert scores[name] == pytest.approx(theirs[measure], abs=1e-5), "mteb rounds to five digits"
