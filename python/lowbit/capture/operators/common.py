"""What several lowerings share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...graph import dims
from ...graph.ir import DTYPES, Dim
from ..builder import Ref, Unlowerable
from ..folding import FOLD_LIMIT
from ..lowering import Lowering

Number = int | float


def numbers(value: Any, count: int) -> tuple[int, ...]:
    """aten's one or `count` numbers as `count`."""
    items = list(value) if isinstance(value, tuple | list) else [value]
    return tuple(int(item) for item in (items * count if len(items) == 1 else items))


def pair(value: Any) -> tuple[int, int]:
    """aten's one or two numbers as two."""
    items = list(value) if isinstance(value, tuple | list) else [value]
    return (int(items[0]), int(items[-1]))


def frame(padding: Any) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a symmetric padding."""
    y, x = pair(padding)
    return (y, y, x, x)


def images(c: Lowering, x: Ref) -> Ref:
    """[C, H, W] as a batch of one."""
    return x if x.rank == 4 else c.reshape(x, (1, *x.shape))


def clip(c: Lowering, x: Ref, low: Number | Ref | Dim | None, high: Number | Ref | Dim | None) -> Ref:
    """x within bounds, which may be tensors."""
    if isinstance(low, Ref | str) or isinstance(high, Ref | str) or c.out_dtype() != "f32":
        x = x if low is None else binary(c, "maximum", x, low)
        return x if high is None else binary(c, "minimum", x, high)
    x = c.cast(x, "f32")
    low = None if low is None or low == -math.inf else float(low)
    high = None if high is None or high == math.inf else float(high)
    return x if low is None and high is None else c.emit("clip", x, min=low, max=high)


def part(c: Lowering, x: Ref, axis: int, start: Dim, length: Dim, step: int = 1) -> Ref:
    """x[start : start + length * step : step] on one axis, cut off where x ends."""
    end = dims.add(start, dims.mul(dims.sub(length, 1), step), 1)
    return c.emit("slice", x, axis=axis, start=start, stop=dims.maximum(end, 0), step=step)


def axes_of(x: Ref, axes: Any) -> tuple[int, ...]:
    """All of them if none are named."""
    named = [axes] if isinstance(axes, int) else list(axes or range(x.rank))
    return tuple(sorted(axis % max(x.rank, 1) for axis in named)) if x.rank else ()


_LOGIC = {"add": "or", "mul": "and", "maximum": "or", "minimum": "and"}


def binary(c: Lowering, op: str, a: Ref | Dim | float, b: Ref | Dim | float, dtype: str | None = None) -> Ref:
    """An operator between elements, computed in torch's result dtype; sums of bools are "or", products "and"."""
    dtype = dtype or c.out_dtype()
    if dtype == "bool":
        if op not in _LOGIC:
            raise Unlowerable(f"{op} of bools")
        return c.emit("logical", c.operand(a, dtype), c.operand(b, dtype), kind=_LOGIC[op])
    if dtype in ("u8", "s8"):  # as i32, then wrapped around
        return c.cast(c.emit(op, c.operand(a, "i32"), c.operand(b, "i32")), dtype)
    return c.emit(op, c.operand(a, dtype), c.operand(b, dtype))


def filled(c: Lowering, shape: Sequence[Dim], value: Ref | Dim | float, dtype: str) -> Ref:
    """A tensor of one value: a constant where the shape is fixed."""
    numbers = [size for size in shape if isinstance(size, int)]
    if len(numbers) == len(shape) and not isinstance(value, Ref | str) and math.prod(numbers) <= FOLD_LIMIT:
        return c.constant(np.full(numbers, value, dtype=DTYPES[dtype]))
    item = c.operand(value, dtype)
    return c.emit("expand", item, shape=tuple(shape)) if item.shape != tuple(shape) else item


_ORDER = ("bool", "u8", "s8", "i32", "i64", "f32")
_CATEGORY = {"bool": 0, "u8": 1, "s8": 1, "i32": 1, "i64": 1, "f32": 2}


def promoted(*operands: Ref | Dim | float) -> str:
    """torch's common dtype: numbers and tensors without axes count only where they are of a higher kind."""
    groups: list[list[str]] = [[], [], []]
    for item in operands:
        if isinstance(item, Ref):
            groups[0 if item.rank else 1].append(item.dtype)
        else:
            groups[2].append("bool" if isinstance(item, bool) else "f32" if isinstance(item, float) else "i64")
    result = ""
    for group in groups:
        if group:
            found = "i32" if {"u8", "s8"} <= set(group) else max(group, key=_ORDER.index)
            result = found if not result or _CATEGORY[found] > _CATEGORY[result] else result
    return result
