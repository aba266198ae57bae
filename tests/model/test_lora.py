"""Adapters: which weights are trained, and that the exported model embeds alike without adapters."""

import pytest
import torch
from safetensors.torch import load_file
from support.model_folders import load_model
from transformers import AutoModel

from dpr_lightning.errors import UserError
from dpr_lightning.model.export import save_bi_encoder

LORA = {"r": 2, "alpha": 4, "dropout": 0.1, "target_modules": ["query", "value"]}


@pytest.mark.parametrize("tied", [True, False])
def test_the_export_has_no_adapters_and_embeds_alike(tiny_model, tmp_path, tied):
    bi_encoder = load_model(tiny_model, tied=tied, lora=LORA)
    torch.manual_seed(1)
    for name, parameter in bi_encoder.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    bi_encoder.eval()
    tokens = bi_encoder.inputs.pad([[2, 9, 30, 77, 3], [2, 8, 3]])
    with torch.no_grad():
        expected = bi_encoder(tokens, tokens)
    save_bi_encoder(bi_encoder, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(bi_encoder(tokens, tokens)[0], expected[0]), "the export changed the trained model"
    for side, embeddings in zip(("query_model", "passage_model"), expected, strict=True):
        folder = tmp_path / "model" / ("" if tied else side)
        assert load_file(folder / "model.safetensors").keys() == load_file(tiny_model / "model.safetensors").keys()
        with torch.no_grad():
            plain = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()(**tokens).last_hidden_state[:, 0]
        torch.testing.assert_close(plain, embeddings, rtol=1e-5, atol=1e-5)  # merging rounds
    with torch.no_grad():
        untrained = load_model(tiny_model).eval().query(**tokens)
    assert (untrained - expected[0]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 0}, "lora.r: 0 "),
        ({"target_modules": ["nowhere"]}, "lora.target_modules: ['nowhere'] names no layers of BertModel."),
    ],
)
def test_impossible_adapter_settings_are_named(tiny_model, change, message):
    with pytest.raises(UserError) as caught:
        load_model(tiny_model, lora=LORA | change)
    assert str(caught.value).startswith(message)


def test_encoding_adds_no_adapters_to_an_exported_model(command, settings, tmp_path):
    """The same experiment trains and encodes, and new adapters would change the fingerprint."""
    lora = ["model/lora=default", "model.lora.r=2"]
    for name, options in (
        ("train", lora),
        ("encode", [*lora, "shard=0"]),
        ("encode", ["shard=0", f"run_dir={tmp_path}/b"]),
    ):
        code, _, err = command(name, *settings, f"model_dir={tmp_path}/run/model", *options)
        assert code == 0, err
    files = [tmp_path / run / "embeddings" / "passage" / "00-of-03.safetensors" for run in ("run", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
