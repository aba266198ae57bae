"""Loads transformers and tokenizers from folders or from the hub.

Code in a model folder never runs, and pickles are not read. The libraries raise exceptions of any type at damaged
files; each becomes one UserError that names the file.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dpr_lightning.errors import UserError

_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
_MOST_LAYERS = 10_000
_PICKLE = "pytorch_model.bin"
_PROBE = "a b?\u65e5"  # words and a character that a vocabulary may lack


def load_transformer(name_or_path: str, *, gradient_checkpointing: bool = False) -> PreTrainedModel:
    """Return a float32 transformer in training mode, from safetensors in a folder or on the hub.

    Raises:
        UserError: The model does not exist, is damaged, is of a kind that is not supported, or lacks weights, which
            would then be random. A pooler may be missing.
    """
    with errors_about(name_or_path, "config.json"):
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
        if config.model_type == "dpr":
            raise UserError(
                f"name_or_path: {name_or_path} is an encoder of the original DPR. "
                "Import both encoders with scripts/import_model.py."
            )
        if config.is_encoder_decoder:
            raise _unsupported(name_or_path, f"an encoder-decoder ({config.model_type})")
        if (layers := getattr(config, "num_hidden_layers", 0)) > _MOST_LAYERS:  # they would be built before any check
            raise ValueError(f"num_hidden_layers is {layers}")
    with errors_about(name_or_path, "config.json and model.safetensors"):
        transformer, info = _load_weights(name_or_path, config)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if any(name.startswith("decoder.") for name in missing):
        raise _unsupported(name_or_path, f"the encoder of an encoder-decoder ({config.model_type})")
    if missing:
        raise UserError(
            f"name_or_path: {name_or_path} lacks the weights {', '.join(missing[:5])}. Fetch the model again."
        )
    if gradient_checkpointing:
        is_renamed = hasattr(transformer, "activation_checkpointing_enable")  # by transformers 5.24
        enable = (
            transformer.activation_checkpointing_enable if is_renamed else transformer.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
    transformer.train()
    return transformer


def _load_weights(name_or_path: str, config: PretrainedConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    loaded: tuple[PreTrainedModel, dict[str, Any]] = AutoModel.from_pretrained(
        name_or_path,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=False,
    )
    return loaded


def load_tokenizer(name_or_path: str, folders: Sequence[Path]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a hub name, or of the first of `folders` that has one.

    Raises:
        UserError: There is no tokenizer (transformers would make one up), or it is damaged.
    """
    if any(folder.is_dir() for folder in folders):
        with_vocabulary = [folder for folder in folders if any(any(folder.glob(name)) for name in _VOCABULARIES)]
        if not with_vocabulary:
            raise UserError(f"name_or_path: {name_or_path} has no tokenizer. Copy that of its base model into it.")
        name_or_path = str(with_vocabulary[0])
    with errors_about(name_or_path, "tokenizer.json and tokenizer_config.json"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        length = tokenizer.num_special_tokens_to_add() + 1
        tokenizer(_PROBE, truncation=True, max_length=length)  # nonsense shows in use
        tokenizer(_PROBE)  # without truncation, which would be saved with the tokenizer
    return tokenizer


def _unsupported(name_or_path: str, kind: str) -> UserError:
    return UserError(
        f"name_or_path: {name_or_path} is {kind}, which is not supported. Choose an encoder such as BERT or RoBERTa."
    )


@contextlib.contextmanager
def errors_about(name_or_path: str, files: str) -> Iterator[None]:
    """Turn whatever a library raises while it reads `files` into a UserError that names them."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # the tokenizers library panics with a BaseException
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        folder = Path(name_or_path)
        if "trust_remote_code" in str(error):
            problem, remedy = (
                f"{name_or_path} needs Python code of its own, which never runs here",
                "Choose another model",
            )
        elif not folder.is_dir():
            problem = f"{name_or_path} is not a folder with a model, and the hub does not give one"
            problem, remedy = f"{problem} ({in_one_line(error)})", "Correct the name, or give the path of a folder"
        elif (folder / _PICKLE).exists() and not any(folder.glob("*.safetensors")):
            problem = f"the weights in {folder / _PICKLE} are a pickle, which is not read here"
            remedy = "Convert the folder with scripts/import_model.py"
        else:
            problem = f"the model in {name_or_path} cannot be loaded from {files} ({in_one_line(error)})"
            remedy = "Fetch or save it again"
        raise UserError(f"name_or_path: {problem}. {remedy}.") from error


def in_one_line(error: BaseException) -> str:
    """Return another library's message as text to put in brackets within ours."""
    text = str(error) if isinstance(error, OSError | RuntimeError) or type(error) is ValueError else repr(error)
    return textwrap.shorten(text.replace("`", "'"), 300, placeholder=" …").rstrip(".")
