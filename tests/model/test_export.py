"""A saved model is the same model, here and in the libraries that read the folder."""

import dataclasses
import itertools
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support.model_folders import load_model, passages, queries, save_model
from support.world import WORDS
from transformers import AutoModel, AutoTokenizer

from dpr_lightning.errors import UserError
from dpr_lightning.model.checksums import CHECKSUMS
from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.model.settings import Settings

TEXTS = [" ".join(WORDS[i : i + n]) for i, n in ((0, 1), (3, 9), (7, 30), (20, 4))]
KINDS = list(itertools.product([True, False], ["cls", "mean"], [False, True], [None, 12]))
OTHER = Settings(False, "mean", True, 12, 7, 30, "pair", "bap ", "bar ", "bfloat16")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def make(base):
    """A function that returns a bi-encoder whose two encoders, if untied, differ."""

    def make(**settings):
        settings = {"query_max_length": 8, "passage_max_length": 24, **settings}
        bi_encoder = load_model(base, **settings).eval()
        if not bi_encoder.settings.tied:
            torch.manual_seed(1)
            with torch.no_grad():
                for parameter in bi_encoder.query.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return bi_encoder

    return make


def embed(bi_encoder, texts=TEXTS):
    bi_encoder.eval()
    with torch.no_grad():
        return bi_encoder(queries(bi_encoder.inputs, texts), passages(bi_encoder.inputs, texts))


@pytest.mark.parametrize(("tied", "pooling", "normalize", "projection_dim"), KINDS)
def test_a_saved_model_embeds_alike_here_and_in_sentence_transformers(
    make, tmp_path, tied, pooling, normalize, projection_dim
):
    made = make(tied=tied, pooling=pooling, normalize=normalize, projection_dim=projection_dim)
    save_bi_encoder(made, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
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
    np.testing.assert_allclose(theirs.encode_query(TEXTS), ours[0], rtol=0, atol=3e-6)
    np.testing.assert_allclose(theirs.encode_document(TEXTS), ours[1], rtol=0, atol=3e-6)
    short = [" ".join(text.split()[:6]) for text in TEXTS]
    assert torch.allclose(*embed(made, short), atol=1e-2) == tied


@pytest.mark.parametrize(("query_length", "passage_length"), [(4, 24), (24, 4), (12, 12), (40, 8)])
def test_a_tied_model_keeps_both_lengths_in_other_libraries(make, tmp_path, query_length, passage_length):
    made = make(query_max_length=query_length, passage_max_length=passage_length)
    save_bi_encoder(made, tmp_path / "model")
    assert len(list((tmp_path / "model").rglob("*.safetensors"))) == 1, "the weights are saved once"
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    for embeddings, ours in zip((theirs.encode_query(TEXTS), theirs.encode_document(TEXTS)), embed(made), strict=True):
        np.testing.assert_allclose(embeddings, ours, rtol=0, atol=3e-6)
    theirs.save(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_array_equal(again.encode_query(TEXTS), theirs.encode_query(TEXTS))


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


def test_the_folder_has_no_pickle(make, tmp_path):
    save_bi_encoder(make(tied=False, projection_dim=12), tmp_path / "model")
    endings = {file.suffix for file in (tmp_path / "model").rglob("*") if file.is_file()}
    assert endings == {".json", ".safetensors", ".md"}


def test_an_existing_folder_is_replaced_completely(make, tmp_path):
    def files(folder):
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))

    save_bi_encoder(make(tied=False, projection_dim=12, normalize=True), tmp_path / "model")
    (tmp_path / "model" / "pooler.pt").write_bytes(b"stale")
    tied = make()
    save_bi_encoder(tied, tmp_path / "model")
    save_bi_encoder(tied, tmp_path / "fresh")
    assert files(tmp_path / "model") == files(tmp_path / "fresh")
    assert load_model(tmp_path / "model").fingerprint() == tied.fingerprint()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fresh", "model"]


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
class TestEverySetting:
    """A saved setting wins over an argument, unless the caller insists, and is part of the fingerprint."""

    def test_wins_over_the_argument(self, make, tmp_path, field):
        save_bi_encoder(make(**dataclasses.asdict(OTHER)), tmp_path / "model")
        loaded = load_model(tmp_path / "model", **{field.name: getattr(Settings(), field.name)})
        assert loaded.settings == OTHER
        assert (loaded.inputs.query_max_length, loaded.inputs.passage_max_length) == (7, 30)
        assert (loaded.inputs.separator, loaded.passage.pooling, loaded.passage.normalize) == ("pair", "mean", True)
        assert (loaded.inputs.query_prompt, loaded.inputs.passage_prompt) == ("bap ", "bar ")
        assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
        assert (loaded.passage.dim, loaded.query is loaded.passage) == (12, False)

    def test_contradicted_by_the_caller_is_an_error(self, make, tmp_path, field):
        save_bi_encoder(make(**dataclasses.asdict(OTHER)), tmp_path / "model")
        wanted, saved = getattr(Settings(), field.name), getattr(OTHER, field.name)
        with pytest.raises(UserError) as caught:
            load_model(tmp_path / "model", **{field.name: wanted}, explicit=["name_or_path", field.name])
        assert str(caught.value) == (
            f"{field.name}: {wanted!r} contradicts {tmp_path / 'model'}, which was trained with {saved!r}. "
            f"Leave `{field.name}` out, or choose another model."
        )
        load_model(tmp_path / "model", **{field.name: saved}, explicit=[field.name])

    def test_changes_the_fingerprint(self, base, field):
        bi_encoder = load_model(base, passage_max_length=40)
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
    """Return the message at a damaged folder; without checksums, as earlier versions saved it."""
    (folder / CHECKSUMS).unlink(missing_ok=True)
    with pytest.raises(UserError) as caught:
        load_model(folder, **arguments)
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
    assert refusal(tmp_path / "model").startswith(f"name_or_path: {part} lacks the weights {name}. ")


@pytest.mark.parametrize("part", ["", "query_model", "passage_model"])
def test_a_missing_or_damaged_projection_is_an_error(make, tmp_path, part):
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
    assert refusal(tmp_path / "model").startswith("name_or_path: ")


def test_a_damaged_weights_file_is_named(make, tmp_path):
    save_bi_encoder(make(), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert refusal(tmp_path / "model").startswith(f"name_or_path: the model in {tmp_path / 'model'} cannot be")
