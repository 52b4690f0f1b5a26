"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...graph.ir import Attribute
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import numbers


@lowers("conv1d", "conv2d", "conv3d")
def conv(
    c: Lowering, x: Ref, weight: Ref, bias: Ref | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Ref:
    c.array(weight, "the weight")
    axes = weight.rank - 2
    attrs: dict[str, Attribute] = {"stride": numbers(stride, axes), "dilation": numbers(dilation, axes)}
    attrs |= {"padding": _sides(weight.shape[2:], padding, numbers(dilation, axes)), "groups": int(groups)}
    return _put(c, "conv", x, weight, bias, attrs)


def _sides(kernel: Sequence[Any], padding: Any, dilation: Sequence[int]) -> tuple[int, ...]:
    """Begin and end of each axis; "same" puts the odd one at the end, as torch does."""
    if padding == "valid":
        return (0,) * (2 * len(kernel))
    if padding == "same":
        totals = [d * (int(k) - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple(side for total in totals for side in (total // 2, total - total // 2))
    return tuple(side for side in numbers(padding, len(kernel)) for _ in (0, 1))


@lowers("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    c: Lowering,
    x: Ref,
    weight: Ref,
    bias: Ref | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Ref:
    """The weight's [Ci, Co / groups, ...] becomes [Co, Ci / groups, ...]."""
    array = c.array(weight, "the weight")
    axes = array.ndim - 2
    per_group = (groups, array.shape[0] // groups, *array.shape[1:])
    swapped = array.reshape(per_group).swapaxes(1, 2).reshape(groups * array.shape[1], -1, *array.shape[2:])
    attrs: dict[str, Attribute] = {"stride": numbers(stride, axes), "dilation": numbers(dilation, axes)}
    attrs |= {"padding": _sides(array.shape[2:], padding, ()), "output_padding": numbers(output_padding, axes)}
    kernel = c.constant(np.ascontiguousarray(swapped), f"{weight.name}.T")
    return _put(c, "conv_transpose", x, kernel, bias, attrs | {"groups": int(groups)})


def _put(c: Lowering, op: str, x: Ref, weight: Ref, bias: Ref | None, attrs: dict[str, Attribute]) -> Ref:
    """A batch is added where there is none; over one axis it is a 2-d convolution over images of height 1."""
    axes = weight.rank - 2
    shape = x.shape if x.rank == axes + 2 else (1, *x.shape)
    if axes == 1:
        shape = (*shape[:-1], 1, shape[-1])
        weight = c.constant(c.array(weight, "")[:, :, None], f"{weight.name}.2d")
        still: dict[str, tuple[int, ...]] = {"padding": (0, 0), "output_padding": (0,)}
        attrs = {
            key: (*still.get(key, (1,)), *sizes) if isinstance(sizes, tuple) else sizes for key, sizes in attrs.items()
        }
    return c.reshape(c.emit(f"{op}{max(axes, 2)}d", c.reshape(x, shape), weight, bias, **attrs))


@lowers("convolution", "_convolution")
def convolution(
    c: Lowering,
    x: Ref,
    weight: Ref,
    bias: Ref | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Ref:
    if weight.rank not in (3, 4, 5):
        raise Unlowerable(f"lowbit has no convolution over {weight.rank - 2} axes")
    if transposed:
        return conv_transpose(c, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(c, x, weight, bias, stride, padding, dilation, groups)
