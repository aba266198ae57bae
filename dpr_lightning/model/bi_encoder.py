"""The query and the passage encoder together: loading, tying and the fingerprint."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dpr_lightning.data.tokenizer import InputTokenizer, Tokens
from dpr_lightning.errors import UserError, error_prefix
from dpr_lightning.model.checks import check_pooling, check_vocabulary
from dpr_lightning.model.checksums import check_checksums
from dpr_lightning.model.encoder import PROJECTION_FOLDER, Encoder, position_ids
from dpr_lightning.model.folder import check_hub, saved_settings
from dpr_lightning.model.foreign import EncoderFiles, Foreign
from dpr_lightning.model.lora import add_adapters, check_lora_keys
from dpr_lightning.model.pretrained import load_transformer
from dpr_lightning.model.pretrained_tokenizer import append_end_token, load_tokenizer
from dpr_lightning.model.sentence_transformers import describe
from dpr_lightning.model.settings import SETTINGS_FILE, Settings

QUERY_FOLDER, PASSAGE_FOLDER = "query_model", "passage_model"
_PICKLED_PROJECTION = "pooler.pt"  # written by Tevatron
_UNHASHED_CONFIG = {"transformers_version", "architectures", "dtype"}  # these change no embedding
_UNHASHED_TOKENIZER = {"version", "truncation", "padding"}  # every call sets truncation and padding
_DEFAULTS = Settings()


class BiEncoder(nn.Module):
    """A query encoder and a passage encoder, which are the same module when tied. The score is the inner product."""

    def __init__(self, query: Encoder, passage: Encoder, inputs: InputTokenizer, settings: Settings) -> None:
        """Check that the encoders have positions for the settings' lengths, and let padding not exceed them.

        Raises:
            UserError: A length exceeds the encoder's positions.
        """
        super().__init__()
        self.query, self.passage, self.inputs, self.settings = query, passage, inputs, settings
        for side, encoder in (("query", query), ("passage", passage)):
            length, possible = getattr(settings, f"{side}_max_length"), position_ids(encoder.transformer)
            if possible is not None and length > len(possible):
                raise UserError(
                    f"{side}_max_length: {length} is more than the encoder's {len(possible)} positions. Lower it."
                )
            if possible is not None:
                inputs.most_positions = min(inputs.most_positions, len(possible))

    def forward(self, queries: Tokens, passages: Tokens) -> tuple[Tensor, Tensor]:
        """Return the embeddings [B, dim] of B queries and [P, dim] of P passages."""
        return self.query(**queries), self.passage(**passages)

    def fingerprint(self) -> str:
        """Return a hash of settings, tokenizer, configs and weights; equal fingerprints mean equal embeddings.

        Saving and loading the model does not change it.
        """
        parts: list[Any] = [self.settings.hashed(), _tokenizer_state(self.inputs.tokenizer)]
        for encoder in (self.query, self.passage):
            config = encoder.transformer.config.to_diff_dict()
            parts.append({key: value for key, value in config.items() if key not in _UNHASHED_CONFIG})
        digest = hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16)
        with torch.no_grad():
            for name, weight in sorted(self.state_dict().items()):
                digest.update(name.encode())
                digest.update(weight.cpu().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what turns text into ids: the Rust tokenizer's state, or else the vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    return {key: value for key, value in state.items() if key not in _UNHASHED_TOKENIZER}


def load_bi_encoder(
    name_or_path: str | Path,
    *,
    settings: Settings = _DEFAULTS,
    explicit: Collection[str] = (),
    gradient_checkpointing: bool = False,
    lora: Mapping[str, Any] | None = None,
    reads_pooler: bool = False,
    new_projection: bool = True,
) -> BiEncoder:
    """Return a bi-encoder from a hub name or a folder: plain Hugging Face, sentence-transformers, Tevatron, or ours.

    A folder that `save_bi_encoder` wrote has its own settings, which replace `settings`. Those of a folder of
    sentence-transformers replace the settings that the caller leaves at their defaults.

    Args:
        name_or_path: A hub name or a folder.
        settings: Settings for a folder that has none of its own.
        explicit: Names of settings on which the caller insists; our folder must agree with them.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        lora: Arguments of `add_adapters`; None trains all weights.
        reads_pooler: The caller reads Tevatron's `pooler.pt`. Otherwise a folder with that file is refused.
        new_projection: Start with a random projection if the folder has none, as for training. Otherwise such a
            folder is refused.

    Raises:
        UserError: The model cannot be loaded, its folder is damaged, or a setting is out of range or contradicts it.
    """
    folder = Path(name_or_path).expanduser()
    name = str(folder) if folder.is_dir() else str(name_or_path)
    check_hub(name)
    ours = (folder / SETTINGS_FILE).exists()
    foreign = None if ours else describe(name)
    if ours:
        check_checksums(folder)
        settings = saved_settings(folder, settings, explicit)
    elif foreign:
        settings = foreign.complete(settings, explicit)
    if (folder / _PICKLED_PROJECTION).exists() and not reads_pooler:
        raise UserError(
            f"name_or_path: {folder / _PICKLED_PROJECTION} is a pickle, which is not read here. "
            "Convert the folder with scripts/import_model.py."
        )
    files = (foreign.query, foreign.passage) if foreign else _encoder_files(name, settings)
    load = functools.partial(
        _load_encoder,
        settings=settings,
        gradient_checkpointing=gradient_checkpointing,
        lora=lora,
        projection_required=ours or not new_projection,
    )
    query = load(files[0])
    if settings.tied:
        passage = query
    elif files[0] == files[1]:
        passage = copy.deepcopy(query)
    else:
        passage = load(files[1])
    tokenizer = _load_tokenizer(name, files, foreign)
    if settings.pooling == "last" and not ours and not foreign:
        append_end_token(tokenizer)
    for side, encoder in (("query", query), ("passage", passage)):
        check_vocabulary(encoder, tokenizer, name)
        if foreign:
            settings = foreign.within_positions(settings, side, position_ids(encoder.transformer))
    try:
        return BiEncoder(query, passage, InputTokenizer(tokenizer, **settings.inputs()), settings)
    except UserError as error:
        if ours:
            raise UserError(f"{folder / SETTINGS_FILE}: {error}") from error
        raise


def _load_encoder(
    files: EncoderFiles,
    *,
    settings: Settings,
    gradient_checkpointing: bool,
    lora: Mapping[str, Any] | None,
    projection_required: bool,
) -> Encoder:
    transformer = load_transformer(
        files.transformer, dtype=settings.dtype, gradient_checkpointing=gradient_checkpointing
    )
    if lora is not None:
        with error_prefix("lora"):
            check_lora_keys(lora)
            add_adapters(transformer, **lora)
    encoder = Encoder(transformer, settings)
    encoder.load_projection(files.projection, bias=files.bias, required=projection_required)
    check_pooling(encoder, files.transformer)
    return encoder


def _load_tokenizer(
    name: str, files: tuple[EncoderFiles, EncoderFiles], foreign: Foreign | None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of both sides.

    Raises:
        UserError: There is none, or a foreign folder has two that differ.
    """
    if not foreign:
        return load_tokenizer(name, [Path(name), Path(files[0].transformer)])  # Tevatron saves it in the root only
    query, passage = (load_tokenizer(side.transformer, [Path(side.transformer)]) for side in files)
    if _tokenizer_state(query) != _tokenizer_state(passage):
        raise UserError(f"name_or_path: {name} has two tokenizers that differ. Choose another model.")
    return query


def _encoder_files(name_or_path: str, settings: Settings) -> tuple[EncoderFiles, EncoderFiles]:
    """Return the files of the query and the passage encoder, in a folder of ours or of Tevatron."""
    folder = Path(name_or_path)
    if not (folder / QUERY_FOLDER).is_dir():
        return (EncoderFiles(name_or_path, folder / PROJECTION_FOLDER),) * 2
    if settings.tied:
        raise UserError(f"tied: {folder} has two encoders, {QUERY_FOLDER} and {PASSAGE_FOLDER}. Set `tied`=false.")
    query, passage = folder / QUERY_FOLDER, folder / PASSAGE_FOLDER
    return (
        EncoderFiles(str(query), query / PROJECTION_FOLDER),
        EncoderFiles(str(passage), passage / PROJECTION_FOLDER),
    )
