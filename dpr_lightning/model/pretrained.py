"""Loads transformers from folders or from the hub.

Code in a model folder never runs, and pickles are not read. The libraries raise exceptions of any type at damaged
files; each becomes one UserError that names the file.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from dpr_lightning.errors import UserError

_MOST_LAYERS = 10_000
_PICKLE = "pytorch_model.bin"
_ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}  # AutoModel adds the decoder
_DPR = ("DPRQuestionEncoder", "DPRContextEncoder")
_DPR_CONFIG = {"model_type", "architectures", "projection_dim", "transformers_version"}


def load_transformer(
    name_or_path: str, *, dtype: str = "float32", gradient_checkpointing: bool = False
) -> PreTrainedModel:
    """Return a transformer in training mode, from safetensors in a folder or on the hub.

    Of T5 it is the encoder, and of the encoders of the original DPR it is the BERT in them.

    Args:
        name_or_path: A folder or a hub name.
        dtype: The type to which weights are converted, `float32` or `bfloat16`.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.

    Raises:
        UserError: The model does not exist, is damaged, is of a kind that is not supported, or lacks weights, which
            would then be random. A pooler may be missing.
    """
    with errors_about(name_or_path, "config.json"):
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
        architecture = (config.architectures or [""])[0]
        if config.is_encoder_decoder and config.model_type not in _ENCODERS:
            raise _unsupported(name_or_path, f"an encoder-decoder ({config.model_type})")
        if architecture.endswith("ForSequenceClassification") and config.num_labels == 1:
            raise _unsupported(name_or_path, f"a CrossEncoder ({architecture})")
        if config.model_type == "dpr" and (architecture not in _DPR or config.projection_dim):
            raise _unsupported(name_or_path, f"a DPR model other than {' and '.join(_DPR)} without a projection")
        if (layers := getattr(config, "num_hidden_layers", 0)) > _MOST_LAYERS:  # they would be built before any check
            raise ValueError(f"num_hidden_layers is {layers}")
    with errors_about(name_or_path, "config.json and model.safetensors"):
        loader = architecture if config.model_type == "dpr" else _ENCODERS.get(config.model_type, "AutoModel")
        model_class = getattr(transformers, loader)  # imports the module of this class only
        transformer, info = _load_weights(model_class, name_or_path, config, getattr(torch, dtype))
        if config.model_type == "dpr":
            transformer = _bert_of_dpr(transformer)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
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


def _load_weights(
    loader: Any, name_or_path: str, config: PretrainedConfig, dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    loaded: tuple[PreTrainedModel, dict[str, Any]] = loader.from_pretrained(
        name_or_path,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=False,
    )
    return loaded


def _bert_of_dpr(dpr: PreTrainedModel) -> PreTrainedModel:
    """Return the BERT within an encoder of the original DPR, with a config of its own."""
    from transformers import BertConfig, BertModel

    inner: BertModel = getattr(dpr, dpr.base_model_prefix).bert_model
    config = BertConfig(**{key: value for key, value in dpr.config.to_dict().items() if key not in _DPR_CONFIG})
    bert = BertModel(config, add_pooling_layer=False)
    bert.load_state_dict(inner.state_dict(), assign=True)
    return bert


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
