"""A folder of sentence-transformers embeds as there, or is refused with one line that names what differs."""

import json
import logging
import shutil

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, Pooling, WeightedLayerPooling
from support.families import save_family
from support.model_folders import load_model, passages, queries
from support.world import WORDS

from dpr_lightning.errors import UserError
from dpr_lightning.model.export import save_bi_encoder

TEXTS = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(20)]
TEXTS[3] = " ".join(WORDS[:100])  # longer than every limit below
IDENTITY = {"activation_function": torch.nn.Identity()}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_family(folder / kind, kind) for kind in ("bert", "roberta", "qwen3")}


def side(base, pooling="mean", dense=None, normalize=False, max_length=24, **options):
    """The modules of one encoder; `dense` is whether its Dense module has a bias."""
    torch.manual_seed(3)
    modules = [Transformer(str(base), max_seq_length=max_length), Pooling(16, pooling_mode=pooling, **options)]
    modules += [Dense(16, 5, bias=dense, **IDENTITY)] if dense is not None else []
    return modules + ([Normalize()] if normalize else [])


def save(folder, modules, **options):
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder))
    return folder


def change_json(file, **values):
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({name: value for name, value in (content | values).items() if value is not None}))


def difference(folder, bi_encoder):
    """The largest difference between the library's embeddings of the texts and ours."""
    theirs, inputs = SentenceTransformer(str(folder), device="cpu", local_files_only=True), bi_encoder.eval().inputs
    with torch.no_grad():
        ours = bi_encoder(queries(inputs, TEXTS), passages(inputs, TEXTS))
    both = (theirs.encode_query(TEXTS), theirs.encode_document(TEXTS))
    assert all(embeddings.std(0).min() > 0.01 for embeddings in both)
    return max(float(abs(torch.from_numpy(a) - b).max()) for a, b in zip(both, ours, strict=True))


def old_layout(folder):
    """Rewrite a folder as versions before 5 wrote it: module names, booleans for the pooling mode, lengths."""
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    (folder / "modules.json").write_text(json.dumps(modules))
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **modes}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, "do_lower_case": True}))
    (folder / "config_sentence_transformers.json").unlink()


PROMPTS = {"query": "bap: ", "document": "bar bas ", "other": "bat"}
KINDS = {
    "cls": lambda base, folder: save(folder, side(base["bert"], "cls")),
    "mean, normalized": lambda base, folder: save(folder, side(base["bert"], normalize=True), prompts=PROMPTS),
    "last": lambda base, folder: save(folder, side(base["bert"], "lasttoken")),
    "dense": lambda base, folder: save(folder, side(base["bert"], "cls", dense=True, normalize=True)),
    "dense without bias": lambda base, folder: save(folder, side(base["bert"], dense=False), prompts=PROMPTS),
    "old layout": lambda base, folder: old_layout(save(folder, side(base["bert"]))),
    "positions": lambda base, folder: change_json(
        save(folder, side(base["roberta"])) / "tokenizer_config.json", model_max_length=None
    ),
    "decoder": lambda base, folder: save(folder, side(base["qwen3"], "lasttoken", normalize=True), prompts=PROMPTS),
    "two lengths": lambda base, folder: change_json(
        save(folder, side(base["bert"])) / "sentence_bert_config.json", query_length=7
    ),
    "untied": lambda base, folder: save(
        folder,
        [Router.for_query_document(side(base["bert"], dense=True, max_length=9), side(base["bert"], dense=True))],
    ),
    "untied, one Normalize": lambda base, folder: save(
        folder, [Router.for_query_document(side(base["bert"]), side(base["bert"])), Normalize()], prompts=PROMPTS
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_embeds_as_in_sentence_transformers(bases, tmp_path, kind, monkeypatch):
    KINDS[kind](bases, tmp_path / "theirs")
    if kind == "positions":  # the library fails on texts that are longer than the positions
        monkeypatch.setitem(globals(), "TEXTS", [" ".join(text.split()[:70]) for text in TEXTS])
    for weights in tmp_path.glob("theirs/query_0*/model.safetensors"):
        shutil.copy(save_family(tmp_path / "other", "bert", seed=1) / "model.safetensors", weights)
    bi_encoder = load_model(tmp_path / "theirs", new_projection=False)
    assert bi_encoder.settings.tied == ("untied" not in kind)
    found = difference(tmp_path / "theirs", bi_encoder)
    print(f"\n{kind}: {found:.1e} {bi_encoder.settings}")
    assert found < 1e-5
    save_bi_encoder(bi_encoder, tmp_path / "ours")
    assert difference(tmp_path / "ours", load_model(tmp_path / "ours")) < 1e-5
    (tmp_path / "ours" / "dpr_lightning.json").unlink()
    assert load_model(tmp_path / "ours").settings == bi_encoder.settings


def test_the_users_settings_win_and_are_logged_in_one_line(bases, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = save(tmp_path / "theirs", side(bases["bert"], normalize=True), prompts=PROMPTS)
    settings = load_model(folder, query_max_length=9, pooling="cls", explicit=["pooling", "query_prompt"]).settings
    assert (settings.pooling, settings.query_max_length, settings.query_prompt) == ("cls", 9, "")
    assert (settings.passage_max_length, settings.normalize, settings.passage_prompt) == (24, True, "bar bas ")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("dpr_lightning")] == [
        f"{folder} has the settings pooling='mean', normalize=True, query_max_length=24, passage_max_length=24, "
        "query_prompt='bap: ', passage_prompt='bar bas '; replaced by yours: pooling='cls', query_max_length=9, "
        "query_prompt=''"
    ]


def test_what_the_library_ignores_or_scores_otherwise_is_logged(bases, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    prompts = {"query": "bap ", "passage": "bar "}
    folder = save(tmp_path / "theirs", side(bases["bert"]), prompts=prompts, similarity_fn_name="cosine")
    assert difference(folder, load_model(folder)) < 1e-5
    assert "Its prompt 'passage' is not used, as encode_document does not use it. " in caplog.text
    assert "Its similarity is cosine; here it is the inner product" in caplog.text


def edit(name, **values):
    return lambda base, folder: change_json(save(folder, side(base["bert"], dense=True)) / name, **values)


def different_sides(base, folder):
    return save(folder, [Router.for_query_document(side(base["bert"], "cls"), side(base["bert"]))])


def shared_transformer(base, folder):
    shared, pooling = side(base["bert"])
    return save(
        folder,
        [
            Router.for_query_document(
                [shared, pooling, Dense(16, 5, **IDENTITY)], [shared, pooling, Dense(16, 5, **IDENTITY)]
            )
        ],
    )


REFUSED = {
    "max pooling": (lambda base, folder: save(folder, side(base["bert"], "max")), "the pooling max (1_Pooling)"),
    "weighted": (
        lambda base, folder: save(folder, side(base["bert"], "weightedmean")),
        "the pooling weightedmean (1_P",
    ),
    "two poolings": (
        lambda base, folder: save(folder, side(base["bert"], ("cls", "mean"))),
        "the pooling cls + mean (1_",
    ),
    "layer pooling": (
        lambda base, folder: save(folder, [*side(base["bert"]), WeightedLayerPooling(16, num_hidden_layers=2)]),
        "the module sentence_transformers.sentence_transformer.modules.weighted_layer_pooling.WeightedLayerPooling (",
    ),
    "dropout": (
        lambda base, folder: save(folder, [*side(base["bert"]), Dropout()]),
        "the module sentence_transformers.",
    ),
    "two Dense": (
        lambda base, folder: save(folder, [*side(base["bert"], dense=True), Dense(5, 4, **IDENTITY)]),
        "several Dense modules (2_Dense, 3_Dense)",
    ),
    "activation": (
        lambda base, folder: save(folder, [*side(base["bert"]), Dense(16, 4)]),
        "a Dense module with the activation torch.nn.modules.activation.Tanh (2_Dense)",
    ),
    "order": (
        lambda base, folder: save(folder, [*side(base["bert"], normalize=True), Dense(16, 4, **IDENTITY)]),
        "the modules Transformer, Pooling, Normalize, Dense, not Transformer, Pooling, Dense, Normalize in this order",
    ),
    "residual": (edit("2_Dense/config.json", use_residual=True), "a Dense module with a residual (2_Dense)"),
    "instructor": (
        lambda base, folder: save(folder, side(base["bert"], include_prompt=False), prompts=PROMPTS),
        "a Pooling that leaves out the prompt (include_prompt=false)",
    ),
    "capitals": (
        lambda base, folder: change_json(
            save(folder, side(base["qwen3"])) / "sentence_bert_config.json", do_lower_case=True
        ),
        "do_lower_case=true and a tokenizer that keeps capitals",
    ),
    "arguments": (
        edit("sentence_bert_config.json", config_args={"hidden_act": "relu"}),
        "a Transformer with config_args={'hidden_act': 'relu'}",
    ),
    "cut": (
        edit("config_sentence_transformers.json", truncate_dim=8),
        "truncate_dim=8, which cuts embeddings after their normalization (config_sentence_transformers.json)",
    ),
    "CrossEncoder": (
        edit("config_sentence_transformers.json", model_type="CrossEncoder"),
        "a model of the kind CrossE",
    ),
    "own code": (
        lambda base, folder: (save(folder, side(base["bert"])) / "modules.json").write_text(
            json.dumps([{"idx": 0, "name": "0", "path": "", "type": "custom.Transformer"}])
        ),
        "the module custom.Transformer (.)",
    ),
    "Asym": (
        lambda base, folder: (save(folder, side(base["bert"])) / "modules.json").write_text(
            json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Asym"}])
        ),
        "the module sentence_transformers.models.Asym (.)",
    ),
    "unlike sides": (different_sides, "a Router with unlike sides ({'pooling': 'cls', 'normalize': False}, "),
    "half shared": (shared_transformer, "a Router whose two sides share a Transformer, but not all modules"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_reproduced_is_named(bases, tmp_path, kind):
    make, named = REFUSED[kind]
    make(bases, tmp_path / "theirs")
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "theirs")
    assert str(caught.value).startswith(f"name_or_path: {tmp_path / 'theirs'} has {named}")
    assert str(caught.value).endswith(", which cannot be reproduced here. Choose another model.")


@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"5", b"[[]]", b"\xff"])
def test_a_damaged_description_is_named(bases, tmp_path, name, content):
    (save(tmp_path / "theirs", side(bases["bert"])) / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^name_or_path: {tmp_path}/theirs/{name} cannot be read "):
        load_model(tmp_path / "theirs")


def test_two_encoders_cannot_be_tied(bases, tmp_path):
    folder = save(tmp_path / "theirs", [Router.for_query_document(side(bases["bert"]), side(bases["bert"]))])
    with pytest.raises(UserError) as caught:
        load_model(folder, explicit=["tied"])
    assert str(caught.value) == (
        f"tied: {folder} has two encoders, query_0_Transformer and document_0_Transformer. Set `tied`=false."
    )
