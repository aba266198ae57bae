"""Query and passage encoder together: how they are tied, made from a name, and told apart by a fingerprint."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dpr_lightning.data.tokenizer import InputTokenizer, Tokens
from dpr_lightning.errors import UserError
from dpr_lightning.model.encoder import Encoder, in_one_line, load_transformer, positions
from dpr_lightning.model.lora import add_adapters

SETTINGS_FILE = "dpr_lightning.json"
QUERY_FOLDER, PASSAGE_FOLDER = "query_model", "passage_model"
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
_PICKLED_PROJECTION = "pooler.pt"  # Tevatron's
_PASSING_CONFIG = {"transformers_version", "architectures", "dtype"}  # changes no embedding
_PASSING_TOKENIZER = {"version", "truncation", "padding"}  # set anew by each call


@dataclass(frozen=True)
class Settings:
    """What makes embeddings comparable besides the weights; saved with the model."""

    tied: bool = True
    pooling: str = "cls"
    normalize: bool = False
    projection_dim: int | None = None
    query_max_length: int = 32
    passage_max_length: int = 156
    separator: str = " "


class BiEncoder(nn.Module):
    """A query encoder and a passage encoder, one and the same module when tied. The score is the inner product."""

    def __init__(self, query: Encoder, passage: Encoder, inputs: InputTokenizer, settings: Settings) -> None:
        """Checks that the lengths fit the transformer."""
        super().__init__()
        self.query, self.passage, self.inputs, self.settings = query, passage, inputs, settings
        for side, encoder in (("query", query), ("passage", passage)):
            length, possible = getattr(settings, f"{side}_max_length"), positions(encoder.transformer)
            if possible is not None and length > len(possible):
                raise UserError(
                    f"model.{side}_max_length: {length} is more than the encoder's {len(possible)} positions. Lower it."
                )

    def forward(self, queries: Tokens, passages: Tokens) -> tuple[Tensor, Tensor]:
        """Embeddings [B, dim] of the queries and [P, dim] of the passages."""
        return self.query(**queries), self.passage(**passages)

    def fingerprint(self) -> str:
        """A hash of settings, tokenizer, configs and all weights: equal fingerprints, equal embeddings.

        Saving and loading does not change it.
        """
        parts: list[Any] = [asdict(self.settings), _tokenizer_state(self.inputs.tokenizer)]
        for encoder in (self.query, self.passage):
            config = encoder.transformer.config.to_diff_dict()
            parts.append({key: value for key, value in config.items() if key not in _PASSING_CONFIG})
        digest = hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16)
        with torch.no_grad():
            for name, weight in sorted(self.state_dict().items()):
                digest.update(name.encode())
                digest.update(weight.cpu().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What turns text into ids; of a tokenizer without Rust backend, the vocabulary alone."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    return {key: value for key, value in state.items() if key not in _PASSING_TOKENIZER}


def load_bi_encoder(
    name_or_path: str | Path,
    *,
    tied: bool = True,
    pooling: str = "cls",
    normalize: bool = False,
    projection_dim: int | None = None,
    query_max_length: int = 32,
    passage_max_length: int = 156,
    separator: str = " ",
    gradient_checkpointing: bool = False,
    lora: Mapping[str, Any] | None = None,
    explicit: Collection[str] = (),
    reads_pooler: bool = False,
    new_projection: bool = True,
) -> BiEncoder:
    """A bi-encoder from a hub name or a folder: plain Hugging Face, sentence-transformers, Tevatron, or our own.

    A folder that we saved knows its settings, and they win over the arguments; other folders take the arguments.

    Args:
        name_or_path: hub name or folder.
        tied: one encoder for both sides; a Tevatron folder with two models needs False.
        pooling: `cls` or `mean`.
        normalize: L2 norm, which makes the inner product a cosine.
        projection_dim: size of a linear layer after pooling, None for no such layer.
        query_max_length: tokens of a query, special tokens included.
        passage_max_length: tokens of a passage, special tokens included.
        separator: between title and text, or `pair` for a sentence pair.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        lora: arguments of `add_adapters`, or None to train all weights.
        explicit: names of arguments that the caller insists on: a folder that says otherwise is an error.
        reads_pooler: the caller fills the projection from Tevatron's `pooler.pt`; else a folder with one is an error.
        new_projection: begin with a random projection where the folder holds none, as for training; else that is an
            error.

    Raises:
        UserError: no model there, weights missing, a setting out of range or contradicted by the folder.
    """
    given = Settings(tied, pooling, normalize, projection_dim, query_max_length, passage_max_length, separator)
    folder = Path(name_or_path).expanduser()
    ours = (folder / SETTINGS_FILE).exists()
    settings = _saved_settings(folder, given, explicit) if ours else given
    if (folder / _PICKLED_PROJECTION).exists() and not reads_pooler:
        raise UserError(
            f"model.name_or_path: {folder / _PICKLED_PROJECTION} is a pickle, which is not read here. "
            "Convert the folder with scripts/import_tevatron.py."
        )
    query_path = passage_path = str(folder) if folder.is_dir() else str(name_or_path)
    if (folder / QUERY_FOLDER).is_dir():
        if settings.tied:
            raise UserError(
                f"model.tied: {folder} holds two encoders, {QUERY_FOLDER} and {PASSAGE_FOLDER}. Set model.tied=false."
            )
        query_path, passage_path = str(folder / QUERY_FOLDER), str(folder / PASSAGE_FOLDER)

    def encoder(path: str) -> Encoder:
        transformer = load_transformer(path, gradient_checkpointing=gradient_checkpointing)
        if lora is not None:
            add_adapters(transformer, **lora)
        made = Encoder(
            transformer, pooling=settings.pooling, normalize=settings.normalize, projection_dim=settings.projection_dim
        )
        made.load_projection(Path(path), required=ours or not new_projection)
        return made

    query = encoder(query_path)
    if settings.tied:
        passage = query
    elif passage_path == query_path:
        passage = copy.deepcopy(query)
    else:
        passage = encoder(passage_path)
    inputs = InputTokenizer(
        _load_tokenizer(str(name_or_path), [folder, Path(query_path)]),  # Tevatron has it in the root alone
        query_max_length=settings.query_max_length,
        passage_max_length=settings.passage_max_length,
        separator=settings.separator,
    )
    return BiEncoder(query, passage, inputs, settings)


def _saved_settings(folder: Path, given: Settings, explicit: Collection[str]) -> Settings:
    keys = [field.name for field in fields(Settings)]
    try:
        saved = json.loads((folder / SETTINGS_FILE).read_text())
        settings = Settings(**{key: saved[key] for key in keys})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / SETTINGS_FILE} is damaged or of another version ({error!r}). Train again, or restore the file."
        ) from error
    for key in sorted(set(explicit) & set(keys)):
        if getattr(settings, key) != getattr(given, key):
            raise UserError(
                f"model.{key}: {getattr(given, key)!r} contradicts {folder}, which was trained with "
                f"{getattr(settings, key)!r}. Leave model.{key} out, or choose another model."
            )
    return settings


def _load_tokenizer(name: str, folders: list[Path]) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or of the first folder that has one: without its file, transformers makes one up."""
    if any(folder.is_dir() for folder in folders):
        found = [folder for folder in folders if any(any(folder.glob(pattern)) for pattern in _VOCABULARIES)]
        if not found:
            raise UserError(f"model.name_or_path: {name} holds no tokenizer. Copy that of its base model there.")
        name = str(found[0])
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.name_or_path: {name} gives no tokenizer ({in_one_line(error)}). Copy that of its base model there."
        ) from error
    return tokenizer
