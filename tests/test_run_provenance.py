"""Where results come from: in metrics.json, in RUN/provenance.json, and how both are told without a command."""

import json
import shutil

from support.commands import run_command

from dpr_lightning import environment
from dpr_lightning.call_record import read_calls
from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.evaluation.output import read_metrics
from dpr_lightning.evaluation.stage import evaluate
from dpr_lightning.files import file_hash
from dpr_lightning.run_dir import RunDir
from dpr_lightning.run_provenance import write_run_provenance
from dpr_lightning.training_config import run_settings


def stages(run):
    return json.loads(run.provenance.read_text())["stages"]


def test_a_run_names_the_commands_that_make_it_again(command, settings, finished_run, tmp_path):
    run = RunDir(finished_run)
    found = json.loads(run.provenance.read_text())
    assert [words.split()[1] for words in found["commands"]] == [
        *("train.py", "encode.py", "encode.py", "search.py", "evaluate.py"),
    ]
    assert ["side=query" in words for words in found["commands"]] == [False, False, True, False, False]
    for stage in found["stages"]:
        assert stage["seed"] == 42 and stage["seconds"] > 0 and stage["settings"]["depth"] == 20
        assert stage["versions"]["torch"] and stage["hardware"]["cores"] >= 1 and stage["python"]
        assert (run.path / stage["log"]).is_dir()
    prints, metrics = found["fingerprints"], read_metrics(run.evaluation("test"))
    assert prints["training"]["data"].keys() == {"train", "dev"}
    own = prints["evaluations"]["test"]
    assert own["ranking"]["xxh3"] == file_hash(run.ranking("test"))
    assert own["metrics"] == file_hash(run.evaluation("test") / "metrics.json")
    assert len(own["embeddings"]) == 4 and own["model"] == metrics["model_fingerprint"]
    provenance = metrics["provenance"]
    assert (provenance["command"], provenance["seed"]) == (found["commands"][-1], 42)

    # A call that finds its output finished, or that fails, is not the one that made it.
    assert command("evaluate", *settings)[0] == 0
    assert command("search", *settings, "skip_finished=true")[0] == 0
    assert command("search", *settings, "depth=7")[0] == 1
    assert command("evaluate", *settings)[0] == 0
    assert stages(run) == found["stages"]

    # Shards that are merged have made the ranking; a newer search of all does without them.
    assert command("search", *settings, "shard=all", "depth=9")[0] == 0
    assert command("reduce", *settings, "depth=9", "overwrite=true")[0] == 0
    assert command("evaluate", *settings, "overwrite=true", "topk=[1,5]")[0] == 0
    names = [stage["stage"] for stage in stages(run)]
    assert names == ["train", "encode", "encode", "search", "reduce", "evaluate"]
    assert command("search", *settings, "overwrite=true")[0] == 0
    assert command("evaluate", *settings, "overwrite=true")[0] == 0
    assert [stage["stage"] for stage in stages(run)] == ["train", "encode", "encode", "search", "evaluate"]

    # The commands make a run with the same figures.
    again = [word.replace(str(finished_run), str(tmp_path / "again")) for word in settings]
    for stage in stages(run):
        name, *words = stage["command"].split()[1:]
        more = [word for word in words if word.startswith("side=")]
        assert run_command(name.removesuffix(".py"), [*again, *more], tmp_path) == 0
    figures = [read_metrics(RunDir(path).evaluation("test")) for path in (finished_run, tmp_path / "again")]
    assert (
        figures[0]["accuracy"] == figures[1]["accuracy"] and figures[0]["run_file_xxh3"] == figures[1]["run_file_xxh3"]
    )


def test_a_model_of_another_run_brings_its_training(command, settings, finished_run, tmp_path):
    other = [word.replace(str(finished_run), str(tmp_path / "other")) for word in settings]
    model = f"model_dir={finished_run}/model"
    for name, *more in (("encode",), ("encode", "side=query"), ("search",), ("evaluate",)):
        assert command(name, *other, *([model] if name == "encode" else []), *more)[0] == 0
    found = stages(RunDir(tmp_path / "other"))
    assert "train" in [stage["stage"] for stage in found]
    assert run_settings(RunDir(tmp_path / "other"), "test").model_dir == finished_run / "model"


def test_a_call_that_failed_brings_no_training(command, settings, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "other")
    before = stages(RunDir(finished_run))
    assert command("encode", *settings, f"model_dir={tmp_path}/other/model", "side=query", "encode.dim=0")[0] == 1
    write_run_provenance(RunDir(finished_run))
    assert stages(RunDir(finished_run)) == before


def test_a_training_of_a_sweep_is_found_beside_its_run(command, settings, finished_run, tmp_path):
    jobs = [word for word in settings if not word.startswith("run_dir=")]
    assert command("train", *jobs, f"run_dir={tmp_path}/sweep", "trainer.max_steps=1", "-m", "seed=choice(5)")[0] == 0
    run = RunDir(tmp_path / "sweep" / "seed-5")
    write_run_provenance(run)
    (stage,) = stages(run)
    assert (stage["stage"], stage["seed"]) == ("train", 5)
    assert f"run_dir={run.path}" in stage["command"] and " -m" not in stage["command"]
    assert f"run_dir={tmp_path}/sweep " not in stage["command"]
    (call,) = read_calls(tmp_path / "sweep" / "logs")
    assert call.settings["run_dir"] == str(run.path) and call.has_succeeded


def test_a_function_knows_everything_but_the_command(finished_run, world, monkeypatch, tmp_path):
    run = RunDir(finished_run)
    shutil.rmtree(run.evaluations)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "installed" / "dpr_lightning" / "environment.py"))
    sources = open_queries(str(world / "test.jsonl")), open_corpus(str(world / "corpus.jsonl"))
    metrics = evaluate(run, *sources, topk=[1]).metrics
    provenance = metrics["provenance"]
    assert {name for name, value in provenance.items() if value is None} == {
        *("command", "log", "seed", "commit", "dirty"),
    }
    write_run_provenance(run)
    assert [stage["stage"] for stage in stages(run)] == ["train", "encode", "encode", "search"]
    assert read_metrics(run.evaluation("test")) == metrics
