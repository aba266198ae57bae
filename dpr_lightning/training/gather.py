"""Collect tensors from all processes, with gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes that train together; 1 outside distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes in rank order: [rows, ...] -> [world_size * rows, ...].

    Every process must pass the same shape. In the backward pass, the gradient of a row is the sum of its gradients in
    all processes. So if each process averages the loss over its own queries, and gradients are averaged over processes
    (as DistributedDataParallel does), the result is the exact gradient of the loss averaged over all queries.
    """
    if world_size() == 1:
        return rows
    if not rows.requires_grad:
        return _all_gather(rows)
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def _all_gather(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        return _all_gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous()
        dist.all_reduce(summed)
        return summed[global_rank() * ctx.rows :][: ctx.rows]


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes, which must have gradients of the same parameters."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for pending in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
        pending.wait()
    torch._foreach_div_(gradients, float(world_size()))
