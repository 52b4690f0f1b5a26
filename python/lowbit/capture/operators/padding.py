"""Padding, of every mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...graph import dims
from ...graph.ir import Condition, Dim
from ..builder import Ref
from ..lowering import Lowering
from ..registry import lowers
from .common import part


@lowers("pad")
def pad(c: Lowering, x: Ref, sides: Sequence[Dim], mode: str, value: float | None) -> Ref:
    """Sides come as pairs from the last axis on; a negative one crops."""
    frame: list[Dim] = [0] * (2 * x.rank)
    for position in range(len(sides) // 2):
        axis = x.rank - 1 - position
        frame[2 * axis : 2 * axis + 2] = sides[2 * position : 2 * position + 2]
    cropped = [_cropped(c, side) for side in frame]
    for axis in range(x.rank):
        begin, end = cropped[2 * axis : 2 * axis + 2]
        if begin or end:
            left = dims.sub(x.shape[axis], dims.add(begin, end))
            c.require("natural", left, "more is cropped than there is")
            x = part(c, x, axis, begin, left)
    padding = tuple(dims.add(side, less) for side, less in zip(frame, cropped, strict=True))
    if not any(padding):
        return x
    x, fill = c.operand(x, c.out_dtype()), 0.0 if value is None else float(value)
    if math.isfinite(fill):
        return c.emit("pad", x, padding=padding, value=fill, mode=mode)
    here = c.emit("expand", c.constant(np.ones((1,) * x.rank, np.bool_)), shape=x.shape)
    inside, padded = (c.emit("pad", it, padding=padding, value=0.0, mode=mode) for it in (here, x))
    return c.emit("where", inside, padded, c.constant(fill))


def _cropped(c: Lowering, side: Dim) -> Dim:
    """How much a side takes away: nothing where it is sure to add, and all of it where it is sure not to."""
    less = dims.sub(0, side)
    if c.limits.certain(Condition(kind="natural", size=side)):
        return 0
    return less if c.limits.certain(Condition(kind="natural", size=less)) else dims.maximum(less, 0)


@lowers("constant_pad_nd")
def constant_pad(c: Lowering, x: Ref, sides: Sequence[Dim], value: float) -> Ref:
    return pad(c, x, sides, "constant", value)


@lowers("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(c: Lowering, x: Ref, sides: Sequence[Dim]) -> Ref:
    return pad(c, x, sides, "reflect", None)


@lowers("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(c: Lowering, x: Ref, sides: Sequence[Dim]) -> Ref:
    return pad(c, x, sides, "replicate", None)


@lowers("_pad_circular")
def circular_pad(c: Lowering, x: Ref, sides: Sequence[Dim]) -> Ref:
    return pad(c, x, sides, "circular", None)


@lowers("_pad_enum")
def pad_enum(c: Lowering, x: Ref, sides: Sequence[Any], mode: int, value: float | None) -> Ref:
    return pad(c, x, sides, ("constant", "reflect", "replicate", "circular")[mode], value)
