"""Tensors made from sizes and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...graph import dims
from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import binary, filled

Operand = Ref | Dim | float


@lowers("arange.default")
def arange(c: Lowering, end: Operand) -> Ref:
    return arange_start_step(c, 0, end, 1)


@lowers("arange.start")
def arange_start(c: Lowering, start: Operand, end: Operand) -> Ref:
    return arange_start_step(c, start, end, 1)


@lowers("arange.start_step")
def arange_start_step(c: Lowering, start: Operand, end: Operand, step: Operand) -> Ref:
    """Integers start and step in the node itself; otherwise they scale the numbers 0, 1, 2 ..."""
    if isinstance(start, Ref) or isinstance(step, Ref):
        raise Unlowerable("its bounds depend on the values of tensors")
    length, dtype = c.out_shape()[0], c.out_dtype()
    if isinstance(start, int | str) and isinstance(step, int):
        whole = dtype if dtype in ("i64", "i32") else "i64"
        return c.cast(c.emit("arange", start=start, length=length, step=step, dtype=whole), dtype)
    numbers = c.cast(c.emit("arange", start=0, length=length, dtype="i64"), dtype)
    return binary(c, "add", binary(c, "mul", numbers, step), start)


def _register_filled(value: int, *names: str) -> None:
    lowers(*names)(lambda c: filled(c, c.out_shape(), value, c.out_dtype()))


_register_filled(0, "zeros", "zeros_like", "new_zeros", "zero", "empty", "empty_like", "new_empty", "empty_strided")
_register_filled(1, "ones", "ones_like", "new_ones")


@lowers("full", "full_like", "fill")
def full(c: Lowering, like: Any, value: Operand) -> Ref:
    return filled(c, c.out_shape(), value, c.out_dtype())


@lowers("new_full")
def new_full(c: Lowering, like: Ref, shape: Sequence[Dim], value: Operand) -> Ref:
    return filled(c, c.out_shape(), value, c.out_dtype())


@lowers("scalar_tensor")
def scalar_tensor(c: Lowering, value: Operand) -> Ref:
    return filled(c, (), value, c.out_dtype())


@lowers("eye")
def eye(c: Lowering) -> Ref:
    rows, columns = c.out_shape()
    a, b = (c.emit("arange", start=0, length=size, dtype="i64") for size in (rows, columns))
    return c.cast(c.emit("compare", c.reshape(a, (rows, 1)), b, kind="eq"), c.out_dtype())


@lowers("one_hot")
def one_hot(c: Lowering, x: Ref, classes: Dim) -> Ref:
    if classes == -1:
        raise Unlowerable("the number of classes depends on the values", "pass num_classes to one_hot")
    numbers = c.emit("arange", start=0, length=classes, dtype=x.dtype)
    return c.cast(c.emit("compare", c.reshape(x, (*x.shape, 1)), numbers, kind="eq"), "i64")


@lowers("tril")
def tril(c: Lowering, x: Ref, diagonal: Dim) -> Ref:
    return c.emit("triangle", x, diagonal=diagonal, upper=0)


@lowers("triu")
def triu(c: Lowering, x: Ref, diagonal: Dim) -> Ref:
    return c.emit("triangle", x, diagonal=diagonal, upper=1)


@lowers("meshgrid")
def meshgrid(c: Lowering, tensors: Sequence[Ref]) -> tuple[Ref, ...]:
    """Each tensor along an axis of its own; with "xy" the first two axes are swapped."""
    order = list(range(len(tensors)))
    if c.argument("indexing", "ij") == "xy" and len(tensors) > 1:
        order[:2] = [1, 0]
    shape = c.out_shape(0)
    outputs = []
    for position, item in enumerate(tensors):
        size = dims.mul(*item.shape)
        along = tuple(size if axis == order[position] else 1 for axis in range(len(tensors)))
        outputs.append(c.emit("expand", c.reshape(item, along), shape=shape))
    return tuple(outputs)
