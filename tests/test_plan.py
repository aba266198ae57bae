"""`plan=true` says what a command would do, lists every problem and writes nothing; full disks are refused early."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.world import ROOT, passage, question, training_row, write_jsonl

from dpr_lightning.encoding.space import bytes_to_write, file_bytes
from dpr_lightning.errors import UserError
from dpr_lightning.machine import check_free_space


def tree(*folders):
    """Every path below the folders, with what changes when it is written."""
    paths = [path for folder in folders for path in Path(folder).rglob("*")]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


@pytest.fixture
def plan(command, tmp_path):
    """`plan("encode", *overrides)` gives the lines of a plan by their names, and the problems."""

    def run(name, *overrides):
        before = tree(tmp_path, os.environ["HF_DATASETS_CACHE"])
        code, out, err = command(name, *overrides, "plan=true")
        assert tree(tmp_path, os.environ["HF_DATASETS_CACHE"]) == before
        assert code == (1 if err else 0), err
        lines = [re.split(r"  +", line, maxsplit=1) for line in out.splitlines() if "  " in line]
        return dict(lines), err.splitlines()

    return run


def test_plans_agree_with_what_the_commands_then_do(plan, command, settings, world, tmp_path):
    own = write_jsonl(tmp_path / "train.jsonl", [training_row(i) for i in range(20)])
    settings = [*settings, f"data.train={own}", "trainer.max_epochs=3", "data.passages_per_query=3"]
    lines, problems = plan("train", *settings)
    assert problems == []
    assert lines["data.train"].startswith("20 rows, checked now")
    assert (lines["steps"], lines["epoch"]) == (
        "6 in 3 epochs",
        "20 questions, 2 batches per device (devices: 1), 2 steps",
    )
    assert lines["checkpoints"].startswith("every 20,000 steps and epoch, 3 of ")
    code, out, err = command("train", *settings)
    assert (code, err) == (0, "") and "trained 6 steps" in out
    checkpoint = (tmp_path / "run" / "train" / "checkpoints" / "last.ckpt").stat().st_size
    planned = int(re.search(r"of (\d+) KB", lines["checkpoints"])[1]) << 10
    assert planned <= checkpoint <= planned + (1 << 16)  # names, and the state of the callbacks
    lines, problems = plan("train", *settings, "overwrite=true")
    needed = int(re.match(r"(\d+) KB needed", lines["disk"])[1]) << 10
    assert problems == [] and needed < checkpoint  # two are replaced, and there are three while one of them is

    lines, problems = plan("encode", *settings)
    assert problems == []
    assert (lines["shards"], lines["rows"][:12]) == ("3: 0 finished, 0 partial, 3 missing", "40 to encode")
    assert re.search(r"at [\d,]+ rows/s", lines["time"])
    assert command("encode", *settings)[0] == 0
    folder = tmp_path / "run" / "embeddings" / "passage"
    (folder / "00-of-03.safetensors").rename(folder / "00-of-03.safetensors.partial")
    (folder / "01-of-03.safetensors").unlink()
    lines, problems = plan("encode", *settings)
    assert (lines["shards"], problems) == ("3: 1 finished, 1 partial, 1 missing", [])
    assert lines["rows"] == "13 to encode, 13 of partial files are kept"


def test_the_plan_of_a_training_has_the_settings_that_it_will_have(plan, settings, tmp_path, tiny_model):
    """Those that are automatic or that the folder of the model names, and the defaults of data of one's own."""
    encoder = shutil.copytree(tiny_model, tmp_path / "encoder")
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules]
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    own = [word for word in settings if not word.startswith(("trainer", "model."))]
    lines, problems = plan("train", *own, f"model.name_or_path={encoder}", "trainer=auto")
    assert problems == []
    assert "model.pooling=mean" in lines["settings"] and "trainer.accelerator=cpu" in lines["settings"]
    assert lines["steps"].endswith("in 5 epochs")
    missing = [*own, "model.name_or_path=my/encoder", "trainer=auto"]
    assert "my/encoder is neither a folder seen from /" in plan("train", *missing)[0]["model"]


def test_each_stage_has_a_plan(plan, settings, finished_run):
    settings = [*settings, "overwrite=true"]
    lines, problems = plan("encode", *settings, "side=query")
    assert problems == [] and lines["rows"].startswith("12 to encode")
    for overrides in ([], ["method=hybrid"], ["index=Flat"]):
        lines, problems = plan("search", *settings, *overrides)
        assert problems == [] and lines["passages"].startswith("40 x 32 float32, 5 KB in 3 files")
        assert lines["ranking"] == "12 queries x 20 of 40 passages"
        assert ("index" in lines) == bool(overrides)
    lines, problems = plan("search", *settings, "shard=all")
    assert problems == [] and lines["rankings"] == "3 of 3 to write, 0 finished"
    lines, problems = plan("evaluate", *settings)
    assert problems == [] and lines["qrels"] == "12 judged questions"
    assert lines["ranking"].endswith("test.trec: 12 questions, 20 passages per question at most")
    shards = finished_run / "rankings" / "test"
    shards.mkdir()
    shutil.copy(finished_run / "rankings" / "test.trec", shards / "00-of-01.trec")
    lines, problems = plan("reduce", *settings)
    assert problems == [] and lines["shards"].startswith("1 rankings")


def test_a_plan_lists_all_problems_of_all_files(plan, settings, tmp_path):
    bad = write_jsonl(tmp_path / "bad.jsonl", [{**training_row(i), "query": ""} for i in range(5)])
    cut = write_jsonl(tmp_path / "cut.jsonl", [training_row(i) for i in range(8)])
    cut.write_text(cut.read_text()[:-20])
    changes = [f"data.train=[{bad},{cut}]", "data.dev=/nope.jsonl", "data.negatives=best", "run_dir=new"]
    lines, problems = plan("train", *settings, *changes)
    expected = [
        "data.negatives: 'best' is not possible.",
        "data.dev: there is no file /nope.jsonl",
        *(f'data.train: {bad}, row {row} (query_id "q{row - 1}"): query is empty.' for row in (1, 2, 3)),
        f"data.train: {bad} has 5 invalid rows, the first 3 are above.",
        f"{cut}, row 8: not a JSON object",
    ]
    assert [problem[: len(start)] for problem, start in zip(problems, expected, strict=True)] == expected
    assert lines["data.train"].startswith("not counted, because rows are invalid") and "steps" not in lines
    queries = write_jsonl(tmp_path / "queries.jsonl", [question(0), question(0)])
    changes = [f"data.queries.test={queries}", "side=query", "run_dir=new", "encode.dtype=int8"]
    _, problems = plan("encode", *settings, *changes)
    assert [problem.partition(":")[0] for problem in problems[:1]] == ["encode.dtype"]
    assert problems[1].startswith("new/model does not exist. Run ")
    assert 'query_id "q0" is also in an earlier row' in problems[2]
    lines, problems = plan("encode", *settings, "run_dir=new")
    assert len(problems) == 1 and "are not estimated" in lines["model"]


@pytest.fixture
def ids(settings, tmp_path):
    """`ids(*rows)` writes a training table of ids and returns the settings of a run on it."""
    corpus = write_jsonl(tmp_path / "passages.jsonl", [passage(i) | {"docid": f"p{i}"} for i in range(10)])

    def write(*rows):
        lines = ["query_id,positive_document_ids,query_text", *rows]
        (tmp_path / "train.csv").write_text("".join(f"{line}\n" for line in lines))
        return [*settings, f"data.train={tmp_path}/train.csv", f"data.corpus={corpus}"]

    return write


def test_a_plan_checks_rows_that_name_texts_by_ids(plan, command, ids, tmp_path, monkeypatch):
    lines, problems = plan("train", *ids(*[f"q{i},p{i % 10},who {i}" for i in range(20)]))
    assert problems == [] and "steps" in lines
    assert lines["data.train"].startswith("20 rows, checked now; ")

    bad = ids("q0,p0,who", "q1,nope,who", "q2,[x],who")
    lines, problems = plan("train", *bad)
    assert "row 3 (query_id \"q1\"): positive_document_ids: the corpus has no passage 'nope'." in problems[0]
    assert "row 4 (query_id \"q2\"): positive_document_ids is not a JSON or Python list, but '[x]'" in problems[1]
    assert lines["data.train"].startswith("not counted, because rows are invalid")

    with monkeypatch.context() as patch:
        patch.setattr("dpr_lightning.data.plan._MOST_TEXT_BYTES", 10)
        _, problems = plan("train", *bad)
        assert len(problems) == 2 and "row 4" in problems[0]  # a field of its own; the ids are not checked
        lines, problems = plan("train", *ids("q0,p0,who", "q1,nope,who"))
        unread = f"2 rows, not checked: whether {tmp_path}/passages.jsonl has the texts of its ids"
        assert problems == [] and lines["data.train"].startswith(unread) and "steps" not in lines
        code, _, err = command("train", *ids("q0,p0,who", "q1,nope,who"))  # which converts the corpus
        assert code == 1 and "the corpus has no passage 'nope'" in err
        _, problems = plan("train", *ids("q0,p0,who", "q1,no,who"))
        assert "the corpus has no passage 'no'" in problems[0]


def test_a_plan_names_invalid_rows_of_the_texts(plan, ids, tmp_path):
    write_jsonl(tmp_path / "passages.jsonl", [passage(1) | {"docid": ""}])
    lines, problems = plan("train", *ids("q0,p0,who"))
    assert problems[0] == f'data.corpus: {tmp_path}/passages.jsonl, row 1 (docid ""): docid is empty.'
    assert lines["data.train"].startswith("not counted")


def test_missing_texts_of_ids_name_their_key(plan, command, settings, tmp_path):
    qrels = tmp_path / "train_qrels.csv"
    qrels.write_text("query-id,corpus-id,score\nq1,d1,1\n")
    settings = [*settings, f"data.train={qrels}", "data.dev=null"]
    expected = f"data.train: {qrels} has ids without texts. Set data.queries.train to the texts of its queries."
    _, problems = plan("train", *settings)
    assert expected in problems
    code, _, err = command("train", *settings)
    assert (code, err) == (1, f"{expected}\n")


def test_a_full_disk_is_named_with_what_is_needed(tmp_path):
    with pytest.raises(UserError) as caught:
        check_free_space(tmp_path / "no" / "run", 3 << 30, what="encoding", remedy="do less", free=5 << 20)
    message = "encoding needs 3.00 GB, but only 5 MB are free there. Free space there, or do less."
    assert str(caught.value) == f"{tmp_path}/no/run: {message}"
    check_free_space(tmp_path / "no" / "run", 4096, what="encoding", remedy="do less")


def test_space_left_counts_partial_and_replaced_files(tmp_path):
    files = [tmp_path / f"0{number}-of-03.safetensors" for number in range(3)]
    sizes = dict.fromkeys(files, file_bytes(100, 8, "float32"))
    size = 100 * (8 * 4 + 16)
    assert bytes_to_write(sizes) == 3 * size
    files[0].with_name(files[0].name + ".partial").write_bytes(bytes(1000))
    assert bytes_to_write(sizes) == 3 * size - 1000
    files[1].write_bytes(bytes(size))  # stays until its successor is complete
    assert bytes_to_write(sizes) == 3 * size - 1000
    assert bytes_to_write({files[1]: size, files[0]: size}, at_once=2) == size - 1000 + 2 * size


def test_a_training_that_does_not_fit_the_disk_is_refused(command, settings, tmp_path):
    endless = ["trainer.max_epochs=1000000000", "checkpoint.keep_last=1000000000"]
    code, _, err = command("train", *settings, *endless)
    assert code == 1
    assert re.match(
        rf"{tmp_path}/run/train/checkpoints: a training with 1,000,000,001 checkpoints at a time needs [\d,.]+ GB, but",
        err,
    )
    assert "lower checkpoint.keep_last, or choose another run_dir." in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_encoding_that_does_not_fit_the_disk_is_refused(settings, finished_run):
    """On a real file system of one page, in a namespace of its own."""
    folder = finished_run / "embeddings"
    shutil.rmtree(folder)
    folder.mkdir()
    script = f'mount -t tmpfs -o size=4k none "{folder}" && exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    words = [sys.executable, str(ROOT / "encode.py"), *settings]
    done = subprocess.run([*inside, *words], capture_output=True, text=True)
    assert done.returncode == 1
    line = f"{folder}/passage: encoding 40 rows needs 6 KB, but only 4 KB are free there. Free space there, or set "
    assert done.stderr == f"{line}encode.dtype=float16, or choose another run_dir.\n"
