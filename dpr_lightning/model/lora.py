"""Low-rank adapters: train a few new weights while all others stay frozen.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685; the layers are peft's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from dpr_lightning.errors import UserError, check_positive

_SETTINGS = ("r", "alpha", "dropout", "target_modules")


def check_lora_keys(lora: Mapping[str, Any]) -> None:
    """Raise UserError unless these are the settings of `add_adapters`, no more and no fewer."""
    if lora.keys() != set(_SETTINGS):
        given = ", ".join(map(str, lora)) or "none"
        raise UserError(f"keys: the settings of adapters are {', '.join(_SETTINGS)}, not {given}. Correct them.")


def add_adapters(
    transformer: PreTrainedModel, *, r: int, alpha: float, dropout: float, target_modules: str | Sequence[str]
) -> None:
    """Add adapters to the transformer, in place, and freeze all its other weights.

    Args:
        transformer: The transformer to change.
        r: The rank of the adapters.
        alpha: The adapters' outputs are scaled by `alpha / r`.
        dropout: The probability of dropout on the adapters' inputs.
        target_modules: Ends of the names of the linear layers that get an adapter, e.g. `["query", "value"]`, or
            `all-linear`.

    Raises:
        UserError: peft is not installed, a value is out of range, or no layer has such a name.
    """
    check_positive(r, "r")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"dropout: {dropout!r} is not a number from 0 up to, but not including, 1. Correct `dropout`.")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("r: adapters need peft, which is not installed. Install dpr_lightning[lora].") from error
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    try:
        inject_adapter_in_model(config, transformer)
    except ValueError as error:
        kind = type(transformer).__name__
        raise UserError(f"target_modules: {targets!r} names no layers of {kind}. Correct `target_modules`.") from error


def merged(transformer: PreTrainedModel) -> PreTrainedModel:
    """Return the transformer if it has no adapters, else a copy with their effect added to its weights."""
    adapted = [name for name, module in transformer.named_modules() if hasattr(module, "get_delta_weight")]
    if not adapted:
        return transformer
    plain = copy.deepcopy(transformer)
    for name in adapted:
        layer: Any = plain.get_submodule(name)
        layer.merge()
        plain.set_submodule(name, layer.get_base_layer())
    return plain
