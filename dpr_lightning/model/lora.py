"""Low-rank adapters: training a few new weights beside frozen ones.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685; the layers are peft's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from dpr_lightning.errors import UserError, check_positive


def add_adapters(
    transformer: PreTrainedModel, *, r: int, alpha: float, dropout: float, target_modules: str | Sequence[str]
) -> None:
    """Puts adapters into the transformer and freezes all its other weights.

    Args:
        transformer: changed in place.
        r: rank of the adapters.
        alpha: their outputs count `alpha / r` times.
        dropout: of their inputs.
        target_modules: ends of the names of the linear layers that get one, e.g. `["query", "value"]`; or
            `all-linear`.

    Raises:
        UserError: peft is not installed, no such layers, or a rank below 1.
    """
    check_positive(r, "model.lora.r")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(
            "model.lora: peft is not installed. Install dpr_lightning[lora], or set model/lora=none."
        ) from error
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    try:
        inject_adapter_in_model(config, transformer)
    except ValueError as error:
        raise UserError(
            f"model.lora.target_modules: {targets!r} names no layers of {type(transformer).__name__}. Correct it."
        ) from error


def merged(transformer: PreTrainedModel) -> PreTrainedModel:
    """The transformer without adapters: itself if it has none, else a copy whose weights include theirs."""
    adapted = [name for name, module in transformer.named_modules() if hasattr(module, "get_delta_weight")]
    if not adapted:
        return transformer
    plain = copy.deepcopy(transformer)
    for name in adapted:
        layer: Any = plain.get_submodule(name)
        layer.merge()
        plain.set_submodule(name, layer.get_base_layer())
    return plain
