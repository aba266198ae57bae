"""Damage in a saved model that still loads, and would give other embeddings, is an error."""

import json

import pytest
from support.model_folders import load_model, save_model

from dpr_lightning.errors import UserError
from dpr_lightning.model.checksums import CHECKSUMS
from dpr_lightning.model.export import save_bi_encoder


def swap_two_words(content):
    tokenizer = json.loads(content)
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["bap"], vocabulary["bar"] = vocabulary["bar"], vocabulary["bap"]
    return json.dumps(tokenizer).encode()


def flip_a_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def saved(request, tmp_path):
    base = save_model(tmp_path / "base")
    save_bi_encoder(load_model(base, tied=request.param, passage_max_length=24), tmp_path / "model")
    return tmp_path / "model"


def test_damage_that_loads_is_one_line_that_names_the_file(saved):
    weights = next(saved.rglob("model.safetensors"))
    for file, damage in ((saved / "tokenizer.json", swap_two_words), (weights, flip_a_bit)):
        content = file.read_bytes()
        file.write_bytes(damage(content))
        with pytest.raises(UserError) as caught:
            load_model(saved)
        assert str(caught.value) == (
            f"{file} is missing or was changed after it was saved. "
            "Restore the file, or remove checksums.json to load the folder as it is."
        )
        file.write_bytes(content)
    load_model(saved)


def test_the_card_may_change_and_the_hashes_may_be_missing(saved):
    before = load_model(saved).fingerprint()
    (saved / "README.md").write_text("Another text.")
    assert load_model(saved).fingerprint() == before
    (saved / CHECKSUMS).unlink()
    assert load_model(saved).fingerprint() == before


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"\xff", b"[" * 100_000])
def test_damaged_checksums_are_one_line(saved, content):
    (saved / CHECKSUMS).write_bytes(content)
    with pytest.raises(
        UserError, match=rf"^{saved / CHECKSUMS} is damaged \(.*\)\. Restore the file, or remove"
    ) as error:
        load_model(saved)
    assert "\n" not in str(error.value)
