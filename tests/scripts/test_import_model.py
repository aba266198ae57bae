"""Models of Tevatron v1 and of the original DPR become run folders with equal embeddings."""

import json
import shutil
from collections import defaultdict

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.commands import assert_mistake, assert_succeeds, run_script
from support.pickles import Harm
from support.world import passage
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
)

from dpr_lightning.model.bi_encoder import load_bi_encoder

TEXTS = [passage(i)["text"] for i in range(5)]
DPR_ENCODERS = {"question": DPRQuestionEncoder, "ctx": DPRContextEncoder}
LENGTHS = ["--query-max-length", "100", "--passage-max-length", "100"]


@pytest.fixture(scope="module")
def tevatron(tiny_model, tmp_path_factory):
    """A function that saves folders as Tevatron does: weights and pooler are pickles, the tokenizer is in the root."""

    def make(*, untied=False, pooler=None):
        folder = tmp_path_factory.mktemp("tevatron")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_model / name, folder)
        for seed, sub in enumerate(["query_model", "passage_model"] if untied else [""]):
            torch.manual_seed(seed)
            model = BertModel(BertConfig.from_pretrained(tiny_model))  # with BERT's own pooler, which is never used
            (folder / sub).mkdir(exist_ok=True)
            model.config.save_pretrained(folder / sub)
            torch.save(model.state_dict(), folder / sub / "pytorch_model.bin")
        if pooler:
            torch.manual_seed(9)
            layers = nn.ModuleDict({"linear_q": nn.Linear(32, 6)})
            layers["linear_p"] = layers["linear_q"] if pooler["tied"] else nn.Linear(32, 6)
            torch.save(layers.state_dict(), folder / "pooler.pt")
            (folder / "pooler_config.json").write_text(json.dumps({"input_dim": 32, "output_dim": 6, **pooler}))
        return folder

    return make


def as_tevatron(folder, side):
    """Return embeddings of `TEXTS` by plain transformers: position 0, the side's linear layer, the norm."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(
        folder / f"{side}_model" if (folder / f"{side}_model").exists() else folder
    ).eval()
    length = {"query": 32, "passage": 40}[side]
    batch = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[:, 0]
        if (folder / "pooler.pt").exists():
            weights = torch.load(folder / "pooler.pt", weights_only=True)
            hidden = functional.linear(hidden, weights[f"linear_{side[0]}.weight"], weights[f"linear_{side[0]}.bias"])
            if json.loads((folder / "pooler_config.json").read_text()).get("normalize"):
                hidden = functional.normalize(hidden, dim=-1)
    return hidden.numpy()


def as_imported(bi_encoder, side):
    inputs = bi_encoder.inputs
    ids = inputs.encode_queries(TEXTS) if side == "query" else inputs.encode_passages([""] * len(TEXTS), TEXTS)
    with torch.inference_mode():
        return getattr(bi_encoder.eval(), side)(**inputs.pad(ids)).numpy()


@pytest.mark.parametrize(
    ("untied", "pooler"),
    [
        (False, None),
        (True, None),
        (False, {"tied": True}),
        (False, {"tied": True, "normalize": True}),
        (False, {"tied": False}),
        (True, {"tied": False, "normalize": True}),
    ],
)
def test_an_imported_model_embeds_as_tevatron_does(tevatron, tmp_path, untied, pooler):
    folder = tevatron(untied=untied, pooler=pooler)
    out = assert_succeeds(run_script("import_model", folder, tmp_path / "run", "--passage-max-length", "40"))
    tied = not untied and (pooler is None or pooler["tied"])
    assert out == f"{tmp_path}/run/model: {6 if pooler else 32} dimensions, tied: {tied}, 32 and 40 tokens\n"
    assert f"Imported from {folder}." in (tmp_path / "run" / "model" / "README.md").read_text()
    bi_encoder = load_bi_encoder(tmp_path / "run" / "model")
    assert (bi_encoder.settings.tied, bi_encoder.settings.passage_max_length) == (tied, 40)
    for side in ("query", "passage"):
        # float32 rounding: ours pads to the longest of the batch only
        np.testing.assert_allclose(as_imported(bi_encoder, side), as_tevatron(folder, side), atol=2e-6)
    if not tied:
        assert not np.allclose(as_imported(bi_encoder, "query"), as_imported(bi_encoder, "passage"), atol=1e-2)
    assert not list((tmp_path / "run").rglob("*.bin"))
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_a_folder_without_a_tevatron_model_is_refused(tevatron, tmp_path):
    folder = tevatron(pooler={"tied": True})
    weights = torch.load(folder / "pooler.pt", weights_only=True)
    run = tmp_path / "run"
    assert "absent is not a folder" in assert_mistake(run_script("import_model", tmp_path / "absent", run))
    for broken, message in (
        ({"linear_q.weight": weights["linear_q.weight"]}, r"pooler.pt has {'linear_q.weight': [6, 32]} instead of"),
        ({**weights, "linear_p.bias": torch.zeros(7)}, "Use pooler and model of one training"),
        ({"linear_q": Harm(tmp_path / "harm")}, "pooler.pt contains more than weights"),
    ):
        torch.save(broken, folder / "pooler.pt")
        assert message in assert_mistake(run_script("import_model", folder, run))
    torch.save(weights, folder / "pooler.pt")
    (folder / "pooler_config.json").write_text('{"input_dim": 32, "tied": true}')
    assert "pooler_config.json lacks output_dim" in assert_mistake(run_script("import_model", folder, run))
    (folder / "pooler_config.json").unlink()
    assert "has pooler.pt, but no pooler_config.json" in assert_mistake(run_script("import_model", folder, run))
    assert not run.exists()
    assert not (tmp_path / "harm").exists()


def test_an_existing_model_is_not_replaced(tevatron, tmp_path):
    first, second = tevatron(), tevatron(untied=True)
    assert_succeeds(run_script("import_model", first, tmp_path / "run"))
    before = load_bi_encoder(tmp_path / "run" / "model").fingerprint()
    assert "Give --overwrite, or another RUN" in assert_mistake(run_script("import_model", second, tmp_path / "run"))
    assert load_bi_encoder(tmp_path / "run" / "model").fingerprint() == before


@pytest.fixture(scope="module", params=[0, 6], ids=["plain", "projected"])
def dpr(request, tiny_model, tmp_path_factory):
    """Folders of a DPRQuestionEncoder and a DPRContextEncoder, and the `model_dict` of a checkpoint with both."""
    folder = tmp_path_factory.mktemp("dpr")
    config = BertConfig.from_pretrained(tiny_model).to_dict()
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = {name: config[name] for name in (*names, "max_position_embeddings", "initializer_range")}
    weights = {"question_model.embeddings.position_ids": torch.arange(160)[None]}
    for seed, (side, kind) in enumerate(DPR_ENCODERS.items()):
        torch.manual_seed(seed)
        model = kind(DPRConfig(**sizes, projection_dim=request.param))
        model.save_pretrained(folder / side)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_model / name, folder / side)
        for name, weight in model.state_dict().items():
            plain = name.removeprefix(f"{side}_encoder.").removeprefix("bert_model.")
            weights[f"{side}_model.{plain}"] = weight
    return folder, weights


def save_checkpoint(file, weights, base, *, form):
    """Save a checkpoint as DPR does: its first versions name the base model themselves, later ones in omegaconf's."""
    parameters = {"do_lower_case": True, "pretrained_model_cfg": str(base), "sequence_length": 256}
    if form == "omegaconf":
        parameters = {"do_lower_case": True, "encoder": OmegaConf.create({**parameters, "dropout": 0.1, "l": [1, "a"]})}
    optimizer = defaultdict(dict)
    optimizer[1]["exp_avg"] = torch.zeros(2)
    state = {"model_dict": weights, "optimizer_dict": {"state": optimizer}, "scheduler_dict": {"last_epoch": 3}}
    state |= {"offset": 0, "epoch": 2, "encoder_params": parameters}
    torch.save(state, file, _use_new_zipfile_serialization=form == "omegaconf")  # the first ones are older than zip


def assert_embeds_as_dpr(run, folder, tiny_model):
    """Compare with transformers' encoders on questions, and on pairs of title and text without token types."""
    bi_encoder = load_bi_encoder(run / "model").eval()
    inputs, titles = bi_encoder.inputs, ["bap"] * len(TEXTS)
    assert (bi_encoder.settings.tied, inputs.separator, inputs.query_max_length) == (False, "pair", 100)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for side, encoder, ids, texts in (
        ("question", bi_encoder.query, inputs.encode_queries(TEXTS), [TEXTS]),
        ("ctx", bi_encoder.passage, inputs.encode_passages(titles, TEXTS), [titles, TEXTS]),
    ):
        batch = tokenizer(*texts, padding=True, return_tensors="pt")
        theirs = DPR_ENCODERS[side].from_pretrained(folder / side).eval()
        with torch.inference_mode():
            expected = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
            # float32 rounding: the paddings differ
            torch.testing.assert_close(encoder(**inputs.pad(ids)), expected, rtol=0, atol=2e-6)


def test_two_dpr_encoders_become_an_untied_model(dpr, tiny_model, tmp_path):
    folder, weights = dpr
    second = tmp_path / "ctx"  # as older folders are: a pickle instead of safetensors
    shutil.copytree(folder / "ctx", second)
    (second / "model.safetensors").unlink()
    torch.save(DPRContextEncoder.from_pretrained(folder / "ctx").state_dict(), second / "pytorch_model.bin")
    out = assert_succeeds(run_script("import_model", second, folder / "question", tmp_path / "run", *LENGTHS))
    dim = len(weights.get("ctx_model.encode_proj.bias", range(32)))
    assert out == f"{tmp_path}/run/model: {dim} dimensions, tied: False, 100 and 100 tokens\n"
    assert_embeds_as_dpr(tmp_path / "run", folder, tiny_model)
    same = assert_mistake(run_script("import_model", folder / "ctx", second, tmp_path / "other", *LENGTHS))
    assert "are encoders of the same side. Give question and context encoder" in same
    alone = assert_mistake(run_script("import_model", folder / "ctx", tmp_path / "other"))
    assert "is one encoder of the original DPR. Give the question and the context encoder" in alone


@pytest.mark.parametrize("form", ["dict", "omegaconf"])
def test_a_dpr_checkpoint_becomes_an_untied_model(dpr, tiny_model, tmp_path, form):
    folder, weights = dpr
    save_checkpoint(tmp_path / "dpr.cp", weights, tiny_model, form=form)
    assert_succeeds(run_script("import_model", tmp_path / "dpr.cp", tmp_path / "run", *LENGTHS))
    assert_embeds_as_dpr(tmp_path / "run", folder, tiny_model)
    save_checkpoint(tmp_path / "dpr.cp", weights, "absent/base", form=form)
    short = assert_mistake(run_script("import_model", tmp_path / "dpr.cp", tmp_path / "other", "--base", tiny_model))
    assert "query_max_length: 256 is more than the encoder's 160 positions" in short, "256 tokens, as in DPR"
    base = assert_mistake(run_script("import_model", tmp_path / "dpr.cp", tmp_path / "other"))
    assert base.startswith("base model absent/base is not a folder")


def test_files_that_are_not_dpr_checkpoints_are_refused_and_never_run(dpr, tiny_model, tmp_path):
    file, (_, weights) = tmp_path / "x.cp", dpr
    base = {"encoder_params": {"pretrained_model_cfg": str(tiny_model)}}
    half = {name: weight for name, weight in weights.items() if not name.startswith("ctx_model.")}
    partial = {name: weight for name, weight in weights.items() if "layer.1.attention.self.query.weight" not in name}
    for content, message in (
        ({"model_dict": weights, "extra": Harm(tmp_path / "harm")}, "contains more than weights"),
        ({"weights": 1}, "is not a checkpoint of DPR: it has no model_dict with question_model and ctx_model"),
        ({"model_dict": half, **base}, "is not a checkpoint of DPR"),
        ({"model_dict": weights}, "does not tell its base model. Give --base"),
        ({"model_dict": partial, **base}, "lacks the weights encoder.layer.1.attention.self.query.weight"),
    ):
        torch.save(content, file)
        assert message in assert_mistake(run_script("import_model", file, tmp_path / "run", *LENGTHS))
    file.write_bytes(b"nonsense")
    assert "contains more than weights, or is damaged" in assert_mistake(
        run_script("import_model", file, tmp_path / "run")
    )
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "run").exists()
