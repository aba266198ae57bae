"""Commands as processes, sweeps, interruption: what a terminal sees."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.metrics import logged_rows
from support.processes import Script
from support.world import ROOT, settings_of, training_row, write_jsonl

from dpr_lightning import open_embeddings
from dpr_lightning.evaluation.output import read_metrics
from dpr_lightning.guidance import closest_key
from dpr_lightning.overrides import COMMANDS
from dpr_lightning.run_dir import folder_name

OWN_DATA = {
    "train": "train.jsonl.gz",
    "dev": "dev.jsonl",
    "corpus": "corpus.jsonl",
    "queries.test": "test.jsonl",
    "qrels.test": "test.qrels",
}


def end(process):
    """Exit code, stdout and stderr of a process; it is killed if it takes minutes."""
    with process:
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    return process.returncode, out, err


PROCESSES = {  # command and overrides, with the start of the only line on stderr
    "unknown key": ("train", ["optimiser.lr=1"], "optimiser.lr: the config key does not exist. Did you"),
    "unknown option": ("encode", ["experiment=nope"], "experiment=nope: the option does not exist."),
    "deep in Lightning": ("train", ["optimizer.lr=-1"], "optimizer: Invalid learning rate: -1."),
    "in the loader's process": ("train", ["data.num_workers=1", "data.train=short.jsonl"], "data.train: "),
    "model": ("encode", ["model_dir=/nowhere"], "model_dir: /nowhere is not a folder with a model"),
    "embeddings": ("search", [], "run/embeddings/query/test.safetensors does not exist."),
    "no sweep": ("search", ["hydra/launcher=slurm_cpu"], "hydra/launcher: hydra/launcher=slurm_cpu is for sweeps."),
    "no SLURM": ("search", ["-m", "shard=0,1", "hydra/launcher=slurm_cpu"], "hydra/launcher: this machine has no srun"),
    "shards": ("reduce", [], "run/rankings/test has no shards"),
    "ranking": ("evaluate", ["data.qrels.test=null"], "run/rankings/test.trec does not exist."),
}


@pytest.mark.slow
def test_a_mistake_ends_the_process_with_one_line_on_stderr(world, tiny_model, tmp_path):
    write_jsonl(tmp_path / "short.jsonl", [training_row(0), {**training_row(1), "query": None}])
    kinds, ended = list(PROCESSES), {}
    for pair in (kinds[first : first + 2] for first in range(0, len(kinds), 2)):  # two at a time
        started = {}
        for kind in pair:
            script, overrides, _ = PROCESSES[kind]
            path = {"PATH": ""} if kind == "no SLURM" else None
            overrides = [*settings_of(world, tiny_model, "run"), *overrides]
            started[kind] = Script(script, *overrides, folder=tmp_path, environment=path)
        ended |= {kind: end(process) for kind, process in started.items()}
    for kind, (code, out, err) in ended.items():
        assert (code, err.count("\n")) == (1, 1), (kind, err)
        assert err.startswith(PROCESSES[kind][2]), (kind, err)
        assert "Traceback" not in out, kind


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("batch_size", "data.batch_size"),
        ("data.batchsize", "data.batch_size"),
        ("trainer.epochs", "trainer.max_epochs"),
        ("lerning_rate", "optimizer.learning_rate"),
        ("zzz", None),
    ],
)
def test_an_unknown_key_suggests_the_closest_one(key, meant):
    keys = ["data", "data.batch_size", "trainer.max_epochs", "optimizer.learning_rate", "seed"]
    assert closest_key(key, keys) == meant


@pytest.mark.parametrize(("extra", "hint"), [([], ""), (["overwrite=true"], " without overwrite=true")])
def test_ctrl_c_saves_the_last_step_and_the_same_command_continues(settings, command, tmp_path, extra, hint):
    long = [*settings, "trainer.max_epochs=100000", "data.num_workers=1"]
    process = Script("train", *long, *extra, folder=tmp_path)
    with process:
        while not (tmp_path / "run" / "train" / "metrics.csv").exists():
            process.stay(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        code, _, err = end(process)
    assert code == 130
    reached = torch.load(tmp_path / "run" / "train" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert err == f"interrupted; the same command{hint} continues from step {reached:,}\n"
    assert not (tmp_path / "run" / "model").exists()
    assert int(logged_rows(tmp_path / "run")[-1]["step"]) == reached - 1
    code, out, err = command("train", *long, "trainer.max_time=00:00:00:00")
    assert (code, err) == (0, "")
    assert f"trained {reached:,} steps" in out or f"trained {reached + 1:,} steps" in out
    assert f"resumed from {tmp_path}/run/train/checkpoints/step-{reached:08d}.ckpt" in out


def test_each_stage_ends_with_the_command_of_the_next(command, settings, finished_run, world):
    """The printed overrides are those that the next command needs, and they are accepted as printed."""
    words = [*settings, "split=a b", f"data.queries.a b={world}/test.jsonl", "overwrite=true", "seed=3"]

    def following(name, *more):
        code, out, err = command(name, *words, *more)
        assert (code, err) == (0, "")
        last = out.splitlines()[-1]
        assert last.startswith("next: ")
        python, script, *overrides = shlex.split(last.removeprefix("next: "))
        assert (python, set(overrides) - set(words) - {"side=query"}) == ("python", set())
        assert {"data=files", "split=a b", f"run_dir={finished_run}"} <= set(overrides)
        assert not {"seed=3", "overwrite=true", "trainer=cpu", "data.batch_size=8"} & set(overrides)
        return script.removesuffix(".py"), overrides

    name, overrides = following("encode")
    assert (name, overrides[-1]) == ("encode", "side=query")
    name, overrides = following(name, *overrides)
    assert (name, "depth=20" in overrides) == ("search", True)
    name, overrides = following(name, *overrides)
    assert (name, "depth=20" in overrides) == ("evaluate", False)
    code, out, err = command("evaluate", *overrides)
    assert (code, err) == (0, "") and "next:" not in out
    # the same command again prints what is stored
    files = {file: file.stat().st_mtime_ns for file in (finished_run / "evaluation" / "a b").iterdir()}
    code, again, err = command("evaluate", *overrides)
    assert (code, err) == (0, "")
    assert again.splitlines()[:-1] == out.splitlines()[:-1] and "stored earlier" in again.splitlines()[-1]
    assert files == {file: file.stat().st_mtime_ns for file in (finished_run / "evaluation" / "a b").iterdir()}
    code, _, err = command("evaluate", *overrides, "topk=[1]")
    assert code == 1 and "is finished already with other cutoffs (topk). Set overwrite=true" in err


@pytest.mark.parametrize(
    ("loss", "is_named"),
    [("loss.temperature=1", True), ("loss.temperature=0.05", False), ("loss=learned_temperature", False)],
)
def test_a_temperature_with_which_normalized_embeddings_hardly_learn_is_named(command, settings, loss, is_named):
    code, out, err = command("train", *settings, "trainer.max_steps=1", "model.normalize=true", loss)
    assert (code, err) == (0, "")
    assert ("loss.temperature=1; 0.05 is usual" in out) is is_named


def test_a_run_remembers_its_data_and_shards(command, world, tiny_model, tmp_path):
    """Own data on any machine: training names the files, every later command is the one that was printed."""
    data = [f"data.{key}={world}/{name}" for key, name in OWN_DATA.items()]
    sizes = ["data.batch_size=8", "data.num_workers=0", f"model.name_or_path={tiny_model}"]
    run, line = tmp_path / "own", "data.*, model.*: as in the training"
    code, out, err = command("train", "data=files", *data, *sizes, f"run_dir={run}")
    assert (code, err) == (0, "")
    assert (
        "training on 1 x c" in out and "32 questions, 4 batches per epoch, 20 steps; validation on 8 questions" in out
    )
    assert "20 steps are few: more trainer.max_epochs" in out and "loss.temperature" not in out
    best = max(float(row["val/mrr"]) for row in logged_rows(run) if row.get("val/mrr"))
    loss = float(logged_rows(run)[-1]["train/loss"])
    assert f"last train/loss {loss:.3f}, best val/mrr {best:.3f} at step " in out
    assert len(logged_rows(run)) == 5 * 4  # a row per step, of 5 epochs of 4 batches
    for _ in range(4):
        _, script, *overrides = shlex.split(out.splitlines()[-1].removeprefix("next: "))
        assert set(overrides) <= {f"run_dir={run}", "side=query"}
        code, out, err = command(script.removesuffix(".py"), *overrides)
        assert (code, err) == (0, "") and out.startswith(line)
    assert (script, read_metrics(run / "evaluation" / "test")["questions"]) == ("evaluate.py", 12)
    assert " own (measured) " in out
    assert [file.name for file in (run / "embeddings" / "passage").iterdir()] == ["00-of-01.safetensors"]
    # what the user names wins, as a whole where it is an option
    second = f"data.queries.a b={world}/dev.jsonl"
    code, out, err = command("encode", f"run_dir={run}", "side=query", "split=a b", second)
    assert (code, err) == (0, "") and "query/a b.safetensors: 8 rows" in out
    code, _, err = command("encode", f"run_dir={run}", "data=files", "overwrite=true")
    assert code == 1 and err.startswith("data.corpus: is not set.")
    code, _, err = command("encode", f"run_dir={run}", "num_shards=2")
    assert code == 1 and "has shards of another number than num_shards=2" in err
    (run / "train" / "config.yaml").write_text("data: 3\n")
    code, _, err = command("search", f"run_dir={run}")
    assert code == 1 and f"{run}/train/config.yaml is damaged" in err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_version(command, name):
    code, out, err = command(name, "--help")
    text, _, config = out.partition("KEY=VALUE to change one:")
    assert (code, err) == (0, "")
    assert 5 < text.count("\n") < 14 and f"python {name}.py " in text and "run_dir=" in text
    assert "gradient_clip_val: 1.0" in config
    assert command(name, "--version") == (0, f"dpr_lightning {version('dpr_lightning')}\n", "")


def test_warnings_of_libraries_go_to_the_log(settings, tmp_path):
    """Lightning warns of a logging interval longer than an epoch; a new process also shows the warnings of imports."""
    words = [sys.executable, ROOT / "train.py", *settings, "trainer.log_every_n_steps=500"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "smaller than the logging interval" in done.stdout
    assert (
        "smaller than the logging interval"
        in next((tmp_path / "run" / "logs" / "train").glob("*/train.log")).read_text()
    )


def test_a_full_disk_under_the_log_does_not_disturb_a_command(settings, finished_run, tmp_path):
    full = "hydra.job_logging.handlers.file.filename=/dev/full"
    process = Script("evaluate", *settings, f"run_dir={finished_run}", "overwrite=true", full, folder=tmp_path)
    code, out, err = end(process)
    assert (code, err) == (0, "")
    assert "answer accuracy" in out


def test_hydra_full_error_gives_the_traceback(command, settings, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="depth: 0 is not a whole number") as raised:
        command("search", *settings, "depth=0")
    assert [entry.name for entry in raised.traceback][-2:] == ["check_positive", "check_at_least"]


def test_later_commands_take_the_run_folders_of_a_sweep(command, settings, tmp_path):
    code, _, err = command("train", *settings, "optimizer.lr=1e-5,2e-5", "-m")
    assert (code, err) == (0, "")
    folders = [tmp_path / "run" / f"optimizer.lr-{lr}" for lr in ("1e-05", "2e-05")]
    assert sorted(path for path in (tmp_path / "run").iterdir() if path.name != "logs") == folders
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] != weights[1]
    assert command("encode", *settings, f"run_dir={folders[1]}", "side=query")[0] == 0
    assert command("encode", *settings, f"run_dir={folders[0]}", "side=query")[0] == 0
    files = [open_embeddings(folder / "embeddings" / "query" / "test.safetensors") for folder in folders]
    assert files[0].identity.model_fingerprint != files[1].identity.model_fingerprint


def test_a_sweep_over_two_settings_names_both(command, settings, tmp_path):
    settings = [*settings, "data.passages_per_query=2,3", "trainer.max_steps=1", "seed=7,8"]
    assert command("train", "-m", *settings)[0] == 0
    names = {path.name for path in (tmp_path / "run").iterdir()} - {"logs"}
    assert names == {f"data.passages_per_query-{count}+seed-{seed}" for count in (2, 3) for seed in (7, 8)}


def test_jobs_of_a_sweep_never_share_a_run_folder(command, settings, tiny_model, tmp_path):
    """Names that differ only in characters that a folder's name cannot have, and run folders that vary themselves."""
    for name in ("a/b", "a_b"):
        shutil.copytree(tiny_model, tmp_path / "models" / name)
    settings = [word for word in settings if not word.startswith(("model.", "run_dir="))]
    models = f"model.name_or_path={tmp_path}/models/a/b,{tmp_path}/models/a_b"
    runs = f"run_dir={tmp_path}/one,{tmp_path}/two"
    assert command("train", "-m", *settings, "trainer.max_steps=1", models, runs, "seed=7,8")[0] == 0
    for run in (tmp_path / "one", tmp_path / "two"):
        folders = [path for path in run.iterdir() if path.name != "logs"]
        assert len(folders) == 4 and all((folder / "model" / "config.json").exists() for folder in folders)
        assert max(len(folder.name) for folder in folders) <= 100


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_different_settings_have_different_folders(settings):
    one, other = map(folder_name, settings)
    assert one != other and "/" not in one and len(one) <= 100


def test_a_sweep_of_one_uses_the_run_folder_itself(command, settings, tmp_path):
    assert command("train", "-m", *settings, "trainer.max_steps=1")[0] == 0
    assert (tmp_path / "run" / "model").exists()


def test_a_sweep_over_experiments_uses_their_run_folders(command, settings, tmp_path):
    settings = [setting for setting in settings if not setting.startswith("run_dir=")]
    assert command("train", *settings, "--multirun", "experiment=nq,nq_untie", "trainer.max_steps=1")[0] == 0
    assert (tmp_path / "runs" / "nq" / "model" / "model.safetensors").exists()
    assert (tmp_path / "runs" / "nq_untie" / "model" / "query_model").exists()


def test_experiments_swept_in_one_run_folder_do_not_collide(command, settings, tmp_path):
    assert command("train", *settings, "-m", "experiment=nq,nq_untie", "trainer.max_steps=1")[0] == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"logs", "experiment-nq", "experiment-nq_untie"}


def test_shards_encoded_as_jobs_are_those_of_one_command(command, settings, finished_run, tmp_path):
    jobs = [*settings, f"model_dir={finished_run}/model", f"run_dir={tmp_path}/jobs"]
    code, out, err = command("encode", "shard=range(3)", "-m", *jobs)
    assert (code, err) == (0, "")
    for name in ("00-of-03", "01-of-03", "02-of-03"):
        file = f"embeddings/passage/{name}.safetensors"
        assert (tmp_path / "jobs" / file).read_bytes() == (finished_run / file).read_bytes()
        assert f"{tmp_path}/jobs/{file}: " in out


def test_a_rerun_of_a_sweep_skips_what_is_finished_and_the_same(command, settings, finished_run):
    def sweep(name, *overrides):
        code, out, err = command(name, *settings, "-m", *overrides)
        skipped = [line for line in out.splitlines() if line.endswith(": finished already, skipped")]
        return code, len(skipped), err

    (finished_run / "embeddings" / "passage" / "01-of-03.safetensors").unlink()
    assert sweep("encode", "shard=range(3)") == (0, 2, "")
    assert sweep("search", "shard=0,1") == (0, 0, "")
    assert sweep("search", "shard=range(3)") == (0, 2, "")
    assert sweep("train", "trainer.log_every_n_steps=2") == (0, 1, "")
    for name, override, message in (
        ("train", "optimizer.lr=1", "optimizer.lr: is 1, but the finished training in"),
        ("encode", "encode.dtype=float16", "encode.dtype: "),
        ("encode", "encode.chunk_size=7", "encode.chunk_size: "),
        ("encode", "encode.precision=16", "encode.precision: "),
        ("search", "depth=7", f"{finished_run}/rankings/test/00-of-03.trec, made with different depth, is finished"),
    ):
        code, skipped, err = sweep(name, override, *([] if name == "train" else ["shard=0,1"]))
        assert (code, skipped, err.count("\n")) == (1, 0, 1), err
        assert err.startswith(message), err
    code, _, err = command("encode", *settings, "encode.chunk_size=7")
    assert code == 1 and "is finished already with 16384, not 7" in err


def test_each_call_leaves_a_record_of_itself(command, settings, finished_run):
    printed = [command("evaluate", *settings, "overwrite=true")[1] for _ in range(2)]
    calls = sorted((finished_run / "logs" / "evaluate").iterdir())[-2:]
    for call, out in zip(calls, printed, strict=True):
        record = json.loads((call / "call.json").read_text())
        assert (record["command"][0], record["command"][-1]) == ("evaluate", "overwrite=true")
        assert record["host"] and record["hardware"]["cpu"] and record["versions"]["torch"]
        assert f"run_dir: {finished_run}\n" in (call / "resolved.yaml").read_text()
        assert out.splitlines()[-1] in (call / "evaluate.log").read_text()


def test_the_first_failing_job_ends_a_sweep(command, settings, finished_run, tmp_path):
    jobs = [*settings, f"model_dir={finished_run}/model", f"run_dir={tmp_path}/jobs"]
    code, _, err = command("encode", *jobs, "-m", "shard=0,7,1")
    assert code == 1
    assert err == "shard: 7 does not exist, num_shards=3 has 0 to 2. Correct shard.\n"
    assert [path.name for path in (tmp_path / "jobs").rglob("*.safetensors")] == ["00-of-03.safetensors"]


@pytest.mark.slow
def test_a_sweep_trains_each_job_once_on_two_devices(settings, tmp_path):
    """Lightning starts the process of the second device with sys.argv, and leaves its traces in the environment."""
    devices = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=4"]
    process = Script("train", "-m", *settings, *devices, "seed=7,8", folder=tmp_path)
    code, out, err = end(process)
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"logs", "seed-7", "seed-8"}
    for seed in (7, 8):
        assert out.count(f"run/seed-{seed}/model: trained 4 steps") == 1
        assert len((tmp_path / "run" / f"seed-{seed}" / "train" / "metrics.csv").read_text().splitlines()) == 5


def test_a_whole_number_serves_where_a_number_is_wanted(command, settings):
    numbers = ["loss.temperature=1", "scheduler.warmup=2", "optimizer.weight_decay=0", "trainer.gradient_clip_val=1"]
    code, _, err = command("train", *settings, *numbers, "trainer.max_steps=1")
    assert (code, err) == (0, "")


def test_data_takes_splits_of_any_name(command, settings, finished_run, world):
    split = ["split=second", f"data.queries.second={world}/test.jsonl", f"data.qrels.second={world}/test.qrels"]
    for name, *more in [("encode", "side=query"), ("search",), ("evaluate",)]:
        code, _, err = command(name, *settings, *split, *more)
        assert (code, err) == (0, "")
    first, second = (read_metrics(finished_run / "evaluation" / name) for name in ("test", "second"))
    own = dict.fromkeys(("run_file", "split", "provenance"))
    assert first | own == second | own
