"""Tevatron v1 folders and pickles become a run folder with equal embeddings; other pickles are refused."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from support.commands import assert_mistake, assert_succeeds, run_script
from support.world import passage, question, write_jsonl
from torch import nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from dpr_lightning import open_embeddings
from dpr_lightning.data.sources import open_corpus
from dpr_lightning.embeddings.shards import open_passages
from dpr_lightning.model.bi_encoder import load_bi_encoder

TEXTS = [passage(i)["text"] for i in range(5)]


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
    out = assert_succeeds(run_script("import_tevatron", folder, tmp_path / "run", "--passage-max-length", "40"))
    tied = not untied and (pooler is None or pooler["tied"])
    assert out == f"{tmp_path}/run/model: {6 if pooler else 32} dimensions, tied: {tied}\n"
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
    assert "absent is not a folder" in assert_mistake(run_script("import_tevatron", tmp_path / "absent", run))
    for broken, message in (
        ({"linear_q.weight": weights["linear_q.weight"]}, r"pooler.pt has {'linear_q.weight': [6, 32]} instead of"),
        ({**weights, "linear_p.bias": torch.zeros(7)}, "Use pooler and model of one training"),
        ({"linear_q": Harm(tmp_path / "harm")}, "pooler.pt contains more than weights"),
    ):
        torch.save(broken, folder / "pooler.pt")
        assert message in assert_mistake(run_script("import_tevatron", folder, run))
    torch.save(weights, folder / "pooler.pt")
    (folder / "pooler_config.json").write_text('{"input_dim": 32, "tied": true}')
    assert "pooler_config.json lacks output_dim" in assert_mistake(run_script("import_tevatron", folder, run))
    (folder / "pooler_config.json").unlink()
    assert "has pooler.pt, but no pooler_config.json" in assert_mistake(run_script("import_tevatron", folder, run))
    assert not run.exists()
    assert not (tmp_path / "harm").exists()


def test_an_existing_model_is_not_replaced(tevatron, tmp_path):
    first, second = tevatron(), tevatron(untied=True)
    assert_succeeds(run_script("import_tevatron", first, tmp_path / "run"))
    before = load_bi_encoder(tmp_path / "run" / "model").fingerprint()
    assert "Give --overwrite, or another RUN" in assert_mistake(run_script("import_tevatron", second, tmp_path / "run"))
    other = ["--embeddings", tmp_path / "x.pkl", "--data", tmp_path / "x.jsonl"]
    assert "Give --overwrite, or another RUN" in assert_mistake(
        run_script("import_tevatron", second, tmp_path / "run", *other)
    )
    assert load_bi_encoder(tmp_path / "run" / "model").fingerprint() == before


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def embeddings(tevatron, tmp_path):
    """A model, a corpus of 11 passages and 3 pickles of its embeddings, sharded in turn as by `datasets` 1.17."""
    write_jsonl(tmp_path / "corpus.jsonl", [passage(i) for i in range(11)])
    array = np.random.default_rng(3).normal(size=(11, 32)).astype(np.float32)
    pickles = []
    for shard in range(3):
        rows = range(shard, 11, 3)
        pickles.append(tmp_path / f"{shard}.pkl")
        pickles[-1].write_bytes(pickle.dumps((array[list(rows)], [f"d{row}" for row in rows])))
    return tevatron(), pickles, array


def run_import(tmp_path, model, pickles, *options):
    arguments = ["--embeddings", *pickles, "--data", tmp_path / "corpus.jsonl", "--num-shards", 2, *options]
    return run_script("import_tevatron", model, tmp_path / "run", *arguments)


def test_embeddings_are_imported_in_the_order_of_the_data(embeddings, tmp_path):
    model, pickles, array = embeddings
    out = assert_succeeds(run_import(tmp_path, model, reversed(pickles)))
    assert out.splitlines()[1] == f"{tmp_path}/run/embeddings/passage: 11 embeddings in 2 files"
    shards = open_passages(tmp_path / "run" / "embeddings" / "passage").shards
    assert [docid for shard in shards for docid in shard.ids] == [f"d{i}" for i in range(11)]
    np.testing.assert_array_equal(np.concatenate([shard.array for shard in shards]), array)
    identity = shards[0].identity
    assert identity.model_fingerprint == load_bi_encoder(tmp_path / "run" / "model").fingerprint()
    assert identity.data_fingerprint == open_corpus(str(tmp_path / "corpus.jsonl")).fingerprint


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_query_embeddings_of_any_pickle_protocol_are_imported(tevatron, tmp_path, protocol):
    write_jsonl(tmp_path / "corpus.jsonl", [question(i) for i in range(4)])
    array = np.arange(128, dtype=np.float16).reshape(4, 32)
    (tmp_path / "q.pkl").write_bytes(pickle.dumps((array, [f"q{i}" for i in range(4)]), protocol=protocol))
    model = tevatron()
    assert_succeeds(run_import(tmp_path, model, [tmp_path / "q.pkl"], "--side", "query", "--split", "dev"))
    found = open_embeddings(tmp_path / "run" / "embeddings" / "query" / "dev.safetensors")
    assert found.array.dtype == np.float16
    np.testing.assert_array_equal(found.array, array)
    assert list(found.ids) == ["q0", "q1", "q2", "q3"]
    again = run_import(tmp_path, model, [tmp_path / "q.pkl"], "--side", "query", "--split", "dev")
    assert again[0] == 1
    assert "dev.safetensors is finished already" in again[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("harm", "x.pkl is not a pickle of an array and a list of ids (it asks for io.open)"),
        (("array", np.str_("harm")), "(it asks for numpy"),
        ([1, 2], "x.pkl is not a pair of array and ids"),
        ((np.zeros((2, 32)), ["d0", "d1"]), "x.pkl: float64 (2, 32) with 2 ids are not embeddings"),
        ((np.zeros((2, 32), np.float32), ["d0"]), "with 1 ids are not embeddings"),
        ((np.zeros((1, 32), np.float32), ["d99"]), "x.pkl: d99 is not in the data"),
        ((np.zeros((1, 32), np.float32), ["d0"]), "0.pkl too"),
        ((np.zeros((1, 16), np.float32), ["d2"]), "x.pkl has other dimensions than"),
        ((np.full((1, 32), np.nan, np.float32), ["d2"]), "or is not finite"),
        ((np.zeros((1, 32), np.float32), ["d2"]), "d5 (2 ids in total) is in none of the pickles"),
    ],
)
def test_pickles_of_other_content_are_refused_and_never_run(embeddings, tmp_path, content, message):
    model, pickles, _ = embeddings
    harm = tmp_path / "harm"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps((Harm(harm), ["d2"]) if content == "harm" else content))
    code, _, err = run_import(tmp_path, model, [*pickles[:2], tmp_path / "x.pkl"])
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert not harm.exists()
    assert not (tmp_path / "run" / "embeddings").exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model"]


def test_a_pickle_given_as_model_is_refused_with_the_reason(embeddings, tmp_path):
    _, pickles, _ = embeddings
    message = assert_mistake(run_script("import_tevatron", pickles[0], tmp_path / "run"))
    assert "might run code when read" in message
    assert "--embeddings" in message
    (tmp_path / "cut.pkl").write_bytes(pickles[0].read_bytes()[:200])
    model = embeddings[0]
    for broken in (tmp_path / "cut.pkl", tmp_path / "corpus.jsonl", tmp_path / "absent.pkl"):
        code, _, err = run_import(tmp_path, model, [broken])
        assert code == 1
        assert err.startswith(str(broken))
    code, _, err = run_script("import_tevatron", model, tmp_path / "run", "--embeddings", *pickles)
    assert (code, err.count("\n")) == (1, 1)
    assert "--data: give the corpus" in err
