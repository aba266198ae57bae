"""Decoders as encoders: the end token, the padding token, adapters, and weights in bfloat16."""

import json
import logging

import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.families import DECODERS, save_family
from support.model_folders import load_model, passages, queries
from support.world import WORDS
from transformers import AutoTokenizer

from dpr_lightning.errors import UserError
from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.model.inference import for_inference

LENGTHS = {"query_max_length": 14, "passage_max_length": 30}
TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(20)]
LORA = {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"}


def embed(bi_encoder):
    with torch.no_grad():
        return bi_encoder.eval()(queries(bi_encoder.inputs, TEXTS), passages(bi_encoder.inputs, TEXTS))


@pytest.mark.parametrize("kind", DECODERS)
def test_texts_end_with_the_end_token_here_and_in_the_saved_tokenizer(tmp_path, kind, caplog):
    caplog.set_level(logging.INFO)
    folder = save_family(tmp_path / "base", kind)
    plain, bi_encoder = AutoTokenizer.from_pretrained(folder), load_model(folder, pooling="last", **LENGTHS)
    end, inputs = plain.eos_token_id, bi_encoder.inputs
    assert inputs.tokenizer.pad_token_id == end
    for text, ids in zip(TEXTS, inputs.encode_queries(TEXTS), strict=True):
        assert ids == [*plain(text)["input_ids"][:13], end]
    assert inputs.encode_passages(["bap"], ["bar"])[0][-1] == end
    assert caplog.text.count(f"{folder}: every text now ends with {plain.eos_token}") == 1
    save_bi_encoder(bi_encoder, tmp_path / "model")
    saved = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert saved(TEXTS, truncation=True, max_length=14)["input_ids"] == inputs.encode_queries(TEXTS)
    assert saved("bap", "bar")["input_ids"] == inputs.tokenizer("bap", "bar")["input_ids"]
    again = load_model(tmp_path / "model").inputs
    assert again.encode_passages(TEXTS, TEXTS) == inputs.encode_passages(TEXTS, TEXTS)
    without = load_model(folder, pooling="mean", **LENGTHS).inputs
    assert without.encode_queries(["bap"]) == [plain("bap")["input_ids"]]


def test_padding_on_either_side_leaves_the_last_token_the_last(tmp_path):
    encoder = load_model(save_family(tmp_path / "base", "qwen3"), pooling="last").eval().query
    ids = torch.tensor([[7, 8, 9, 7]])
    with torch.no_grad():
        alone = encoder(ids[:, :3], torch.ones(1, 3, dtype=torch.int64))
        right = encoder(ids, torch.tensor([[1, 1, 1, 0]]))
        left = encoder(ids.roll(1, 1), torch.tensor([[0, 1, 1, 1]]))
    torch.testing.assert_close(right, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(left, alone, rtol=0, atol=1e-5)  # rotary positions are shifted by one


@pytest.mark.parametrize("kind", DECODERS)
def test_adapters_are_merged_on_export(tmp_path, kind):
    bi_encoder = load_model(save_family(tmp_path / "base", kind), pooling="last", lora=LORA, **LENGTHS)
    for name, parameter in bi_encoder.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    ours = embed(bi_encoder)
    save_bi_encoder(bi_encoder, tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", local_files_only=True)
    both = (theirs.encode_query(TEXTS), theirs.encode_document(TEXTS))
    assert max(float(abs(torch.from_numpy(a) - b).max()) for a, b in zip(both, ours, strict=True)) < 1e-5
    assert (ours[0] - embed(load_model(tmp_path / "base", pooling="last", **LENGTHS))[0]).abs().max() > 0.01


def test_bfloat16_weights_are_saved_as_such_and_compute_in_any_precision(tmp_path):
    folder = save_family(tmp_path / "base", "qwen3")
    bi_encoder = load_model(folder, pooling="last", dtype="bfloat16", projection_dim=5, lora=LORA, **LENGTHS)
    assert {weight.dtype for weight in bi_encoder.parameters()} == {torch.bfloat16}
    sum(embeddings.float().square().sum() for embeddings in bi_encoder(*_batch(bi_encoder))).backward()
    ours = embed(bi_encoder)
    save_bi_encoder(bi_encoder, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    again = load_model(tmp_path / "model")
    assert again.settings == bi_encoder.settings
    before = again.fingerprint()
    assert before == load_model(tmp_path / "model").fingerprint()
    exact = for_inference(again.query, device=torch.device("cpu"), precision="32")
    assert exact.transformer.dtype == torch.float32 and again.fingerprint() == before
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", local_files_only=True)
    difference = (torch.from_numpy(theirs.encode_query(TEXTS)) - ours[0].float()).abs().max()
    assert difference < 0.05 * ours[0].float().std()  # bfloat16 has 8 bits


def _batch(bi_encoder):
    return queries(bi_encoder.inputs, TEXTS), passages(bi_encoder.inputs, TEXTS)


def test_a_prompt_counts_in_the_length_and_must_leave_room(tmp_path):
    folder = save_family(tmp_path / "base", "bert")
    prompted = {"query_prompt": "bap bar ", "passage_prompt": "bas ", "separator": "pair"}
    inputs = load_model(folder, query_max_length=5, passage_max_length=9, **prompted).inputs
    words = inputs.tokenizer.convert_ids_to_tokens
    assert words(inputs.encode_queries(["fet fev fez"])[0]) == ["[CLS]", "bap", "bar", "fet", "[SEP]"]
    titled, alone = inputs.encode_passages(["fet", ""], ["fev", "fez"])
    assert words(titled) == ["[CLS]", "bas", "fet", "[SEP]", "fev", "[SEP]"]
    assert words(alone) == ["[CLS]", "bas", "fez", "[SEP]"]
    with pytest.raises(UserError, match=r"^query_max_length: 4 is not a whole number of at least 5\. "):
        load_model(folder, query_max_length=4, **prompted)
