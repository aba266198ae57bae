"""The settings file: what is refused, what may change in later versions, and folders of format 1."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dpr_lightning import open_embeddings
from dpr_lightning.data.sources import open_corpus, open_queries
from dpr_lightning.errors import UserError
from dpr_lightning.model.bi_encoder import load_bi_encoder
from dpr_lightning.model.export import save_bi_encoder
from dpr_lightning.model.pooling import POOLING
from dpr_lightning.model.settings import POOLING_MODES, Settings

FORMAT_1 = Path(__file__).parent.parent / "fixtures" / "format_1"
OTHER = Settings(False, "mean", True, 12, 7, 30, "pair", "bap ", "bar ", "bfloat16")


def message_of(function, *args, **options):
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_pooling_mode_can_be_set():
    assert tuple(POOLING) == POOLING_MODES


@pytest.mark.parametrize("settings", [Settings(), OTHER])
def test_saved_settings_load_unchanged(tmp_path, settings):
    settings.save(tmp_path)
    assert Settings.load(tmp_path) == settings
    saved = json.loads((tmp_path / "dpr_lightning.json").read_text())
    assert (saved["format"], saved["similarity"]) == (2, "dot")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tied": 1}, "tied: 1 is not true or false. Correct `tied`."),
        ({"normalize": [1]}, "normalize: [1] is not true or false. Correct `normalize`."),
        ({"pooling": "max"}, "pooling: 'max' is not possible. Set `pooling` to one of: cls, mean, last."),
        ({"pooling": ["cls"]}, "pooling: ['cls'] is not possible. Set `pooling` to one of: cls, mean, last."),
        ({"projection_dim": 0}, "projection_dim: 0 is not a whole number of at least 1. Correct `projection_dim`."),
        ({"projection_dim": 1 << 40}, "projection_dim: 1,099,511,627,776 is more than 1,048,576. Lower it."),
        ({"query_max_length": None}, "query_max_length: None is not a whole number of at least 1."),
        ({"query_max_length": True}, "query_max_length: True is not a whole number of at least 1."),
        ({"passage_max_length": 2.0}, "passage_max_length: 2.0 is not a whole number of at least 1."),
        ({"separator": None}, 'separator: None is not a string. Set `separator` to " " or "pair".'),
        ({"query_prompt": 1}, 'query_prompt: 1 is not a string. Set `query_prompt` to a text, or to "" for none.'),
        ({"dtype": "float16"}, "dtype: 'float16' is not possible. Set `dtype` to one of: float32, bfloat16."),
    ],
)
def test_an_impossible_setting_is_named(tmp_path, setting, message):
    assert message_of(Settings, **setting).startswith(message)
    (tmp_path / "dpr_lightning.json").write_text(json.dumps({"format": 2, **setting}))
    problem = message.partition(". ")[0].rstrip(".")
    assert message_of(Settings.load, tmp_path) == (
        f"{tmp_path}/dpr_lightning.json is damaged or was written by a newer version of dpr_lightning ({problem}). "
        "Restore the file, or update dpr_lightning."
    )


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_a_missing_setting_takes_its_default(tmp_path, number, field):
    saved = {"format": number, **dataclasses.asdict(OTHER)}
    del saved[field.name]
    (tmp_path / "dpr_lightning.json").write_text(json.dumps(saved))
    assert Settings.load(tmp_path) == dataclasses.replace(OTHER, **{field.name: field.default})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"later": ""}, "(unknown setting 'later')"),
        ({"format": 3}, "(format 3, this version reads 2)"),
        ({"similarity": "cosine"}, "(similarity: 'cosine')"),
    ],
)
def test_a_file_of_a_newer_version_is_an_error(tmp_path, change, problem):
    Settings().save(tmp_path)
    file = tmp_path / "dpr_lightning.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert message_of(Settings.load, tmp_path) == (
        f"{file} was written by a newer version of dpr_lightning {problem}. Update dpr_lightning."
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"5", b'"x"', b"null", b"\xff", b'{"tied": true}', b'{"format": "2"}', b"[" * 100_000],
)
def test_a_damaged_file_is_named(tmp_path, content):
    file = tmp_path / "dpr_lightning.json"
    file.write_bytes(content)
    assert message_of(Settings.load, tmp_path).startswith(f"{file} is damaged (")


@dataclasses.dataclass(frozen=True)
class LaterSettings(Settings):
    """The settings of a later version, which has one more."""

    later: str = ""


def test_a_new_setting_changes_neither_saved_models_nor_fingerprints(tmp_path):
    OTHER.save(tmp_path)
    later = LaterSettings.load(tmp_path)
    assert later == LaterSettings(*dataclasses.astuple(OTHER))
    assert later.hashed() == OTHER.hashed() == dataclasses.asdict(OTHER)
    changed = dataclasses.replace(later, later="x")
    assert changed.hashed() == OTHER.hashed() | {"later": "x"}
    changed.save(tmp_path)
    assert "unknown setting 'later'" in message_of(Settings.load, tmp_path)


@pytest.mark.parametrize("name", ["tied", "untied"])
class TestFormat1:
    """Folders and embeddings of format 1, made by commit 43c26f7."""

    def test_keeps_its_fingerprint_when_loaded_and_saved(self, tmp_path, name):
        fingerprint = json.loads((FORMAT_1 / "fingerprints.json").read_text())[name]
        loaded = load_bi_encoder(FORMAT_1 / name)
        assert loaded.fingerprint() == fingerprint
        save_bi_encoder(loaded, tmp_path / name)
        assert json.loads((tmp_path / name / "dpr_lightning.json").read_text())["format"] == 2
        again = load_bi_encoder(tmp_path / name)
        assert (again.fingerprint(), again.settings) == (fingerprint, loaded.settings)

    @pytest.mark.parametrize("side", ["query", "passage"])
    def test_its_embeddings_belong_to_it_and_are_reproduced(self, tmp_path, name, side):
        saved = open_embeddings(FORMAT_1 / f"{name}-{side}.safetensors")
        bi_encoder = load_bi_encoder(shutil.copytree(FORMAT_1 / name, tmp_path / name)).eval()
        if side == "query":
            source = open_queries(str(FORMAT_1 / "queries.jsonl"))
            token_ids = bi_encoder.inputs.encode_queries(source.rows["query"])
        else:
            source = open_corpus(str(FORMAT_1 / "corpus.jsonl"))
            token_ids = bi_encoder.inputs.encode_passages(source.rows["title"], source.rows["text"])
        assert saved.identity.model_fingerprint == bi_encoder.fingerprint()
        assert saved.identity.data_fingerprint == source.fingerprint
        with torch.inference_mode():
            embeddings = getattr(bi_encoder, side)(**bi_encoder.inputs.pad(token_ids))
        np.testing.assert_allclose(embeddings, saved.array, rtol=0, atol=3e-6)  # other batches, other rounding


def test_every_pooling_mode_is_a_setting():
    assert tuple(POOLING) == POOLING_MODES
