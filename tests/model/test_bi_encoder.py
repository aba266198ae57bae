"""Bi-encoders from folders that we did not save, of several architectures."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from support.model_folders import load_model, passages, queries, save_model, save_tokenizer, save_transformer
from support.world import WORDS
from transformers import AutoModel, AutoTokenizer

from dpr_lightning.errors import UserError
from dpr_lightning.interop.tevatron_model import load_tevatron
from dpr_lightning.model.cross_encoder import CrossEncoder
from dpr_lightning.model.pretrained import load_transformer
from dpr_lightning.model.settings import Settings

TEXTS = [" ".join(WORDS[i : i + n]) for i, n in ((0, 1), (3, 9), (7, 60), (20, 4))]
LENGTHS = {"query_max_length": 8, "passage_max_length": 24}


def alone(model, tokenizer, text, max_length):
    """Return the first position's hidden state of one text, computed by transformers."""
    with torch.no_grad():
        return model.eval()(
            **tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt", return_token_type_ids=False)
        ).last_hidden_state[0, 0]


def embed(bi_encoder, texts=TEXTS):
    bi_encoder.eval()
    with torch.no_grad():
        return bi_encoder(queries(bi_encoder.inputs, texts), passages(bi_encoder.inputs, texts))


def refusal(folder, **arguments):
    with pytest.raises(UserError) as caught:
        load_model(folder, **{**LENGTHS, **arguments})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_batch_embeds_as_each_text_alone_in_transformers(tmp_path, kind, tied):
    folder = save_model(tmp_path / "model", kind)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for ours, length in zip(embed(load_model(folder, tied=tied, **LENGTHS)), (8, 24), strict=True):
        expected = torch.stack([alone(model, tokenizer, text, length) for text in TEXTS])
        # Padding changes the order in which float32 sums; the numbers are of the order of 1.
        torch.testing.assert_close(ours, expected, rtol=0, atol=3e-6)


def test_untied_encoders_start_equal_and_share_nothing(tmp_path):
    bi_encoder = load_model(save_model(tmp_path / "model"), tied=False, projection_dim=5, **LENGTHS)
    query, passage = bi_encoder.query.state_dict(), bi_encoder.passage.state_dict()
    assert all(torch.equal(query[name], passage[name]) for name in query)
    assert {weight.data_ptr() for weight in query.values()}.isdisjoint(w.data_ptr() for w in passage.values())


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_gets_a_gradient(tmp_path, kind, pooling, tied):
    folder = save_model(tmp_path / "model", kind)
    bi_encoder = load_model(folder, tied=tied, pooling=pooling, projection_dim=5, **LENGTHS)
    scores = torch.mm(*(x if i == 0 else x.T for i, x in enumerate(bi_encoder(*_batch(bi_encoder)))))
    scores.log_softmax(dim=1).diagonal().sum().backward()
    assert [name for name, parameter in bi_encoder.named_parameters() if parameter.grad is None] == []


def _batch(bi_encoder):
    return queries(bi_encoder.inputs, TEXTS), passages(bi_encoder.inputs, TEXTS)


@pytest.mark.parametrize(("kind", "longest"), [("bert", 40), ("roberta", 38), ("distilbert", 40)])
@pytest.mark.parametrize("side", ["query", "passage"])
def test_lengths_may_use_every_position_but_no_more(tmp_path, kind, longest, side):
    folder = save_model(tmp_path / "model", kind)
    bi_encoder = load_model(folder, **{**LENGTHS, f"{side}_max_length": longest})
    batch = (queries if side == "query" else passages)(bi_encoder.inputs, TEXTS)
    assert batch["attention_mask"].sum(1).max() == longest
    assert embed(bi_encoder)[0].isfinite().all()
    assert refusal(folder, **{f"{side}_max_length": longest + 1}) == (
        f"{side}_max_length: {longest + 1} is more than the encoder's {longest} positions. Lower it."
    )


def test_a_transformer_is_loaded_in_training_mode_and_float32(tmp_path):
    folder = save_model(tmp_path / "model")
    AutoModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    transformer = load_transformer(folder)
    assert all(module.training for module in transformer.modules())
    assert {parameter.dtype for parameter in transformer.parameters()} == {torch.float32}


def test_gradient_checkpointing_gives_the_same_gradients(no_dropout_model):
    gradients = []
    for checkpointing in (False, True):
        bi_encoder = load_model(no_dropout_model, **LENGTHS, gradient_checkpointing=checkpointing)
        layers = bi_encoder.query.transformer.encoder.layer
        assert {layer.gradient_checkpointing for layer in layers} == {checkpointing}
        sum(embeddings.square().sum() for embeddings in bi_encoder(*_batch(bi_encoder))).backward()
        gradients.append([parameter.grad for parameter in bi_encoder.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-5, atol=1e-5)


# Tokenizers


def test_a_left_padding_tokenizer_pads_right(tmp_path):
    folder = save_model(tmp_path / "model", padding_side="left")
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ours = embed(load_model(folder, **LENGTHS))[1]
    expected = torch.stack([alone(model, tokenizer, text, 24) for text in TEXTS])
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-6)


def test_padding_and_truncation_in_tokenizer_json_are_ignored(tmp_path):
    plain, built_in = save_model(tmp_path / "plain"), save_model(tmp_path / "built_in")
    tokenizer = json.loads((built_in / "tokenizer.json").read_text())
    tokenizer["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None}
    tokenizer["padding"] = {**padding, "pad_id": 1, "pad_type_id": 0, "pad_token": "[PAD]"}
    (built_in / "tokenizer.json").write_text(json.dumps(tokenizer))
    ours, theirs = load_model(built_in, **LENGTHS).inputs, load_model(plain, **LENGTHS).inputs
    assert ours.encode_queries(TEXTS) == theirs.encode_queries(TEXTS)
    assert ours.encode_passages(TEXTS, TEXTS) == theirs.encode_passages(TEXTS, TEXTS)
    assert [len(ids) for ids in ours.encode_passages([""] * 4, TEXTS)] == [3, 11, 24, 6]


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    save_transformer(tmp_path / "model")
    assert refusal(tmp_path / "model").startswith(f"name_or_path: {tmp_path / 'model'} has no tokenizer. ")


# Folders of other programs


@pytest.mark.parametrize("with_projection", [False, True])
def test_a_sentence_transformers_folder_embeds_alike(tmp_path, with_projection):
    folder = save_model(tmp_path / "plain")
    modules = [Transformer(str(folder), max_seq_length=24), Pooling(16, pooling_mode="mean")]
    if with_projection:
        modules.append(Dense(16, 5, activation_function=torch.nn.Identity()))
    theirs = SentenceTransformer(modules=modules, device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    dim = 5 if with_projection else None
    ours = embed(load_model(tmp_path / "theirs", pooling="mean", projection_dim=dim, **LENGTHS))[1]
    np.testing.assert_allclose(ours, theirs.encode(TEXTS), rtol=0, atol=3e-6)
    if with_projection:
        assert "does not give a projection of 16 x 6" in refusal(tmp_path / "theirs", projection_dim=6)


def tevatron(folder):
    """Save an untied folder as Tevatron does, without config in the root and without tokenizers beside the weights."""
    save_transformer(folder / "query_model", seed=1)
    save_transformer(folder / "passage_model", seed=2)
    return save_tokenizer(folder)


def test_an_untied_tevatron_folder_has_a_model_per_side(tmp_path):
    tokenizer = tevatron(tmp_path / "model")
    for part, ours, length in zip(
        ("query_model", "passage_model"),
        embed(load_model(tmp_path / "model", tied=False, **LENGTHS)),
        (8, 24),
        strict=True,
    ):
        model = AutoModel.from_pretrained(tmp_path / "model" / part)
        expected = torch.stack([alone(model, tokenizer, text, length) for text in TEXTS])
        torch.testing.assert_close(ours, expected, rtol=0, atol=3e-6)


def test_a_folder_with_two_models_is_refused_as_tied(tmp_path):
    tevatron(tmp_path / "model")
    assert refusal(tmp_path / "model", tied=True).startswith(
        f"tied: {tmp_path / 'model'} has two encoders, query_model and passage_model. Set `tied`=false"
    )


@pytest.mark.parametrize("dim", [None, 5])
def test_a_pickled_projection_is_refused(tmp_path, dim):
    (save_model(tmp_path / "model") / "pooler.pt").write_bytes(b"pickle")
    assert f"{tmp_path}/model/pooler.pt is a pickle" in refusal(tmp_path / "model", projection_dim=dim)


@pytest.mark.parametrize("tied", [True, False])
def test_tevatrons_pooler_becomes_the_projection_of_each_side(tmp_path, tied):
    tokenizer = save_tokenizer(tmp_path / "model")
    for number, part in enumerate(["."] if tied else ["query_model", "passage_model"]):
        save_transformer(tmp_path / "model" / part, seed=number)
    linear = {"linear_q": torch.nn.Linear(16, 5), "linear_p": torch.nn.Linear(16, 5)}
    if tied:
        linear["linear_p"] = linear["linear_q"]
    weights = {f"{side}.{name}": w for side, layer in linear.items() for name, w in layer.state_dict().items()}
    torch.save(weights, tmp_path / "model" / "pooler.pt")
    sizes = {"input_dim": 16, "output_dim": 5, "tied": tied}
    (tmp_path / "model" / "pooler_config.json").write_text(json.dumps(sizes))
    loaded = load_tevatron(tmp_path / "model", settings=Settings(**LENGTHS))
    for side, part, ours, length in zip(
        linear, [".", "."] if tied else ["query_model", "passage_model"], embed(loaded), (8, 24), strict=True
    ):
        model = AutoModel.from_pretrained(tmp_path / "model" / part)
        with torch.no_grad():
            expected = torch.stack([linear[side](alone(model, tokenizer, text, length)) for text in TEXTS])
        torch.testing.assert_close(ours, expected, rtol=0, atol=3e-6)


def test_weights_in_a_pickle_are_refused(tmp_path):
    folder = save_model(tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == (
        f"name_or_path: the weights in {folder}/pytorch_model.bin are a pickle, which is not read here. "
        "Convert the folder with scripts/import_model.py."
    )


def test_missing_weights_are_named_except_a_pooler(tmp_path):
    folder = save_model(tmp_path / "model")
    weights = {n: w for n, w in load_file(folder / "model.safetensors").items() if not n.startswith("pooler.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    before = load_model(folder, **LENGTHS).fingerprint()
    assert before == load_model(save_model(tmp_path / "with_pooler"), **LENGTHS).fingerprint()
    del weights["embeddings.word_embeddings.weight"], weights["encoder.layer.0.output.dense.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    names = "embeddings.word_embeddings.weight, encoder.layer.0.output.dense.bias"
    assert refusal(folder) == f"name_or_path: {folder} lacks the weights {names}. Fetch the model again."


@pytest.mark.parametrize(
    "name", ["no-such-model", "no-such/model", "runs/nq/model", "./nowhere", "/nowhere/model", "~/nowhere"]
)
def test_a_name_that_does_not_exist_is_named(name):
    assert refusal(name).startswith(f"name_or_path: {name} is not a folder with a model, and the hub does not")


@pytest.mark.parametrize("config", ["{", "{}", '{"model_type": "bert", "hidden_size": 64}'])
def test_a_config_that_does_not_fit_is_named(tmp_path, config):
    folder = save_model(tmp_path / "model")
    (folder / "config.json").write_text(config)
    assert refusal(folder).startswith(f"name_or_path: the model in {folder} cannot be loaded from config.json")


def test_a_tilde_means_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = save_model(tmp_path / "model")
    assert load_model("~/model", **LENGTHS).fingerprint() == load_model(folder, **LENGTHS).fingerprint()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pooling": "max"}, "pooling: 'max' is not possible. Set `pooling` to one of: cls, mean, last."),
        ({"projection_dim": 0}, "projection_dim: 0 is not a whole number of at least 1."),
        ({"query_max_length": 0}, "query_max_length: 0 is not a whole number"),
        ({"passage_max_length": "156"}, "passage_max_length: '156' is not a whole number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_named(tmp_path, setting, message):
    assert refusal(save_model(tmp_path / "model"), **setting).startswith(message)


def test_a_hub_that_cannot_be_reached_is_refused_without_another_attempt(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)  # which would try again for a minute
    message = refusal("someone/encoder")
    assert message.startswith("name_or_path: someone/encoder is not a folder, and the hub, http://127.0.0.1:1, cannot ")
    assert message.endswith("Check the network, or give the path of a folder.")
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", None)
    with pytest.raises(UserError, match=r"^name_or_path: someone/teacher is not a folder, and the hub, .* cannot be"):
        CrossEncoder("someone/teacher")
