"""What several lowerings share."""

from __future__ import annotations

import math
from typing import Any

from ... import dims
from ...ir import Dim
from ..lower import Lowering, Ref, Unlowerable

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


def clip(c: Lowering, x: Ref, low: Number | None, high: Number | None) -> Ref:
    if isinstance(low, Ref | str) or isinstance(high, Ref | str):
        raise Unlowerable("its bounds are computed, lowbit needs numbers")
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
