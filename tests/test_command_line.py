"""The command line: any text reaches the command as it was typed, other words stay as Hydra reads them."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import example, given
from hypothesis import strategies as st

from dpr_lightning.command_line import decoded_split, hydra_words, quoted, with_name
from dpr_lightning.errors import UserError

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


def value_of(word):
    value = OverridesParser.create().parse_override(word).value()
    return value.text if isinstance(value, QuotedString) else value


@given(TEXT)
@example("it's")
@example("a\\")
@example("a\\'b\\")
def test_quoted_text_is_read_back(text):
    assert value_of(f"key={quoted(text)}") == text


@pytest.mark.parametrize("key", ["run_dir", "split", "data.corpus", "data.queries.test", "model.name_or_path"])
@pytest.mark.parametrize(
    "text", ["runs/it's", "/a/epoch=3/x", "2019", "true", "1e5", "a b", "[a].jsonl", "日本/ü", "a,b"]
)
def test_text_keys_take_any_characters(key, text):
    (word,) = hydra_words([f"{key}={text}"])
    assert value_of(word) == text


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["data=files", "run_dir=runs/it's, mine/"], "it's, mine"),
        (["data=files"], "files"),
        (["run_dir=a", "experiment=nq"], None),
        (["run_dir=a", "name=b"], None),
        (["run_dir=a,b", "-m"], None),
        (["run_dir=${name}"], None),
        (["run_dir=/"], None),
        ([], None),
    ],
)
def test_a_run_is_named_after_its_folder_or_data_unless_something_names_it(words, name):
    assert with_name(words) == ([] if name is None else [f"name={name}"]) + words


@pytest.mark.parametrize("value", ["null", "'quoted already'", '"so too"', "${name}"])
def test_values_in_hydra_s_grammar_stay(value):
    assert hydra_words([f"data.train={value}"]) == [f"data.train={value}"]


def test_splits_of_any_name_are_added():
    assert hydra_words(["data.qrels.mine=a.qrels"]) == ["++data.qrels.mine='a.qrels'"]


def test_a_sweep_names_its_jobs_after_what_varies():
    words = hydra_words(["seed=1,2", "-m", "run_dir=it's", "split=2019,dev"])
    assert words[:4] == ["-m", "seed=1,2", r"run_dir='it\'s'", "split='2019','dev'"]
    assert words[4].endswith("exclude_keys=[overwrite,run_dir]")
    assert hydra_words(["-m", "experiment=nq,wq"])[-1].endswith("exclude_keys=[experiment,overwrite,run_dir]")
    assert hydra_words(["-m", "experiment=nq,wq", "name=x"])[-1].endswith("exclude_keys=[name,overwrite,run_dir]")


def test_an_index_with_commas_is_one_value_in_a_sweep():
    assert hydra_words(["-m", "index=HNSW32,Flat"])[1] == "index='HNSW32,Flat'"


def test_an_experiment_that_does_not_name_the_run_gives_it_its_own_name(tmp_path):
    """Otherwise the run would be that of the base config, runs/nq."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 1\n")
    (tmp_path / "experiment" / "named.yaml").write_text("# @package _global_\nname: other\n")
    for option in ([f"--config-dir={tmp_path}"], ["-cd", str(tmp_path)]):
        assert with_name([*option, "experiment=mine"]) == ["name=mine", *option, "experiment=mine"]
        assert with_name([*option, "experiment=named"]) == [*option, "experiment=named"]
        assert with_name([*option, "experiment=mine", "name=x"]) == [*option, "experiment=mine", "name=x"]
    assert with_name(["experiment=nq_untie"]) == ["experiment=nq_untie"]


@pytest.mark.parametrize("word", ["topk=[1,5", "optimizer.lr=a=b:", "seed='1"])
def test_a_value_that_hydra_cannot_read_is_named(word):
    with pytest.raises(UserError, match="is not a value that Hydra can read") as caught:
        hydra_words([word])
    assert str(caught.value).startswith(word.partition("=")[0] + ": ")


@pytest.mark.parametrize(
    "paths", [["it's.jsonl", "/a/epoch=3/b.jsonl"], ["é (1).jsonl"], ["2019", "a b", "null"], ["[x].jsonl"]]
)
def test_lists_of_paths_take_any_characters(paths):
    (word,) = hydra_words([f"data.corpus=[{','.join(paths)}]"])
    value = [part.text if isinstance(part, QuotedString) else part for part in value_of(word)]
    assert value == [None if path == "null" else path for path in paths]


@pytest.mark.parametrize("split", ["é", "a b", "it's", "a:b", "a/b", "2019", "über-test"])
def test_splits_take_any_characters(split):
    (word,) = hydra_words([f"data.queries.{split}=it's.jsonl"])
    key = OverridesParser.create().parse_override(word).key_or_group
    assert decoded_split(key.removeprefix("data.queries.")) == split
    assert value_of(word) == "it's.jsonl"


@pytest.mark.parametrize("split", ["test", "v1.0", "hex", "dev_2"])
def test_plain_splits_stay(split):
    assert hydra_words([f"data.qrels.{split}=a"]) == [f"++data.qrels.{split}='a'"]
    assert decoded_split(split) == split
