"""Prepares an encoder for inference: its device and its precision."""

from __future__ import annotations

import copy

import torch

from dpr_lightning.errors import UserError
from dpr_lightning.model.encoder import Encoder
from dpr_lightning.model.int8 import quantize


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `precision`, or for `auto` half precision if the hardware computes in it: `bf16`, on older GPUs `16`.

    Raises:
        UserError: The precision is `int8` and the device is not a CPU.
    """
    if precision == "int8" and device.type != "cpu":
        raise UserError("precision: int8 computes on a CPU only, and this machine has a GPU. Set `precision`=auto.")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "32"


def for_inference(encoder: Encoder, *, device: torch.device, precision: str) -> Encoder:
    """Return the encoder on a device in evaluation mode, or a copy if its weights have another type than `precision`.

    Args:
        encoder: The encoder.
        device: Where to move it.
        precision: `32`, `bf16`, `16` or `int8`.

    Raises:
        UserError: The precision is `int8` and the transformer has no linear layers.
    """
    dtype = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16, "int8": torch.float32}[precision]
    if precision == "int8" or dtype != encoder.transformer.dtype:
        encoder = copy.deepcopy(encoder)  # converted weights would change the model's fingerprint
    encoder = encoder.eval().to(device, dtype)
    return quantize(encoder) if precision == "int8" else encoder
