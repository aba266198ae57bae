"""Saves a bi-encoder as a folder that we, transformers, sentence-transformers and Tevatron can load.

Tied, the folder is a Hugging Face model (config.json, model.safetensors, tokenizer) with the description that
sentence-transformers wants beside it. Untied, `query_model/` and `passage_model/` are two such folders, as Tevatron
has them, and the root describes a sentence-transformers Router over them. `dpr_lightning.json` holds our settings.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from dpr_lightning.files import atomic_folder, write_json
from dpr_lightning.model.bi_encoder import PASSAGE_FOLDER, QUERY_FOLDER, SETTINGS_FILE, BiEncoder, Settings
from dpr_lightning.model.encoder import PROJECTION_FOLDER, Encoder
from dpr_lightning.model.lora import merged

_SENTENCE_TRANSFORMERS = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Router": "sentence_transformers.base.modules.router.Router",
}


def save_bi_encoder(bi_encoder: BiEncoder, folder: Path) -> None:
    """Writes the folder, whole or not at all; one that is there already is replaced."""
    settings = bi_encoder.settings
    with atomic_folder(folder) as temporary:
        if settings.tied:
            _save_encoder(bi_encoder, bi_encoder.passage, temporary, settings.passage_max_length)
        else:
            _save_encoder(bi_encoder, bi_encoder.query, temporary / QUERY_FOLDER, settings.query_max_length)
            _save_encoder(bi_encoder, bi_encoder.passage, temporary / PASSAGE_FOLDER, settings.passage_max_length)
            bi_encoder.query.transformer.config.save_pretrained(temporary)
            bi_encoder.inputs.tokenizer.save_pretrained(temporary)
            _describe_router(temporary, settings)
        write_json(temporary / SETTINGS_FILE, {"format": 1, "similarity": "dot", **asdict(settings)})


def _save_encoder(bi_encoder: BiEncoder, encoder: Encoder, folder: Path, max_length: int) -> None:
    merged(encoder.transformer).save_pretrained(folder)
    bi_encoder.inputs.tokenizer.save_pretrained(folder)
    encoder.save_projection(folder)
    parts = _parts(bi_encoder.settings)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": _SENTENCE_TRANSFORMERS[kind]}
        for i, (path, kind) in enumerate(parts)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    pooling = {"embedding_dimension": encoder.transformer.config.hidden_size, "pooling_mode": encoder.pooling}
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", pooling)
    if encoder.normalize:
        (folder / "3_Normalize").mkdir()
        write_json(folder / "3_Normalize" / "config.json", {})


def _parts(settings: Settings) -> list[tuple[str, str]]:
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    parts += [(PROJECTION_FOLDER, "Dense")] if settings.projection_dim else []
    return parts + ([("3_Normalize", "Normalize")] if settings.normalize else [])


def _describe_router(folder: Path, settings: Settings) -> None:
    routes = {"query": QUERY_FOLDER, "document": PASSAGE_FOLDER}
    structure = {route: [f"{sub}/{path}".rstrip("/") for path, _ in _parts(settings)] for route, sub in routes.items()}
    types = {
        f"{sub}/{path}".rstrip("/"): _SENTENCE_TRANSFORMERS[kind]
        for sub in routes.values()
        for path, kind in _parts(settings)
    }
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": _SENTENCE_TRANSFORMERS["Router"]}])
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    parameters = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
    write_json(folder / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
