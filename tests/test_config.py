"""The shipped configuration: it composes for every command, holds the published recipe, and runs."""

import functools
import inspect
import json
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf
from support.world import ROOT

from dpr_lightning import composition
from dpr_lightning.embeddings.shards import resolve_num_shards

CONF = ROOT / "conf"
COMMANDS = ["train", "encode", "search", "reduce", "evaluate"]
EXPERIMENTS = sorted(
    file.relative_to(CONF / "experiment").with_suffix("") for file in CONF.glob("experiment/**/*.yaml")
)
EXPERIMENTS = [experiment.as_posix() for experiment in EXPERIMENTS]
GROUPS = [file for file in sorted(CONF.rglob("*.yaml")) if file.parent not in (CONF, CONF / "experiment")]
OPTIONS = [file.relative_to(CONF).with_suffix("").as_posix() for file in GROUPS]


@functools.cache
def composed(command, *overrides, with_hydra=False):
    return composition.composed(command, overrides, with_hydra=with_hydra)


def values(config):
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def read(file):
    """The defaults list of a config file and its own keys, dotted."""
    body = yaml.safe_load(file.read_text()) or {}
    defaults = body.pop("defaults", [])
    return defaults, dict(_leaves(OmegaConf.create(body)))


def _leaves(node, prefix=""):
    for key, value in node.items_ex(resolve=False):
        name = f"{prefix}{key}"
        if OmegaConf.is_dict(value) and len(value):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def test_all_experiments_are_found():
    assert EXPERIMENTS == ["curated", "nq", "nq_single_gpu", "nq_untie", "quickstart", "trivia", "trivia_untie", "wq"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_means_the_same_to_every_command(command, experiment):
    config = values(composed(command, f"experiment={experiment}"))
    trained = values(composed("train", f"experiment={experiment}"))
    assert config["name"] == experiment
    assert config["run_dir"] == f"runs/{experiment}"
    if command != "train":
        assert config["trainer"].pop("devices") == 1
        trained["trainer"].pop("devices")
    assert config == trained


@pytest.mark.parametrize("command", COMMANDS)
def test_the_base_alone_is_the_nq_experiment(command):
    assert values(composed(command)) == values(composed(command, "experiment=nq"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_has_only_what_differs_from_its_base(experiment):
    defaults, own = read(CONF / "experiment" / f"{experiment}.yaml")
    assert all(isinstance(entry, str) or next(iter(entry)).startswith("override /") for entry in defaults)
    inherited = [f"experiment={entry}" for entry in defaults if isinstance(entry, str)]
    chosen = [
        f"{group.removeprefix('override /')}={option}"
        for e in defaults
        if isinstance(e, dict)
        for group, option in e.items()
    ]
    base = composed("train", *inherited, *chosen)
    for key, value in own.items():
        assert _exists(base, key), f"{key} is no key of the base"
        assert OmegaConf.select(base, key) != value, f"{key} has the base's value"
    unchanged = [
        choice
        for choice in chosen
        if values(composed("train", *inherited)) == values(composed("train", *inherited, choice))
    ]
    assert not unchanged, "an override that changes nothing"


def _exists(config, key):
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return node is not None and name in node


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_has_only_what_differs_from_its_base(option):
    defaults, own = read(CONF / f"{option}.yaml")
    for sibling in (entry for entry in defaults if entry != "_self_"):
        file = (CONF / option).parent / f"{sibling}.yaml"
        extended = read(file)[1] if file.exists() else {}
        assert not {key for key in own.keys() & extended.keys() if own[key] == extended[key]}


def composed_with(group, name):
    """The config with one option, whose mandatory keys are set."""
    mandatory = [key for key, value in read(CONF / group / f"{name}.yaml")[1].items() if value == "???"]
    return composed("train", f"{group}={name}", *(f"{group}.{key}=folder" for key in mandatory), with_hydra=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_composes(option):
    group, _, name = option.rpartition("/")
    config = composed_with(group, name)
    assert config.hydra.runtime.choices[group] == name
    config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    values(config)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_target_imports_and_takes_the_keys_beside_it(option):
    group, _, name = option.rpartition("/")
    config = composed_with(group, name)
    part = "hydra.launcher" if group == "hydra/launcher" else group.partition("/")[0]  # model/lora is part of model
    found = [node for node in _nodes(OmegaConf.select(config, part)) if "_target_" in node]
    assert found or part in ("data", "model")
    for node in found:
        parameters = inspect.signature(get_object(node._target_)).parameters
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        assert takes_any or set(node) - {"_target_", "_partial_", "dims"} <= set(parameters)  # dims wraps any loss


def _nodes(node):
    yield node
    for value in node.values():
        if OmegaConf.is_dict(value):
            yield from _nodes(value)


def test_the_published_recipe_on_four_gpus():
    recipe = values(composed("train"))
    assert (
        recipe["data"]
        | {
            "batch_size": 32,
            "passages_per_query": 2,
            "positives": "first",
            "negatives": "rotate",
            "answers": "string",
            "match_title": False,
        }
        == recipe["data"]
    )
    assert recipe["data"]["train"] == "hf://datasets/Tevatron/wikipedia-nq/nq-train.jsonl.gz"
    assert recipe["model"] == {
        "name_or_path": "bert-base-uncased",
        "lora": None,
        "tied": True,
        "pooling": "cls",
        "normalize": False,
        "projection_dim": None,
        "query_max_length": 32,
        "passage_max_length": 156,
        "separator": " ",
        "query_prompt": "",
        "passage_prompt": "",
        "dtype": "float32",
        "gradient_checkpointing": False,
    }
    assert recipe["optimizer"] == {
        "_target_": "torch.optim.AdamW",
        "_partial_": True,
        "lr": 1e-5,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    assert recipe["scheduler"]["_target_"] == "dpr_lightning.training.schedule.linear_warmup"
    assert recipe["scheduler"]["warmup"] == 0.1
    assert recipe["loss"]["temperature"] == 1.0
    assert recipe["loss"]["gather_negatives"] is True
    assert recipe["loss"]["mask_known_positives"] is False
    assert recipe["grad_cache"] == {"query_chunk_size": None, "passage_chunk_size": None}
    trainer = recipe["trainer"]
    assert (trainer["accelerator"], trainer["devices"], trainer["strategy"]) == ("gpu", 4, "ddp")
    assert trainer["precision"] == "16-mixed"
    assert (trainer["max_epochs"], trainer["max_steps"]) == (40, -1)
    assert trainer["gradient_clip_val"] == 1.0
    assert trainer["accumulate_grad_batches"] == 1
    assert trainer["log_every_n_steps"] == 500
    assert trainer["use_distributed_sampler"] is False
    assert recipe["checkpoint"]["every_n_steps"] == 20_000
    assert recipe["seed"] == 42
    assert resolve_num_shards(Path("no folder"), recipe["num_shards"], rows=21_015_324) == 20
    assert recipe["depth"] == 100


@pytest.mark.parametrize("data", ["files", "beir", "fair_dpr", "msmarco"])
def test_own_data_train_on_any_machine(data):
    trainer = composed_with("data", data).trainer
    automatic = ("accelerator", "devices", "precision", "log_every_n_steps")
    assert {trainer[key] for key in automatic} == {"auto"} and trainer.max_epochs == 5
    assert composed("train", "data=files", "trainer=ddp").trainer == composed("train").trainer


def test_one_gpu_changes_batch_devices_and_gradient_cache_only():
    four, one = values(composed("train")), values(composed("train", "experiment=nq_single_gpu"))
    changed = {key: one_value for key, one_value in _flat(one).items() if _flat(four)[key] != one_value}
    paths = {key for key in changed if "runs/" in str(changed[key])}
    assert {key: value for key, value in changed.items() if key not in paths} == {
        "name": "nq_single_gpu",
        "data.batch_size": 128,
        "grad_cache.query_chunk_size": 4,
        "grad_cache.passage_chunk_size": 32,
        "trainer.devices": 1,
        "trainer.strategy": "auto",
    }
    assert four["data"]["batch_size"] * four["trainer"]["devices"] == one["data"]["batch_size"]


def _flat(config):
    return dict(_leaves(OmegaConf.create(config)))


@pytest.mark.parametrize(
    ("experiment", "data", "tied", "answers"),
    [
        ("nq_untie", "nq", False, "string"),
        ("trivia", "trivia", True, "string"),
        ("trivia_untie", "trivia", False, "string"),
        ("wq", "wq", True, "string"),
        ("curated", "curated", True, "regex"),
    ],
)
def test_other_experiments_change_data_and_tying_only(experiment, data, tied, answers):
    config, recipe = values(composed("train", f"experiment={experiment}")), values(composed("train"))
    for split in ("train", "dev", "test"):
        assert config["data"]["queries"][split] == f"hf://datasets/Tevatron/wikipedia-{data}/{data}-{split}.jsonl.gz"
    assert config["data"]["corpus"] == "hf://datasets/Tevatron/wikipedia-nq-corpus/*.jsonl.gz"
    assert config["data"]["answers"] == answers
    assert config["model"]["tied"] is tied
    sampling = ("batch_size", "passages_per_query", "positives", "negatives")
    assert {key: config["data"][key] for key in sampling} == {key: recipe["data"][key] for key in sampling}
    assert config["model"] | {"tied": True} == recipe["model"]
    for group in ("loss", "optimizer", "scheduler", "trainer", "grad_cache", "checkpoint", "encode"):
        assert config[group] == recipe[group]


@pytest.mark.parametrize("launcher", ["slurm_cpu", "slurm_gpu"])
@pytest.mark.parametrize("command", COMMANDS)
def test_slurm_launchers_take_a_task_per_process(command, launcher):
    settings = ["trainer.devices=2", "trainer.num_nodes=3"] if command == "train" else []
    config = composed(command, f"hydra/launcher={launcher}", *settings, with_hydra=True)
    slurm = config.hydra.launcher
    assert slurm._target_ == "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    assert slurm.partition is None
    devices, nodes = (2, 3) if command == "train" else (1, 1)
    gpus = devices if launcher == "slurm_gpu" else None
    assert (slurm.tasks_per_node, slurm.gpus_per_node, slurm.nodes) == (devices, gpus, nodes)


@pytest.mark.parametrize(("launcher", "gpus"), [("slurm_cpu", None), ("slurm_gpu", 1)])
def test_a_job_of_automatic_devices_has_one(launcher, gpus):
    slurm = composed("train", f"hydra/launcher={launcher}", "trainer=auto", with_hydra=True).hydra.launcher
    assert (slurm.tasks_per_node, slurm.gpus_per_node, slurm.nodes) == (1, gpus, 1)


@pytest.fixture
def encoder_calls():
    """The rows of each call of an encoder while the test runs."""
    from dpr_lightning.model.encoder import Encoder

    calls = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, made: calls.append(len(made)) if isinstance(module, Encoder) else None
    )
    yield calls
    hook.remove()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_through_all_commands(command, settings, experiment, encoder_calls, tmp_path):
    own_data = [setting for setting in settings if setting != "data=files"]
    settings = [f"experiment={experiment}", *own_data, "num_shards=2", f"run_dir={tmp_path}/{experiment}"]
    run = Path(tmp_path, experiment)

    def succeed(name, *more):
        code, out, err = command(name, *settings, *more)
        assert (code, err) == (0, "")
        return out

    assert "trained 1 steps" in succeed("train", "trainer.max_steps=1", "trainer.limit_val_batches=0")
    if experiment == "nq_single_gpu":  # 8 queries by 4 and 16 passages by 32, once without and once with a graph
        assert encoder_calls[:6] == 2 * [4, 4, 16]
    else:
        assert encoder_calls[:2] == [8, 16]
    assert (run / "model" / "query_model").exists() == experiment.endswith("untie")
    succeed("encode")
    succeed("encode", "side=query")
    succeed("search", "-m", "shard=0,1")
    assert "12 queries merged from 2 shards" in succeed("reduce")
    succeed("evaluate")
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
    assert metrics["questions"] == 12
    assert metrics["answers"] == ("regex" if experiment == "curated" else "string")
    assert 0 < metrics["accuracy"]["20"] <= 1
