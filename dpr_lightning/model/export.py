"""Saves a bi-encoder as a folder that we, transformers, sentence-transformers and Tevatron can load.

A tied model is a Hugging Face model (config.json, model.safetensors, tokenizer) with sentence-transformers' description
beside it. An untied one has two such folders, `query_model/` and `passage_model/`, as in Tevatron, and its root
describes a sentence-transformers Router over them. `dpr_lightning.json` has our settings, README.md is the model card,
and `checksums.json` has the hashes of all other files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpr_lightning.files import atomic_folder, write_json
from dpr_lightning.model.bi_encoder import PASSAGE_FOLDER, QUERY_FOLDER, BiEncoder
from dpr_lightning.model.card import CARD, Origin, model_card
from dpr_lightning.model.checksums import save_checksums
from dpr_lightning.model.encoder import PROJECTION_FOLDER, Encoder
from dpr_lightning.model.lora import merged
from dpr_lightning.model.pooling import POOLING
from dpr_lightning.model.settings import Settings

_UNKNOWN = Origin("Saved by dpr_lightning.")
_SENTENCE_TRANSFORMERS = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Router": "sentence_transformers.base.modules.router.Router",
}

_OLD_POOLING_MODES = {  # text-embeddings-inference and other servers read these instead of `pooling_mode`
    "cls_token": "cls",
    "mean_tokens": "mean",
    "max_tokens": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "lasttoken": "lasttoken",
}


def save_bi_encoder(bi_encoder: BiEncoder, folder: Path, *, origin: Origin = _UNKNOWN) -> None:
    """Write the model folder atomically; an existing one is replaced.

    Args:
        bi_encoder: The model.
        folder: The folder to write.
        origin: How the model was made, for its card.
    """
    settings = bi_encoder.settings
    query_length, passage_length = settings.query_max_length, settings.passage_max_length
    with atomic_folder(folder) as temporary:
        if settings.tied:
            _save_encoder(bi_encoder, bi_encoder.passage, temporary, passage_length, {"query_length": query_length})
        else:
            _save_encoder(bi_encoder, bi_encoder.query, temporary / QUERY_FOLDER, query_length)
            _save_encoder(bi_encoder, bi_encoder.passage, temporary / PASSAGE_FOLDER, passage_length)
            bi_encoder.query.transformer.config.save_pretrained(temporary)
            bi_encoder.inputs.tokenizer.save_pretrained(temporary)
            _describe_router(temporary, settings)
        settings.save(temporary)
        save_checksums(temporary)
        base = str(bi_encoder.passage.transformer.config.name_or_path)
        card = model_card(settings, dim=bi_encoder.passage.dim, base=base, origin=origin)
        (temporary / CARD).write_text(card, encoding="utf-8")


def _save_encoder(
    bi_encoder: BiEncoder, encoder: Encoder, folder: Path, max_length: int, by_task: dict[str, int] | None = None
) -> None:
    """Write one encoder; `by_task` has the maximum length of one task, where it differs from `max_length`."""
    merged(encoder.transformer).save_pretrained(folder)
    bi_encoder.inputs.tokenizer.save_pretrained(folder)
    encoder.save_projection(folder)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": _SENTENCE_TRANSFORMERS[kind]}
        for i, (path, kind) in enumerate(_parts(bi_encoder.settings))
    ]
    lengths = {"max_seq_length": max_length, **(by_task or {})}
    mode = POOLING[encoder.pooling].exported_as
    pooling = {"embedding_dimension": encoder.transformer.config.hidden_size, "pooling_mode": mode}
    pooling |= {f"pooling_mode_{old}": mode == new for old, new in _OLD_POOLING_MODES.items()}
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {**lengths, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", _model_config(bi_encoder.settings))
    write_json(folder / "1_Pooling" / "config.json", pooling)
    if encoder.normalize:
        write_json(folder / "3_Normalize" / "config.json", {})


def _parts(settings: Settings) -> list[tuple[str, str]]:
    """Return the folder and the kind of each of sentence-transformers' modules, in their order."""
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    parts += [(PROJECTION_FOLDER, "Dense")] if settings.projection_dim else []
    return parts + ([("3_Normalize", "Normalize")] if settings.normalize else [])


def _model_config(settings: Settings) -> dict[str, Any]:
    """Return what sentence-transformers' `encode_query` and `encode_document` need to know, besides the modules."""
    prompts = {"query": settings.query_prompt, "document": settings.passage_prompt}
    return {"similarity_fn_name": "dot"} | ({"prompts": prompts} if any(prompts.values()) else {})


def _describe_router(folder: Path, settings: Settings) -> None:
    structure: dict[str, list[str]] = {}
    types: dict[str, str] = {}
    for route, encoder_folder in (("query", QUERY_FOLDER), ("document", PASSAGE_FOLDER)):
        modules = {f"{encoder_folder}/{path}".rstrip("/"): kind for path, kind in _parts(settings)}
        structure[route] = list(modules)
        types |= {module: _SENTENCE_TRANSFORMERS[kind] for module, kind in modules.items()}
    parameters = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": _SENTENCE_TRANSFORMERS["Router"]}])
    write_json(folder / "config_sentence_transformers.json", _model_config(settings))
    write_json(folder / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
