"""Model folders that are damaged, foreign or malicious: one line that names the file, and no code runs."""

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.model_folders import load_model, save_model, save_tokenizer, save_transformer
from support.processes import Script
from support.world import WORDS
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DPRConfig,
    DPRContextEncoder,
    DPRReader,
    GPT2Config,
    GPT2Model,
)

from dpr_lightning.errors import UserError
from dpr_lightning.model.checksums import CHECKSUMS
from dpr_lightning.model.export import save_bi_encoder

NONSENSE = [None, True, -1, 0, 3, 1 << 70, 0.5, "", "x", [], [1], ["a"], {}, {"a": 1}]
FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "dpr_lightning.json"]


def refusal(folder, **arguments):
    with pytest.raises(UserError) as caught:
        load_model(folder, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that we saved, without its checksums, and the content of its files."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    base = save_model(tmp_path_factory.mktemp("base"))
    save_bi_encoder(load_model(base, projection_dim=4, passage_max_length=24), folder)
    (folder / CHECKSUMS).unlink()  # what libraries say about damage is tested, too
    return folder, {name: (folder / name).read_bytes() for name in FILES}


def load_or_refuse(saved, name, content):
    """Load the folder with another content of one file; a refusal must name the folder and be one line."""
    folder, files = saved
    try:
        (folder / name).write_bytes(content)
        bi_encoder = load_model(folder)
    except UserError as error:
        assert str(folder) in str(error), error
        assert "\n" not in str(error)
        return str(error)
    finally:
        (folder / name).write_bytes(files[name])
    inputs = bi_encoder.inputs
    tokens = inputs.pad(inputs.encode_passages(["bap"], ["bar bas"]))
    assert bi_encoder.passage(**tokens).shape[0] == 1
    return None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"5", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_not_the_right_json_is_named(saved, name, content):
    message = load_or_refuse(saved, name, content)
    if name == "tokenizer_config.json" and content == b"{}":
        return  # this file may be empty
    assert name in message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_named(saved, name, kept):
    content = saved[1][name]
    assert name in load_or_refuse(saved, name, content[: int(kept * len(content))])


def paths(value, path=()):
    """Yield the path of every value within a JSON value, at most three deep."""
    yield path
    if isinstance(value, dict) and len(path) < 3:
        for key in list(value)[:40]:
            yield from paths(value[key], (*path, key))


def changed(value, path, new, delete):
    """Return a copy of a JSON value with one value replaced or deleted."""
    if not path:
        return new
    copy = dict(value)
    if delete and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(value[path[0]], path[1:], new, delete)
    return copy


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(FILES), new=st.sampled_from(NONSENSE), delete=st.booleans())
def test_any_value_may_be_nonsense(saved, data, name, new, delete):
    content = json.loads(saved[1][name])
    path = data.draw(st.sampled_from([path for path in paths(content) if path]))
    load_or_refuse(saved, name, json.dumps(changed(content, path, new, delete)).encode())


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size", "hidden_size", "max_position_embeddings"])
def test_a_huge_size_is_refused_at_once(saved, key):
    for size in (1 << 20, 1 << 40, 1 << 70):
        config = json.loads(saved[1]["config.json"]) | {key: size}
        assert "config.json" in load_or_refuse(saved, "config.json", json.dumps(config).encode())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_an_error(saved, tmp_path, name):
    folder = shutil.copytree(saved[0], tmp_path / "model")
    (folder / name).unlink()
    assert str(folder) in refusal(folder)


def test_weights_of_another_size_than_the_config_are_refused(tmp_path):
    folder = tmp_path / "model"
    save_tokenizer(folder)
    save_transformer(folder)
    BertModel(BertConfig(vocab_size=245, **_DPR)).config.save_pretrained(folder)
    assert f"the model in {folder} cannot be loaded from config.json and model.safetensors" in refusal(folder)


# Model and tokenizer fit each other


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(tmp_path):
    folder = save_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(folder)
    rows = 5 + len(WORDS)
    assert refusal(folder) == (
        f"name_or_path: the tokenizer of {folder} has {rows + 1} ids, but its embeddings have {rows} rows. "
        "Use model and tokenizer of one training."
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_decoder_with_cls_pooling_is_refused(tmp_path, tied):
    folder = tmp_path / "model"
    save_tokenizer(folder)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 200}
    GPT2Model(GPT2Config(vocab_size=5 + len(WORDS), pad_token_id=1, **sizes)).save_pretrained(folder)
    assert refusal(folder, tied=tied) == (
        f"pooling: with 'cls', {folder} ignores all tokens but the first, because it is a causal decoder (gpt2). "
        "Set another `pooling`, or choose another model."
    )
    load_model(folder, tied=tied, pooling="mean")


def test_a_bert_that_is_a_decoder_with_cls_pooling_is_refused(tmp_path):
    folder = save_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
    assert "because it is a causal decoder (bert)" in refusal(folder, passage_max_length=24)


_BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
_DPR = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize(
    ("model_class", "config", "kind"),
    [
        (BartModel, BartConfig(vocab_size=245, **_BART), "an encoder-decoder (bart)"),
        (DPRReader, DPRConfig(vocab_size=245, **_DPR), "a DPR model other than DPRQuestionEncoder and DPRContextEncod"),
        (DPRContextEncoder, DPRConfig(vocab_size=245, projection_dim=4, **_DPR), "a DPR model other than DPRQuestion"),
        (BertForSequenceClassification, BertConfig(vocab_size=245, num_labels=1, **_DPR), "a CrossEncoder (BertFor"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_unsupported_kind_of_model_is_named(tmp_path, model_class, config, kind):
    folder = tmp_path / "model"
    save_tokenizer(folder)
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    message = refusal(folder)
    assert message.startswith(f"name_or_path: {folder} is {kind}")
    assert message.endswith("which is not supported. Choose an encoder such as BERT or RoBERTa.")


# No code in a folder runs

LOAD = """
import sys
from dpr_lightning.errors import report_user_errors
from dpr_lightning.model.bi_encoder import load_bi_encoder
with report_user_errors():
    load_bi_encoder(sys.argv[1])
"""
CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel, BertTokenizerFast
Path({marker!r}).touch()
class Config(BertConfig):
    model_type = "harm"
class Model(BertModel):
    config_class = Config
class Tokenizer(BertTokenizerFast):
    pass
"""


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("model_type", ["harm", "bert"])
def test_code_in_a_folder_never_runs(tmp_path, file, model_type):
    folder, marker = save_model(tmp_path / "model"), tmp_path / "marker"
    (folder / "code.py").write_text(CODE.format(marker=str(marker)))
    described = json.loads((folder / file).read_text())
    if file == "config.json":
        described |= {"model_type": model_type, "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    else:
        described |= {"auto_map": {"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]}}
        if model_type == "harm":
            described["tokenizer_class"] = "Tokenizer"
    (folder / file).write_text(json.dumps(described))
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    with Script(script, folder, stdin="y\n" * 9) as process:
        out, err = process.communicate(timeout=120)
    assert not marker.exists()
    assert out == ""
    assert "Traceback" not in err
    if file == "config.json" and model_type == "harm":
        line = f"name_or_path: {folder} needs Python code of its own, which never runs here. Choose another model.\n"
        assert (process.returncode, err.splitlines()[-1] + "\n") == (1, line)
