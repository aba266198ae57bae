"""Linear layers of a transformer in int8, which a CPU multiplies faster than float32.

For input x [T, K], weight w [N, K] and bias b [N], with one scale per token and one per output:

    x ≈ s · q,  s = max|x| / 127 of each row      w ≈ t · v,  t = max|w| / 63 of each row
    x wᵀ + b ≈ s tᵀ · (q vᵀ) + b                  q, v int8, summed in int32

A token is scaled by itself, so that an embedding does not depend on the other texts of its batch, and the sums of whole
numbers are exact, in any order. Weights have 7 bits, because a CPU without VNNI adds two products in 16 bits:
2 · 255 · 63 fits, 2 · 255 · 127 would saturate. (It shifts q to 0 … 255.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpr_lightning.errors import UserError
from dpr_lightning.model.encoder import Encoder

_MOST_INPUT, _MOST_WEIGHT = 127, 63
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny  # a row of zeros is divided by it


class Int8Linear(nn.Module):
    """A linear layer whose weight is int8 and whose input is rounded to int8 token by token."""

    def __init__(self, linear: nn.Linear) -> None:
        """Quantize a layer in float32."""
        super().__init__()
        weight = linear.weight.detach()
        scale = (weight.abs().amax(1) / _MOST_WEIGHT).clamp(min=_SMALLEST_SCALE)
        self.weight = nn.Parameter((weight / scale[:, None]).round().to(torch.int8), requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        bias = linear.bias.detach() if linear.bias is not None else torch.zeros_like(scale)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, states: Tensor) -> Tensor:
        """Return float32 [..., N] of float32 [..., K]."""
        rows = states.flatten(0, -2)
        scale = (rows.abs().amax(1, keepdim=True) / _MOST_INPUT).clamp(min=_SMALLEST_SCALE)
        sums: Tensor = torch._int_mm((rows / scale).round_().to(torch.int8), self.weight.t())
        outputs = sums.float().mul_(scale).mul_(self.scale).add_(self.bias)  # in place, which is faster
        unflattened: Tensor = outputs.unflatten(0, states.shape[:-1])
        return unflattened


def quantize(encoder: Encoder) -> Encoder:
    """Replace the linear layers of the encoder's transformer, which is in float32, by int8 layers; return the encoder.

    Raises:
        UserError: The transformer has no linear layers.
    """
    transformer = encoder.transformer
    linear = {name: module for name, module in transformer.named_modules() if type(module) is nn.Linear}
    if not linear:
        raise UserError(
            f"precision: {type(transformer).__name__} has no linear layers that int8 can replace. Set `precision`=32."
        )
    for name, module in linear.items():
        transformer.set_submodule(name, Int8Linear(module))
    return encoder
