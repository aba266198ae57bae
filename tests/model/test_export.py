"""A saved model is the same model, here and in the libraries that read the folder."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support.model_folders import passages, queries, save_model
from support.world import WORDS
from transformers import AutoModel, AutoTokenizer

from dpr_lightning.errors import UserError
from dpr_lightning.model.bi_encoder import Settings, load_bi_encoder
from dpr_lightning.model.export import save_bi_encoder

TEXTS = [" ".join(WORDS[i : i + n]) for i, n in ((0, 1), (3, 9), (7, 30), (20, 4))]
KINDS = list(itertools.product([True, False], ["cls", "mean"], [False, True], [None, 12]))
OTHER = Settings(False, "mean", True, 12, 7, 30, "pair")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def make(base):
    """Makes a bi-encoder whose two encoders, if untied, differ."""

    def made(**settings):
        settings = {"query_max_length": 8, "passage_max_length": 24, **settings}
        bi_encoder = load_bi_encoder(base, **settings).eval()
        if not bi_encoder.settings.tied:
            torch.manual_seed(1)
            with torch.no_grad():
                for parameter in bi_encoder.query.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return bi_encoder

    return made


def embed(bi_encoder, texts=TEXTS):
    bi_encoder.eval()
    with torch.no_grad():
        return bi_encoder(queries(bi_encoder.inputs, texts), passages(bi_encoder.inputs, texts))


@pytest.mark.parametrize(("tied", "pooling", "normalize", "projection_dim"), KINDS)
def test_saved_and_loaded_embeds_bit_for_bit_alike_here_and_closely_in_sentence_transformers(
    make, tmp_path, tied, pooling, normalize, projection_dim
):
    made = make(tied=tied, pooling=pooling, normalize=normalize, projection_dim=projection_dim)
    save_bi_encoder(made, tmp_path / "model")
    loaded = load_bi_encoder(tmp_path / "model")
    assert loaded.settings == made.settings
    assert loaded.fingerprint() == made.fingerprint()
    assert (loaded.query is loaded.passage) == tied
    ours = embed(made)
    for a, b in zip(ours, embed(loaded), strict=True):
        assert torch.equal(a, b)

    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert theirs.max_seq_length == 24
    assert theirs.similarity_fn_name == "dot"
    # Another batch order and padding: float32 sums in another order, the numbers are of the order of 1.
    np.testing.assert_allclose(theirs.encode_document(TEXTS), ours[1], rtol=0, atol=3e-6)
    within_the_query_length = [" ".join(text.split()[:6]) for text in TEXTS]
    np.testing.assert_allclose(
        theirs.encode_query(within_the_query_length), embed(made, within_the_query_length)[0], rtol=0, atol=3e-6
    )
    if not tied:
        np.testing.assert_allclose(theirs.encode_query(TEXTS), ours[0], rtol=0, atol=3e-6)
        assert not torch.allclose(*embed(made, within_the_query_length), atol=1e-2)


@pytest.mark.parametrize("part", ["", "query_model", "passage_model"])
def test_a_saved_folder_loads_in_transformers(make, tmp_path, part):
    made = make(tied=part == "")
    save_bi_encoder(made, tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model" / part).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model" / part)
    encoder = made.query if part == "query_model" else made.passage
    for text in TEXTS:
        tokens = tokenizer(text, truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            theirs = model(**tokens).last_hidden_state[:, 0]
            ours = encoder(**passages(made.inputs, [text]))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)


def test_the_folder_holds_no_pickle(make, tmp_path):
    save_bi_encoder(make(tied=False, projection_dim=12), tmp_path / "model")
    endings = {file.suffix for file in (tmp_path / "model").rglob("*") if file.is_file()}
    assert endings == {".json", ".safetensors"}


def test_a_folder_that_was_there_is_replaced_whole(make, tmp_path):
    def files(folder):
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))

    save_bi_encoder(make(tied=False, projection_dim=12, normalize=True), tmp_path / "model")
    (tmp_path / "model" / "pooler.pt").write_bytes(b"stale")
    tied = make()
    save_bi_encoder(tied, tmp_path / "model")
    save_bi_encoder(tied, tmp_path / "fresh")
    assert files(tmp_path / "model") == files(tmp_path / "fresh")
    assert load_bi_encoder(tmp_path / "model").fingerprint() == tied.fingerprint()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fresh", "model"]


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
class TestEverySetting:
    """Settings that a folder of ours has win over arguments, unless the caller insists; each is in the fingerprint."""

    def test_wins_over_the_argument(self, make, tmp_path, field):
        save_bi_encoder(make(**dataclasses.asdict(OTHER)), tmp_path / "model")
        loaded = load_bi_encoder(tmp_path / "model", **{field.name: getattr(Settings(), field.name)})
        assert loaded.settings == OTHER
        assert (loaded.inputs.query_max_length, loaded.inputs.passage_max_length) == (7, 30)
        assert (loaded.inputs.separator, loaded.passage.pooling, loaded.passage.normalize) == ("pair", "mean", True)
        assert (loaded.passage.dim, loaded.query is loaded.passage) == (12, False)

    def test_contradicted_by_the_caller_is_an_error(self, make, tmp_path, field):
        save_bi_encoder(make(**dataclasses.asdict(OTHER)), tmp_path / "model")
        wanted, saved = getattr(Settings(), field.name), getattr(OTHER, field.name)
        with pytest.raises(UserError) as caught:
            load_bi_encoder(tmp_path / "model", **{field.name: wanted}, explicit=["name_or_path", field.name])
        assert str(caught.value) == (
            f"model.{field.name}: {wanted!r} contradicts {tmp_path / 'model'}, which was trained with {saved!r}. "
            f"Leave model.{field.name} out, or choose another model."
        )
        load_bi_encoder(tmp_path / "model", **{field.name: saved}, explicit=[field.name])

    def test_changes_the_fingerprint(self, base, field):
        bi_encoder = load_bi_encoder(base, passage_max_length=40)
        before = bi_encoder.fingerprint()
        bi_encoder.settings = dataclasses.replace(bi_encoder.settings, **{field.name: getattr(OTHER, field.name)})
        assert bi_encoder.fingerprint() != before


def test_any_weight_changes_the_fingerprint(make):
    bi_encoder = make(tied=False, projection_dim=12)
    seen = {bi_encoder.fingerprint()}
    for count, parameter in enumerate(bi_encoder.parameters(), 2):
        with torch.no_grad():
            parameter.view(-1)[-1].add_(1e-3)
        seen.add(bi_encoder.fingerprint())
        assert len(seen) == count


def refusal(folder, **arguments):
    with pytest.raises(UserError) as caught:
        load_bi_encoder(folder, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("tied", [True, False])
def test_a_missing_weight_is_named(make, tmp_path, tied):
    save_bi_encoder(make(tied=tied), tmp_path / "model")
    part = tmp_path / "model" / ("" if tied else "passage_model")
    weights = load_file(part / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    del weights[name]
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    assert refusal(tmp_path / "model").startswith(f"model.name_or_path: {part} lacks the weights {name}. ")


@pytest.mark.parametrize("part", ["", "query_model", "passage_model"])
def test_a_missing_or_damaged_projection_of_our_folder_is_an_error(make, tmp_path, part):
    save_bi_encoder(make(tied=part == "", projection_dim=12), tmp_path / "model")
    file = tmp_path / "model" / part / "2_Dense" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    assert f"{file} does not give a projection of 16 x 12" in refusal(tmp_path / "model")
    file.unlink()
    assert f"{file} does not give a projection of 16 x 12" in refusal(tmp_path / "model")


@pytest.mark.parametrize("part", ["query_model", "passage_model"])
def test_half_of_an_untied_model_is_an_error(make, tmp_path, part):
    save_bi_encoder(make(tied=False), tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    assert refusal(tmp_path / "model").startswith("model.name_or_path: ")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tied": true}'])
def test_a_damaged_settings_file_is_named(make, tmp_path, text):
    save_bi_encoder(make(), tmp_path / "model")
    file = tmp_path / "model" / "dpr_lightning.json"
    assert json.loads(file.read_text())["similarity"] == "dot"
    file.write_text(text)
    assert refusal(tmp_path / "model").startswith(f"{file} is damaged or of another version")


def test_a_damaged_weights_file_is_named(make, tmp_path):
    save_bi_encoder(make(), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert refusal(tmp_path / "model").startswith(f"model.name_or_path: the model in {tmp_path / 'model'} cannot be")
