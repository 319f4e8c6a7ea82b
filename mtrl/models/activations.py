"""tanh at the speed of a sigmoid: PyTorch's takes four times as long on a CPU, and was an eighth of a learner's time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent as `2 σ(2x) - 1`, with an error of at most 2e-7 before it is rounded; PyTorch's own unless `x` is float32 or
    bfloat16 on a CPU.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return x.tanh()
    return _Tanh.apply(x) if torch.is_grad_enabled() and x.requires_grad else _tanh(x)  # type: ignore[no-any-return, no-untyped-call]


class Tanh(nn.Module):
    """`tanh` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """The hyperbolic tangent of `x`."""
        return tanh(x)


def _tanh(x: Tensor) -> Tensor:
    return (2 * x.float()).sigmoid_().mul_(2).sub_(1).to(x.dtype)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = _tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradient, y)  # type: ignore[no-any-return]
