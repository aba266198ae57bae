"""Mistakes that users make: exit code 1, one line that names what is wrong, and nothing finished is touched."""

import hashlib
import json

import pytest
import torch
from support.world import WORDS, passage, question, training_row, write_jsonl

from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.model.settings import Settings

FINISHED = ("model", "embeddings", "rankings", "evaluation")


def finished_files(run_dir):
    """The hash of each file of a run folder that stands under its final name."""
    files = [file for folder in FINISHED for file in sorted((run_dir / folder).rglob("*")) if file.is_file()]
    names = [file for file in files if file.suffix not in (".partial", ".lock")]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in names}


@pytest.fixture
def assert_refused(command, settings, tmp_path):
    """Checks that a command ends as a user's mistake should, and that its line holds all of some words."""

    def check(name, overrides, *words):
        before = finished_files(tmp_path / "run")
        code, _, err = command(name, *settings, *overrides)
        assert code == 1, err
        assert err.count("\n") == 1, err
        for word in words:
            assert word in err
        assert finished_files(tmp_path / "run") == before
        return err

    return check


CONFIG_MISTAKES = [
    ("optimiser.lr=1", "optimiser.lr: the config key does not exist"),
    ("optimizer.momentum=1", "optimizer.momentum: the config key does not exist"),
    ("trainer.epochs=3", "trainer.epochs: the config key does not exist. Did you mean trainer.max_epochs?"),
    ("experiment=nope", "experiment=nope: the option does not exist", "nq_single_gpu, nq_untie"),
    ("trainer=tpu", "trainer=tpu: the option does not exist", "cpu, ddp, gpu"),
    ("+optimizer.momentum=1", "optimizer: ", "momentum"),
    ("overwrite=no", "overwrite: 'no' is not true or false"),
    ("seed=abc", "seed: 'abc' is not a whole number"),
    ("seed=-1", "seed: -1 "),
    ("data.batch_size=abc", "data.batch_size: 'abc' is not a whole number"),
    ("data.batch_size=0", "data.batch_size: 0 "),
    ("data.batch_size=64", "data.train: 32 rows do not fill one batch of 64 questions"),
    ("data.positives=best", "data.positives: 'best' is not possible", "first, random"),
    ("data.num_workers=-1", "data.num_workers: -1 "),
    ("data.num_workers=1001", "data.num_workers: 1,001 is more than 1,000"),
    ("trainer.devices=100000", "trainer: devices=100000 on a CPU", "devices to 1"),
    ("optimizer.weight_decay=1e31", "optimizer.weight_decay: 1e+31 is beyond all sensible numbers"),
    ("data.train=null", "data.train: is not set"),
    ("model.pooling=max", "model.pooling: 'max' is not possible", "cls, mean"),
    ("model.query_max_length=abc", "model.query_max_length: 'abc' is not a whole number"),
    ("model.passage_max_length=161", "model.passage_max_length: 161 ", "160 positions"),
    ("model.name_or_path=nobody/nothing", "model.name_or_path: nobody/nothing is not a folder with a model"),
    ("loss.temperature=0", "loss.temperature: 0 is not above 0"),
    ("loss.temperature=warm", "loss.temperature: 'warm' is not a number"),
    ("loss.gather_negatives=1", "loss.gather_negatives: 1 is not true or false"),
    ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
    ("optimizer.lr=abc", "optimizer.lr: 'abc' is not a number"),
    ("scheduler.warmup=-1", "scheduler.warmup: -1 "),
    ("scheduler.warmup=abc", "scheduler.warmup: 'abc' is not a number"),
    ("grad_cache.query_chunk_size=4", "grad_cache: only one chunk size is set"),
    ("grad_cache={query_chunk_size:4,passage_chunk_size:x}", "grad_cache.passage_chunk_size: 'x' "),
    ("trainer.gradient_clip_val=-1.0", "trainer.gradient_clip_val: -1.0 is not a norm"),
    ("trainer.gradient_clip_val=abc", "trainer.gradient_clip_val: 'abc' is not a number or null"),
    ("checkpoint.every_n_steps=0", "checkpoint.every_n_steps: 0 "),
    ("trainer.max_epochs=abc", "trainer.max_epochs: 'abc' is not a whole number or null"),
    ("trainer.max_epochs=-3", "trainer: ", "max_epochs", "-3"),
    ("trainer.precision=17", "trainer: ", "17"),
    ("trainer.devices=abc", "trainer: ", "devices"),
    ("trainer.strategy=abc", "trainer: ", "strategy='abc'"),
    ("+trainer.epochs=3", "trainer: ", "epochs"),
    ("trainer.val_check_interval=1000", "trainer: ", "val_check_interval", "1000"),
    ("trainer.strategy=ddp_spawn", "trainer.strategy: processes that are spawned cannot", "ddp"),
    ("+model.dropout=0.1", "model.dropout: the config key does not exist"),
    ("+encode.batch_size=8", "encode.batch_size: the config key does not exist"),
    ("data=0", "data=0: the option does not exist"),
    ("logger.csv=3", "logger.csv: 3 is not a group of keys"),
    ("data.qrels=[1]", "data.qrels: it is a group of keys"),
    ("model.normalize=[1]", "model.normalize: [1] is not true or false"),
    ("optimizer=2024", "optimizer=2024: the option does not exist"),
    ("logger.csv.folder=3.5", "logger.csv.folder: 3.5 is not text"),
]


@pytest.mark.parametrize("mistake", CONFIG_MISTAKES, ids=lambda mistake: mistake[0])
def test_a_mistake_in_the_training_config_is_one_line(assert_refused, mistake, tmp_path):
    override, start, *words = mistake
    assert assert_refused("train", [override], *words).startswith(start)
    assert not (tmp_path / "run" / "train" / "metrics.csv").exists()


def test_gradient_accumulation_with_gradient_cache_is_refused(assert_refused):
    sizes = ["grad_cache.query_chunk_size=4", "grad_cache.passage_chunk_size=8"]
    assert "accumulat" in assert_refused("train", [*sizes, "trainer.accumulate_grad_batches=2"], "trainer")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_trainer_without_gpu_is_refused(assert_refused):
    assert_refused("train", ["trainer=gpu"], "trainer: ", "gpu", "trainer=cpu")


@pytest.mark.parametrize("name", ["train", "encode", "search", "reduce", "evaluate"])
def test_a_run_folder_that_cannot_be_made_is_named(assert_refused, tmp_path, name):
    (tmp_path / "file").touch()
    assert_refused(name, [f"run_dir={tmp_path}/file/run"], f"{tmp_path}/file/run", "Not a directory. Correct the path.")


TRAINING_DATA = {
    "not JSON": ('{"query_id": "q1", "query"', "row 2: not a JSON object"),
    "no object": ("[1, 2]", "row 2: the row is not an object"),
    "missing field": ({"query": None}, 'row 2 (query_id "q1"): query is missing'),
    "null text": (
        {"positive_passages": [{**passage(1), "text": None}]},
        '(query_id "q1"): positive_passages[0].text is null',
    ),
    "empty query": ({"query": " "}, 'row 2 (query_id "q1"): query is empty'),
    "no positives": ({"positive_passages": []}, 'row 2 (query_id "q1"): positive_passages is empty'),
    "negatives that are no list": ({"negative_passages": "d1"}, 'row 2 (query_id "q1"): negative_passages is missing'),
    "passage without docid": ({"negative_passages": [{"text": "x"}]}, "negative_passages[0].docid is missing"),
}


@pytest.mark.parametrize("kind", TRAINING_DATA)
def test_an_invalid_training_row_is_named_by_key_file_row_and_field(assert_refused, tmp_path, kind):
    row, message = TRAINING_DATA[kind]
    if isinstance(row, dict):
        changed = training_row(1) | row
        row = json.dumps({field: value for field, value in changed.items() if value is not None})
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(training_row(0)) + "\n" + row + "\n")
    key = "data.dev" if kind == "no positives" else "data.train"
    assert "Correct the" in assert_refused("train", [f"{key}={file}"], str(file), message)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("nothing.jsonl", "there is no file"),
        ("nothing-*.jsonl", "no file matches the glob"),
        ("folder", "is a folder"),
        ("notes.txt", "is not a .jsonl, .json, .csv, .tsv"),
    ],
)
def test_a_path_without_data_is_named(assert_refused, tmp_path, pattern, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("notes\n")
    assert_refused("train", [f"data.train={tmp_path}/{pattern}"], "data.train", f"{tmp_path}/{pattern}", words)
    assert_refused("encode", [f"data.corpus={tmp_path}/{pattern}"], "data.corpus", f"{tmp_path}/{pattern}", words)


def test_a_cut_compressed_file_is_named(assert_refused, tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl.gz", [training_row(i) for i in range(32)])
    file.write_bytes(file.read_bytes()[:-20])
    assert_refused("train", [f"data.train={file}"], str(file), "damaged gzip data")


def test_rows_without_negatives_train_with_other_passages(command, settings, tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", [training_row(i, negatives=0) for i in range(16)])
    code, out, err = command("train", *settings, f"data.train={file}")
    assert (code, err) == (0, "")
    assert "trained 2 steps" in out


def test_a_mistake_with_overwrite_does_not_cost_the_finished_model(assert_refused, finished_run):
    mistakes = ["optimizer.lr=abc", "data.train=/nowhere.jsonl", "trainer.max_epochs=abc"]
    for mistake in [*mistakes, "checkpoint.best=abc", "early_stopping.patience=0"]:
        assert_refused("train", ["overwrite=true", mistake])
    for accelerator in ("mps", "tpu"):  # of other machines
        assert_refused("train", ["overwrite=true", f"trainer.accelerator={accelerator}"], "trainer")
    assert (finished_run / "train" / "metrics.csv").exists()


ENCODING_MISTAKES = [
    (["shard=3"], "shard: 3 does not exist, num_shards=3 has 0 to 2"),
    (["shard=-1"], "shard: -1 does not exist"),
    (["shard=abc"], "shard: 'abc' is not a whole number or null"),
    (["num_shards=0"], "num_shards: 0 "),
    (["num_shards=4"], "num_shards=4"),
    (["side=left"], "side: 'left' is not possible. Set side to one of: passage, query"),
    (["side=query", "split=dev"], "data.queries.dev: is not set"),
    (["side=query", "split=a/b", "+data.queries.a/b=${data.queries.test}"], "split: 'a/b' cannot be the name"),
    (["encode.precision=8"], "encode.precision: '8' is not possible"),
    (["encode.dtype=int8"], "encode.dtype: 'int8' is not possible"),
    (["encode.chunk_size=0"], "encode.chunk_size: 0 "),
    (["encode.tokens_per_batch=many"], "encode.tokens_per_batch: 'many' "),
    (["model_dir=/nowhere"], "/nowhere is not a folder with a model"),
    (["model.pooling=mean"], "model.pooling: 'mean' contradicts"),
    (["model.passage_max_length=100"], "model.passage_max_length: 100 contradicts"),
    (["model.tied=false"], "model.tied: False contradicts"),
    (["devices=0"], "devices: 0 "),
    (["devices=many"], "devices: 'many' is not a whole number of at least 1, or all. Correct devices."),
    (["devices=1000"], "devices: 1000 are more than this machine's "),
    (["devices=all", "shard=2"], "devices: all is for all shards, not for shard=2. Leave one out."),
]


@pytest.mark.parametrize(
    ("overrides", "start"), ENCODING_MISTAKES, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_a_mistake_in_encoding_is_one_line(assert_refused, finished_run, overrides, start):
    (finished_run / "embeddings" / "passage" / "02-of-03.safetensors").unlink()
    assert start in assert_refused("encode", overrides)


CORPORA = {
    "duplicate docid": ([passage(0), passage(1), passage(0)], 'row 3: docid "d0" is also in an earlier row'),
    "null text": ([passage(0), {"docid": "d1", "text": None}], 'row 2 (docid "d1"): text is null'),
    "missing text": ([passage(0), {"docid": "d1", "title": "x"}], 'row 2 (docid "d1"): text is missing'),
    "missing docid": ([{"title": "x", "text": "y"}], "has the fields title, text"),
    "no rows": ([], "has no rows"),
}


@pytest.mark.parametrize("kind", CORPORA)
def test_an_invalid_corpus_is_named_by_key_file_row_and_field(assert_refused, tiny_model, tmp_path, kind):
    rows, message = CORPORA[kind]
    file = write_jsonl(tmp_path / "corpus.jsonl", rows)
    assert_refused("encode", [f"model_dir={tiny_model}", f"data.corpus={file}"], "data.corpus: ", str(file), message)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query_id": "q1", "query": ""}, "query is empty"),
        ({"query_id": "q0", "query": "x"}, "is also in an earlier row"),
    ],
)
def test_an_invalid_query_is_named_by_key_file_row_and_field(assert_refused, tiny_model, tmp_path, row, message):
    file = write_jsonl(tmp_path / "queries.jsonl", [question(0), row])
    overrides = ["side=query", f"model_dir={tiny_model}", f"data.queries.test={file}"]
    assert_refused("encode", overrides, "data.queries.test: ", str(file), "row 2", message)


SEARCH_MISTAKES = [
    (["depth=0"], "depth: 0 "),
    (["depth=abc"], "depth: 'abc' "),
    (["memory=lots"], "memory: 'lots' "),
    (["format=xml"], "format: 'xml' is not possible"),
    (["shard=3"], "shard: 3 does not exist"),
    (["shard=1", "num_shards=4"], "01-of-04.safetensors does not exist"),
    (["split=dev"], "dev.safetensors does not exist. Run `python encode.py "),
    (["split=../test"], "split: '../test' cannot be the name of a file"),
]


@pytest.mark.parametrize(
    ("overrides", "message"), SEARCH_MISTAKES, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_a_mistake_in_search_is_one_line(assert_refused, finished_run, overrides, message):
    (finished_run / "rankings" / "test.trec").unlink()
    assert message in assert_refused("search", overrides)


def test_search_names_the_missing_shard(assert_refused, finished_run):
    (finished_run / "embeddings" / "passage" / "01-of-03.safetensors").unlink()
    assert_refused("search", ["overwrite=true"], "01-of-03.safetensors missing", "encode.py")


@pytest.mark.parametrize(
    ("other", "place"),
    [({"pooling": "mean"}, "shard=1"), ({"projection_dim": 16}, "shard=1"), ({"projection_dim": 16}, "side=query")],
    ids=str,
)
def test_search_refuses_embeddings_of_another_model_or_dimension(
    assert_refused, command, settings, finished_run, tiny_model, tmp_path, other, place
):
    save_bi_encoder(load_bi_encoder(tiny_model, settings=Settings(**other)), tmp_path / "other")
    assert command("encode", *settings, place, f"model_dir={tmp_path}/other", "overwrite=true")[0] == 0
    name = "test.safetensors" if place == "side=query" else "01-of-03.safetensors"
    assert_refused("search", ["overwrite=true"], name, "by different models")


def test_encoding_with_an_untrained_projection_is_refused(assert_refused, finished_run, tiny_model):
    file = f"{tiny_model}/2_Dense/model.safetensors"
    overrides = ["overwrite=true", f"model_dir={tiny_model}", "model.projection_dim=16"]
    assert_refused("encode", overrides, f"model.projection_dim: {file} does not give a projection of 32 x 16")


def test_search_refuses_shards_of_two_data_sets(assert_refused, command, settings, finished_run, tmp_path):
    other = write_jsonl(tmp_path / "other.jsonl", [passage(i) for i in range(1, 41)])
    assert command("encode", *settings, "shard=1", f"data.corpus={other}", "overwrite=true")[0] == 0
    assert_refused("search", ["overwrite=true"], "01-of-03.safetensors", "different data sets")


def test_an_unfinished_encoding_is_not_continued_with_another_model(assert_refused, finished_run, tiny_model):
    file = finished_run / "embeddings" / "passage" / "01-of-03.safetensors"
    file.rename(file.with_name(f"{file.name}.partial"))
    assert_refused(
        "encode", ["shard=1", "model.pooling=mean", f"model_dir={tiny_model}"], "01-of-03.safetensors.partial was begun"
    )


def test_an_embedding_file_cut_short_is_named(assert_refused, finished_run):
    file = finished_run / "embeddings" / "passage" / "01-of-03.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    assert_refused("search", ["overwrite=true"], f"{file} has {len(content) - 5:,} bytes, not {len(content):,}")


def test_a_depth_beyond_the_corpus_gives_the_whole_corpus(command, settings, finished_run):
    code, out, err = command("search", *settings, "depth=1000", "overwrite=true")
    assert (code, err) == (0, "")
    assert "12 queries x 40 of 40 passages" in out
    lines = (finished_run / "rankings" / "test.trec").read_text().splitlines()
    ranked = [line.split()[2] for line in lines if line.startswith("q0 ")]
    assert sorted(ranked) == sorted(f"d{i}" for i in range(40))


@pytest.fixture
def shard_rankings(command, settings, finished_run):
    """The rankings of the three shards, in a run folder whose merged ranking is not there yet."""
    assert command("search", *settings, "-m", "shard=range(3)")[0] == 0
    (finished_run / "rankings" / "test.trec").unlink()
    return finished_run / "rankings" / "test"


def test_reduce_names_what_is_wrong(assert_refused, shard_rankings):
    assert_refused("reduce", ["depth=0"], "depth: 0 ")
    assert_refused("reduce", ["format=xml"], "format: 'xml' is not possible")
    assert_refused("reduce", ["split=dev"], "rankings/dev", "has no shards")
    first = shard_rankings / "00-of-03.trec"
    second = shard_rankings / "01-of-03.trec"
    kept = second.read_text()
    second.write_text("".join(line for line in kept.splitlines(True) if not line.startswith("q3 ")))
    assert_refused("reduce", [], "01-of-03.trec is not the file that 01-of-03.trec.json describes", "damaged or edited")
    for sidecar in shard_rankings.glob("*.json"):
        sidecar.unlink()
    assert_refused("reduce", [], "01-of-03.trec", "q3")
    second.write_text(first.read_text())
    assert_refused("reduce", [], "00-of-03.trec and 01-of-03.trec", "passage d")
    second.write_text(kept + "q9 and so on\n")
    assert_refused("reduce", [], f"{second}, line {len(kept.splitlines()) + 1}")
    second.unlink()
    assert_refused("reduce", [], "01-of-03.trec missing", "search.py")


EVALUATION_MISTAKES = [
    (["topk=[0]"], "topk: 0 "),
    (["topk=5"], "topk: 5 "),
    (["topk=[]"], "topk: [] "),
    (["topk=[2147483648]"], "topk: 2,147,483,648 is more than 2,147,483,647"),
    (["evaluate.measures=[nDCG@2147483648]"], "evaluate.measures: 'nDCG@2147483648' is not a measure"),
    (["topk=[five]"], "topk: ['five'] is not a list, each entry a whole number"),
    (["data.answers=fuzzy"], "data.answers: 'fuzzy' is not possible. Set data.answers to one of: string, regex"),
    (["data.match_title=title"], "data.match_title: 'title' is not true or false"),
    (["data.qrels.test=/nowhere.qrels"], "data.qrels.test: there is no file /nowhere.qrels"),
    (["run_file=/nowhere.trec"], "/nowhere.trec does not exist"),
    (["split=dev"], "data.queries.dev: is not set"),
]


@pytest.mark.parametrize(
    ("overrides", "message"), EVALUATION_MISTAKES, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_a_mistake_in_evaluation_is_one_line(assert_refused, finished_run, overrides, message):
    assert message in assert_refused("evaluate", ["overwrite=true", *overrides])


def test_evaluation_names_unknown_passages_and_questions(assert_refused, finished_run):
    file = finished_run / "rankings" / "test.trec"
    ranked = file.read_text()
    file.write_text(ranked.replace(" d7 ", " e7 "))
    assert_refused("evaluate", ["overwrite=true"], str(file), "passage e7", "not in data.corpus")
    file.write_text(ranked.replace("q3 ", "q4 "))
    assert_refused("evaluate", ["overwrite=true"], str(file), "question q4", "not in data.queries")
    file.write_text("")
    assert_refused("evaluate", ["overwrite=true"], str(file), "is empty")
    file.write_text(ranked + "q1 and so on\n")
    assert_refused("evaluate", ["overwrite=true"], f"{file}, line {len(ranked.splitlines()) + 1}: 'q1 and so on'")


def test_a_question_that_the_ranking_lacks_counts_as_a_miss(command, settings, finished_run):
    file, folder = finished_run / "rankings" / "test.trec", finished_run / "evaluation" / "test"
    answered = json.loads((folder / "metrics.json").read_text())["accuracy"]["20"]
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    hit = next(row["qid"] for row in rows if row["first_hit"])
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(f"{hit} ")))
    code, out, err = command("evaluate", *settings, "overwrite=true")
    assert (code, err) == (0, "")
    assert "1 questions are not in the ranking" in out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["questions"], metrics["missing"]) == (12, 1)
    assert metrics["accuracy"]["20"] == pytest.approx(answered - 1 / 12)


def test_questions_without_answers_are_named(assert_refused, finished_run, tmp_path):
    rows = [question(i) for i in range(0, 36, 3)]
    del rows[2]["answers"]
    file = write_jsonl(tmp_path / "queries.jsonl", rows)
    assert_refused(
        "evaluate",
        ["overwrite=true", f"data.queries.test={file}"],
        "data.queries",
        "question q6 (the first of 1) has no answers",
    )
    for row in rows:
        row.pop("answers", None)
    write_jsonl(file, rows)
    overrides = ["overwrite=true", f"data.queries.test={file}", "data.qrels.test=null"]
    assert_refused("evaluate", overrides, "data.queries", "question q0 (the first of 12) has no answers")


def test_an_invalid_regular_expression_is_named_and_matches_nothing(command, settings, finished_run, tmp_path):
    rows = [question(i) for i in range(0, 36, 3)]
    rows[1]["answers"] = [f"({WORDS[0]}"]
    file = write_jsonl(tmp_path / "queries.jsonl", rows)
    overrides = ["overwrite=true", f"data.queries.test={file}", "data.answers=regex"]
    code, out, err = command("evaluate", *settings, *overrides)
    assert (code, err) == (0, "")
    assert f"1 answers can never match: {f'({WORDS[0]}'!r} of question q3 is not a regular expression" in out
    metrics = json.loads((finished_run / "evaluation" / "test" / "metrics.json").read_text())
    assert metrics["invalid_answers"]["count"] == 1
    assert metrics["invalid_answers"]["first"][0]["qid"] == "q3"


def test_cutoffs_beyond_the_rankings_are_left_out_in_one_line(command, settings, finished_run):
    code, out, err = command("evaluate", *settings, "overwrite=true", "topk=[1,20,30]")
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if "left out" in line]
    assert "top-30 (" in line
    metrics = json.loads((finished_run / "evaluation" / "test" / "metrics.json").read_text())
    assert set(metrics["accuracy"]) == {"1", "20"}


def test_a_finished_stage_is_not_made_again_without_overwrite(assert_refused, finished_run, shard_rankings):
    assert_refused("train", [], "run/model is finished already", "overwrite=true")
    assert_refused("encode", ["shard=1"], "01-of-03.safetensors is finished already", "overwrite=true")
    assert_refused("encode", ["side=query"], "test.safetensors is finished already", "overwrite=true")
    assert_refused("search", ["shard=1"], "01-of-03.trec is finished already", "overwrite=true")
    (finished_run / "rankings" / "test.trec").write_text("ours\n")
    assert_refused("search", [], "test.trec, made from unknown embeddings, is finished already", "overwrite=true")
    assert_refused("reduce", [], "test.trec is finished already", "overwrite=true")
    assert_refused("evaluate", [], "evaluation/test is finished already with run_file_xxh3=", "overwrite=true")


def test_a_finished_shard_of_another_model_is_refused(assert_refused, finished_run, tiny_model):
    assert_refused("encode", [f"model_dir={tiny_model}", "model.pooling=mean"], "00-of-03.safetensors", "another model")
