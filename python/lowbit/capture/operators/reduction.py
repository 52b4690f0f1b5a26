"""Sums and means."""

from __future__ import annotations

from typing import Any

from ... import dims
from ..lower import Lowering, Ref, Unlowerable, lowers
from .common import axes_of


@lowers("mean.dim")
def mean(c: Lowering, x: Ref, axes: Any, keepdim: bool) -> Ref:
    """Over height and width of images it is a pool to 1 x 1."""
    chosen = axes_of(x, axes)
    if x.rank == 4 and chosen == (2, 3):
        return c.reshape(c.emit("adaptive_avg_pool2d", x, output_size=(1, 1)))
    return c.emit("mean", c.operand(x, "f32"), axes=chosen, keepdim=int(keepdim))


@lowers("mean.default")
def mean_of_all(c: Lowering, x: Ref) -> Ref:
    return mean(c, x, None, False)


@lowers("sum.dim_IntList")
def sum_(c: Lowering, x: Ref, axes: Any, keepdim: bool) -> Ref:
    """The mean times the number of elements."""
    chosen = axes_of(x, axes)
    count = dims.mul(*(x.shape[axis] for axis in chosen))
    if not isinstance(count, int):
        raise Unlowerable("a sum over an axis whose size is free")
    return c.emit("mul", mean(c, x, axes, keepdim), c.constant(float(count)))


@lowers("sum.default")
def sum_of_all(c: Lowering, x: Ref) -> Ref:
    return sum_(c, x, None, False)
