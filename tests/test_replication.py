"""The replication: which commands get which overrides, and a graph of jobs that always ends with figures."""

import functools
import itertools
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import assert_mistake, run_command, run_script

from dpr_lightning.call_record import forgotten_if_refused, recorded_end
from dpr_lightning.composition import composed_values, launcher_values
from dpr_lightning.errors import ReportedMistake, UserError
from dpr_lightning.replication import SHARD, Replication

N = 3


@functools.cache
def config_with(*words):
    return composed_values("train", [f"num_shards={N}", *words])


def replication(run, *words):
    return Replication([f"run_dir={run}", *words], {**config_with(*words), "run_dir": str(run)})


@pytest.mark.parametrize(
    ("word", "commands"),
    [
        ("trainer.devices=2", {"train"}),
        ("optimizer.lr=1e-4", {"train"}),
        ("data.batch_size=4", {"train"}),
        ("data.corpus=a.jsonl", {"train", "encode", "search", "reduce", "evaluate"}),
        ("encode.dtype=float16", {"encode"}),
        ("depth=50", {"search", "reduce"}),
        ("memory=1GB", {"search"}),
        ("topk=[1,5]", {"evaluate"}),
        ("split=dev", {"train", "encode", "search", "reduce", "evaluate"}),
    ],
)
def test_an_override_reaches_the_commands_that_understand_it(tmp_path, word, commands):
    jobs = replication(tmp_path / "run", word).as_jobs()
    getting = {command.name for job in jobs for command in job.commands if word in command.overrides}
    assert getting - {"prepare"} == commands
    assert [command.name for command in jobs[0].commands if word in command.overrides] == ["prepare"]


@pytest.mark.parametrize("word", ["overwrite=true", "shard=1", "side=query", "skip_finished=true", "method=best"])
def test_an_override_of_single_stages_is_refused(tmp_path, word):
    with pytest.raises(UserError, match=f"^{word.partition('=')[0]}: "):
        replication(tmp_path / "run", word)


class Cluster:
    """Runs a graph of jobs as SLURM would: each command makes its outputs, unless its input is missing."""

    def __init__(self, run, cancelled):
        self.run, self.cancelled, self.ended, self.trained = run, cancelled, {}, 0

    def submit(self, job):
        numbers = job.array if job.array is not None else [None]
        self.ended[job.name] = {number: self._may_start(job, number) and self._work(job, number) for number in numbers}

    def _may_start(self, job, number):
        for kind, names in job.after.items():
            for name in names:
                before = self.ended[name]  # KeyError: a job that does not exist, or is submitted later
                if kind == "afterok" and not all(before.values()):
                    return False
                if kind == "aftercorr" and not before[number]:
                    return False
        return True

    def _work(self, job, number):
        if (job.name, number) in self.cancelled:
            return False
        return all(self._run(command, number) for command in job.commands)

    def _run(self, command, number):
        run, words = self.run, command.overrides
        shards = [number] if SHARD in words else range(N)
        passages = [run.passage_shard(shard, N) for shard in shards]
        if command.name == "train":
            self.trained += 1
            return touch(run.model / "config.json")
        if command.name == "encode":
            return run.model.exists() and all(
                map(touch, [run.query_embeddings("test")] if is_query(words) else passages)
            )
        if command.name == "search" and "shard=all" not in words and SHARD not in words:
            return embedded(run) and touch(run.ranking("test"))
        if command.name == "search":
            inputs = [*passages, run.query_embeddings("test")]
            return all(p.exists() for p in inputs) and all(touch(run.shard_ranking("test", n, N)) for n in shards)
        if command.name == "reduce":
            return all(run.shard_ranking("test", n, N).exists() for n in range(N)) and touch(run.ranking("test"))
        if command.name == "evaluate":
            return run.ranking("test").exists() and touch(run.evaluation("test") / "metrics.json")
        return command.name == "prepare"


def is_query(words):
    return "side=query" in words


def embedded(run):
    return run.query_embeddings("test").exists() and all(run.passage_shard(n, N).exists() for n in range(N))


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return True


ELEMENTS = list(itertools.product(["encode", "search"], range(N)))


@given(
    existing=st.sets(st.sampled_from(["model", "queries", *itertools.product(["passages", "rankings"], range(N))])),
    cancelled=st.sets(st.sampled_from(ELEMENTS)),
    words=st.sampled_from([[], ["index=Flat"], ["method=hybrid"]]),
)
def test_whatever_exists_and_is_cancelled_the_graph_ends_with_figures(tmp_path_factory, existing, cancelled, words):
    if not {"model"} <= existing:
        existing = set()
    ours = replication(tmp_path_factory.mktemp("graph") / "run", *words)
    run = ours.run
    paths = {"model": run.model / "config.json", "queries": run.query_embeddings("test")}
    paths |= {("passages", n): run.passage_shard(n, N) for n in range(N)}
    paths |= {("rankings", n): run.shard_ranking("test", n, N) for n in range(N)}
    assert all(touch(paths[name]) for name in existing)
    cluster = Cluster(run, cancelled)
    for job in ours.as_jobs():
        cluster.submit(job)
    assert (run.evaluation("test") / "metrics.json").exists()
    assert cluster.trained == (0 if "model" in existing else 1)
    assert set(cluster.ended.get("encode", {})) == {n for n in range(N) if ("passages", n) not in existing}


def test_the_training_s_resources_are_its_own(tmp_path):
    words = ["trainer.devices=4", "trainer.num_nodes=2", "hydra.launcher.partition=long"]
    train, encode = launcher_values("slurm_gpu", "train", words), launcher_values("slurm_cpu", "encode", words[2:])
    assert (train["tasks_per_node"], train["nodes"], train["gpus_per_node"]) == (4, 2, 4)
    assert (encode["tasks_per_node"], encode["nodes"], encode["gpus_per_node"]) == (1, 1, None)
    assert train["partition"] == encode["partition"] == "long"


def test_a_replication_on_this_machine_continues_after_a_failure(settings, tmp_path, monkeypatch):
    """The first search finds no disk space; given again, the rest is done, and what was finished stays."""
    ran, as_process = [], subprocess.Popen

    def run(words, **options):
        if words[1] != "-m":
            return as_process(words, **options)
        package, _, name = words[2].rpartition(".")
        assert package == "dpr_lightning.commands"
        more = ["memory=lots"] if name == "search" and "search" not in ran else []
        ran.append(name)
        code = run_command(name, [*words[3:], *more], tmp_path)
        return SimpleNamespace(wait=lambda: code)

    monkeypatch.setattr(subprocess, "Popen", run)
    words = [word for word in settings if word != "num_shards=3"]
    code, out, _ = run_script("replicate", *words)
    assert (code, ran) == (1, ["train", "encode", "encode", "search"])
    model = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    code, out, err = run_script("replicate", *words)
    assert (code, err) == (0, "")
    assert "run/model: finished already, skipped" in out and "top-20" in out
    assert ran[4:] == ["train", "encode", "encode", "search", "evaluate"]
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == model
    code, out, _ = run_script("replicate", *words, "optimizer.lr=1")
    assert (code, ran[9:]) == (1, ["train"])
    monkeypatch.setenv("PATH", "")
    for mistake, start in (("optimizer.lr=1", "optimizer.lr: is 1"), ("depth=20", "--slurm: this machine has no ")):
        assert assert_mistake(run_script("replicate", *words, mistake, "--slurm")).startswith(start)


def test_mistakes_of_a_replication_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert assert_mistake(run_script("replicate", "nope")).startswith("experiment=nope: the option does not exist.")
    assert assert_mistake(run_script("replicate", "nq", "optimiser.lr=1")).startswith(
        "optimiser.lr: the config key does"
    )
    assert assert_mistake(run_script("replicate", "nq", f"run_dir={tmp_path}", "--slurm")).startswith(
        "--slurm: this machine has no sbatch"
    )
    assert not Path(tmp_path, "model").exists()


def test_prepare_opens_everything_once(command, settings, world, tmp_path):
    code, out, err = command("prepare", *settings)
    assert (code, err) == (0, "")
    rows = (
        "data.train: 32 rows; data.dev: 8 rows; data.corpus: 40 rows; data.queries.test: 12 rows; data.qrels.test: 12"
    )
    assert out.splitlines()[-1] == f"{rows} questions"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["logs"]
    code, out, _ = command("encode", *settings, f"model_dir={tmp_path}/none")
    assert "checking" not in out  # the corpus is converted already
    code, _, err = command("prepare", *settings, f"data.corpus={world}/none.jsonl")
    assert code == 1 and err.startswith("data.corpus: there is no file") and err.count("\n") == 1
    nothing = ["data.train=null", "data.corpus=null", "data.queries.test=null", "data.qrels.test=null"]
    assert command("prepare", *settings, *nothing)[1].startswith("nothing to prepare")


def test_a_job_has_a_number_of_processes(tmp_path):
    words = [f"run_dir={tmp_path}", "data=files"]  # with trainer=auto
    ours = Replication(words, composed_values("train", words))
    assert [command.name for command in ours.in_sequence()] == ["train", "encode", "encode", "search", "evaluate"]
    with pytest.raises(UserError, match=r"^trainer\.devices: SLURM needs a number of processes, not auto\."):
        ours.as_jobs()
    touch(ours.run.model / "config.json")
    assert "train" not in [job.name for job in ours.as_jobs()]


def test_a_refused_command_leaves_no_run_folder(command, settings, tmp_path):
    run = tmp_path / "run"
    code, _, err = command("search", *settings)
    assert code == 1 and err.startswith(f"{run}/embeddings/query/test.safetensors does not exist.")
    assert not run.exists()
    (run / "model").mkdir(parents=True)
    assert command("search", *settings)[0] == 1
    (log,) = (run / "logs" / "search").glob("*/search.log")
    assert "does not exist" in log.read_text()


def test_a_folder_of_own_configs_gives_experiments_and_launchers(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - override /trainer: ddp\n")
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    site = "defaults:\n  - slurm_gpu\n  - _self_\n\npartition: a100\n"
    (tmp_path / "hydra" / "launcher" / "site.yaml").write_text(site)
    option = f"--config-dir={tmp_path}"
    words = [option, "experiment=mine"]
    assert composed_values("train", words)["run_dir"] == "runs/mine"
    settings = launcher_values("site", "train", words)
    assert (settings["partition"], settings["tasks_per_node"]) == ("a100", 4)
    ours = Replication(words[1:], composed_values("train", words), [option])
    assert all(command.overrides[:2] == words for job in ours.as_jobs() for command in job.commands)


@pytest.mark.parametrize("folder", ["/", "/x", "/x/y", "/x/logs/y"])
def test_a_log_folder_that_the_user_has_chosen_is_left_alone(folder, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(ReportedMistake), forgotten_if_refused(Path(folder)), recorded_end(Path(folder) / "none"):
        raise ReportedMistake("a mistake")
