"""Which settings may change when a training resumes: every key of the config is decided."""

import copy
import functools
import operator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.world import ROOT

from dpr_lightning.errors import UserError
from dpr_lightning.training.resume_settings import MAY_CHANGE, MUST_MATCH, check_resume_settings, rule_of

FILE = Path("run/train/config.yaml")
ANOTHER = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: value + 0.5}
REFUSED = [
    *("trainer.devices=2", "trainer.num_nodes=2", "trainer.strategy=auto", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=41", "trainer.max_steps=5", "trainer.accumulate_grad_batches=2"),
    *("trainer.limit_train_batches=0.5", "trainer.limit_train_batches=1", "trainer.val_check_interval=0.5"),
    *("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=2.0", "trainer.gradient_clip_val=null"),
    *("+trainer.overfit_batches=1", "seed=7", "checkpoint.best=val/mrr", "early_stopping.patience=2"),
    *("data.batch_size=16", "data.train=other.jsonl", "data.dev=null", "data.negatives=first"),
    *("model.pooling=mean", "model/lora=default", "loss=symmetric", "loss.temperature=0.5"),
    *("optimizer.lr=1e-4", "scheduler.warmup=0.2", "grad_cache.query_chunk_size=4"),
]


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(overrides)), resolve=True)


def leaves(config, *groups):
    """Yield the path of each value, as a tuple of keys."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, *groups, name)
        else:
            yield *groups, name


def dotted(path):
    return ".".join(map(str, path))


@pytest.mark.parametrize("overrides", [(), ("model/lora=default",), ("logger=wandb",), ("loss=distillation",)])
def test_every_key_of_the_config_is_in_exactly_one_table(overrides):
    assert not MAY_CHANGE.keys() & MUST_MATCH.keys()
    undecided = [path for path in leaves(composed(*overrides)) if not rule_of(dotted(path))]
    assert not undecided, "add each to a table of resume_settings.py"


def test_every_entry_of_the_tables_is_a_key_of_the_config():
    config = OmegaConf.create(composed())
    missing = object()
    entries = MAY_CHANGE | MUST_MATCH
    assert [key for key in entries if OmegaConf.select(config, key, default=missing) is missing] == []


def test_a_key_changes_only_if_its_table_allows_it():
    saved = composed()
    for path in leaves(saved):
        current, key = copy.deepcopy(saved), dotted(path)
        group = functools.reduce(operator.getitem, path[:-1], current)
        group[path[-1]] = ANOTHER.get(type(group[path[-1]]), lambda value: "another")(group[path[-1]])
        if rule_of(key) in MAY_CHANGE:
            check_resume_settings(saved, current, FILE)
        else:
            with pytest.raises(UserError, match=rf"^{key}: is .*, but the unfinished training in run/train began with"):
                check_resume_settings(saved, current, FILE)


@pytest.mark.parametrize("override", REFUSED)
def test_what_changes_the_result_is_refused(override):
    key = override.partition("=")[0].lstrip("+").replace("/", ".")
    with pytest.raises(UserError, match=rf"^{key}\b") as raised:
        check_resume_settings(composed(), composed(override), FILE)
    assert f"as in {FILE}" in str(raised.value) and "overwrite=true" in str(raised.value)


def test_the_same_settings_and_those_of_later_stages_pass():
    saved = composed()
    check_resume_settings(saved, composed(), FILE)
    changed = "data.num_workers=0 data.corpus=other.jsonl depth=7 trainer.max_time=00:01:00:00 overwrite=true"
    check_resume_settings(saved, composed(*changed.split(), "logger=tensorboard", "run_dir=moved"), FILE)


def test_a_key_that_is_missing_counts_as_null():
    saved, current = composed(), composed()
    del saved["early_stopping"]["patience"], saved["split"]
    check_resume_settings(saved, current, FILE)
    del current["seed"]
    with pytest.raises(UserError, match=r"^seed: is None, but .* began with 42"):
        check_resume_settings(saved, current, FILE)


def test_a_training_from_before_prompts_and_dtypes_may_resume():
    saved = composed()
    for key in ("query_prompt", "passage_prompt", "dtype"):
        del saved["model"][key]
    check_resume_settings(saved, composed(), FILE)
    with pytest.raises(UserError, match=r"^model\.dtype: is 'bfloat16', but .* began with 'float32'"):
        check_resume_settings(saved, composed("model.dtype=bfloat16"), FILE)


def test_a_training_from_before_the_losses_moved_may_resume():
    saved = composed()
    saved["loss"]["_target_"] = "dpr_lightning.training.loss.InBatchLoss"
    check_resume_settings(saved, composed(), FILE)
    with pytest.raises(UserError, match=r"^loss\._target_: "):
        check_resume_settings(saved, composed("loss=symmetric"), FILE)
