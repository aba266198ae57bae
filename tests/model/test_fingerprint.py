"""The fingerprint covers everything that changes embeddings, and saving, loading and using keep it."""

import json
import shutil

import pytest
from support.model_folders import load_model, passages, save_model

from dpr_lightning.model.export import save_bi_encoder

LENGTHS = {"query_max_length": 8, "passage_max_length": 24}


def fingerprint(folder, **arguments):
    return load_model(folder, **LENGTHS, **arguments).fingerprint()


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_saving_and_copying_keep_the_fingerprint(tmp_path, kind, tied):
    source = save_model(tmp_path / "source", kind)
    made = load_model(source, tied=tied, **LENGTHS)
    before = made.fingerprint()
    made.eval()(passages(made.inputs, ["bap"]), passages(made.inputs, ["bar"]))
    save_bi_encoder(made, tmp_path / "saved")
    assert made.fingerprint() == before == load_model(tmp_path / "saved").fingerprint()

    copy = shutil.copytree(source, tmp_path / "copy")
    change_json(copy / "config.json", architectures=["BertForMaskedLM"], transformers_version="4.0.0", dtype="float16")
    assert before == fingerprint(copy, tied=tied, gradient_checkpointing=True)


def change_json(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def lowercase_no_more(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    change_json(folder / "tokenizer.json", normalizer=tokenizer["normalizer"])
    change_json(folder / "tokenizer_config.json", do_lower_case=False)


def swap_two_words(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["bap"], vocabulary["bar"] = vocabulary["bar"], vocabulary["bap"]
    change_json(folder / "tokenizer.json", model=tokenizer["model"])


CHANGES = {
    "activation": lambda folder: change_json(folder / "config.json", hidden_act="relu"),
    "layer norm": lambda folder: change_json(folder / "config.json", layer_norm_eps=0.1),
    "heads": lambda folder: change_json(folder / "config.json", num_attention_heads=4),
    "lowercasing": lowercase_no_more,
    "vocabulary": swap_two_words,
}


@pytest.mark.parametrize("change", CHANGES)
def test_config_and_tokenizer_change_the_fingerprint(tmp_path, change):
    folder = save_model(tmp_path / "model")
    before = fingerprint(folder)
    CHANGES[change](folder)
    assert fingerprint(folder) != before
