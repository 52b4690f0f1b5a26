"""Torch operators that round activations as the integer kernels do, and that a captured graph knows by name.

    torch.ops.lowbit.round_values(x, scale, zero_point)   one range: codes 0 .. 255, real = (code - zero_point) * scale
    torch.ops.lowbit.round_rows(x)                        each row (last axis) by its own range, with 0 in it
    torch.ops.lowbit.mark(x, index)                       x: tells a capture which of the graph's values it is

Gradients go straight through. A layer whose rows are rounded says so with its codes (`dequantize.py`), so a graph holds
no node for that: its integer layer finds the ranges.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op(
    "lowbit::round_values", mutates_args=(), schema="(Tensor x, Tensor scale, Tensor zero_point) -> Tensor"
)
def round_values(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """`ops.integer.quantize`, then `dequantize`, bit for bit."""
    codes, zero = (x * (1 / scale)).nan_to_num_(0.0, torch.inf, -torch.inf), int(zero_point)
    return codes.clamp_(-zero, 255 - zero).round_().mul_(scale)


@torch.library.custom_op("lowbit::round_rows", mutates_args=(), schema="(Tensor x) -> Tensor")
def round_rows(x: Tensor) -> Tensor:
    """`ops.integer.dynamic_quantize` by rows, and the numbers of its codes."""
    low, high = x.amin(-1, keepdim=True).clamp_(max=0), x.amax(-1, keepdim=True).clamp_(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1.0, scale)
    inverse = 1 / scale
    zero = (-low * inverse).clamp_(0, 255).round_()
    return (x * inverse).clamp_(-zero, 255 - zero).round_().mul_(scale)


@torch.library.custom_op("lowbit::mark", mutates_args=(), schema="(Tensor x, int index) -> Tensor")
def mark(x: Tensor, index: int) -> Tensor:
    """A copy of x."""
    return x.clone()


def _like(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x)


def _straight(count: int) -> Any:
    return lambda context, gradient: (gradient, *(None,) * count) if count else gradient


for _operator, _others in ((round_values, 2), (round_rows, 0), (mark, 1)):
    _operator.register_fake(_like)
    _operator.register_autograd(_straight(_others))
