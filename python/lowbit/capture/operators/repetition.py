"""Elements repeated or in another order."""

from __future__ import annotations

from collections.abc import Sequence

from ...graph import dims
from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import part


@lowers("expand", "expand_as", "expand_copy", "broadcast_to")
def expand(c: Lowering, x: Ref) -> Ref:
    return expanded(c, x, c.out_shape())


def expanded(c: Lowering, x: Ref, shape: tuple[Dim, ...]) -> Ref:
    """x broadcast to a shape."""
    return x if x.shape == shape else c.emit("expand", x, shape=shape)


@lowers("broadcast_tensors")
def broadcast_tensors(c: Lowering, tensors: Sequence[Ref]) -> tuple[Ref, ...]:
    return tuple(expanded(c, item, c.out_shape(place)) for place, item in enumerate(tensors))


@lowers("copy")
def copy(c: Lowering, x: Ref, source: Ref) -> Ref:
    return expanded(c, c.cast(source, x.dtype), x.shape)


@lowers("repeat", "tile")
def repeat(c: Lowering, x: Ref, counts: Sequence[Dim]) -> Ref:
    """An axis of one is expanded; another gets an axis before it to expand, and is joined with that."""
    rank = max(x.rank, len(counts))
    shape: tuple[Dim, ...] = (*(1,) * (rank - x.rank), *x.shape)
    counts = (*(1,) * (rank - len(counts)), *counts)
    spread: list[Dim] = []
    target: list[Dim] = []
    for size, count in zip(shape, counts, strict=True):
        if size != 1 and count != 1:
            spread += [1, size]
            target += [count, size]
        else:
            spread.append(size)
            target.append(count if size == 1 else size)
    return c.reshape(expanded(c, c.reshape(x, tuple(spread)), tuple(target)))


@lowers("repeat_interleave.self_int")
def repeat_interleave(c: Lowering, x: Ref, count: Dim, axis: int | None) -> Ref:
    if axis is None:
        x, axis = c.reshape(x, (dims.mul(*x.shape),)), 0
    axis = c.axis(x, axis)
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    spread = c.reshape(x, (*before, size, 1, *after))
    return c.reshape(expanded(c, spread, (*before, size, count, *after)))


@lowers("repeat_interleave.Tensor", "repeat_interleave.self_Tensor")
def repeat_interleave_each(c: Lowering, x: Ref) -> Ref:
    raise Unlowerable("how many elements it returns depends on the values", "repeat by a number")


@lowers("roll")
def roll(c: Lowering, x: Ref, shifts: Sequence[Dim], axes: Sequence[int]) -> Ref:
    """The last `shift` elements go before the others."""
    y = x if axes else c.reshape(x, (dims.mul(*x.shape),))
    for shift, axis in zip(shifts, axes or [0], strict=True):
        axis = c.axis(y, axis)
        size = y.shape[axis]
        last = dims.mod(shift, size)
        if last == 0:
            continue
        first = dims.sub(size, last)
        y = c.emit("concat", part(c, y, axis, first, last), part(c, y, axis, 0, first), axis=axis)
    return c.reshape(y)


@lowers("flip", "fliplr", "flipud")
def flip(c: Lowering, x: Ref) -> Ref:
    default = {"fliplr": [1], "flipud": [0]}.get(str(c.node.target).split(".")[1])
    return flipped(c, x, default or c.argument("dims", []))


def flipped(c: Lowering, x: Ref, axes: Sequence[int]) -> Ref:
    """x backwards on each of these axes."""
    for axis in (c.axis(x, axis) for axis in axes):
        size = x.shape[axis]
        backwards = c.emit("arange", start=dims.sub(size, 1), length=size, step=-1, dtype="i64")
        x = c.emit("take", x, backwards, axis=axis)
    return x


@lowers("rot90")
def rot90(c: Lowering, x: Ref, turns: int, axes: Sequence[int]) -> Ref:
    """A quarter is a flip and an exchange of the axes, a half two flips."""
    a, b = (c.axis(x, axis) for axis in axes)
    turns %= 4
    if turns == 0:
        return x
    if turns == 2:
        return flipped(c, x, (a, b))
    perm = list(range(x.rank))
    perm[a], perm[b] = b, a
    y = x if turns == 3 else flipped(c, x, (b,))
    y = c.emit("transpose", y, perm=tuple(perm))
    return flipped(c, y, (b,)) if turns == 3 else y


@lowers("unfold", "unfold_copy")
def unfold(c: Lowering, x: Ref, axis: int, size: int, step: int) -> Ref:
    """Windows along an axis; their elements go to a new last axis."""
    axis = c.axis(x, axis)
    c.require("natural", dims.sub(x.shape[axis], size), "windows that are larger than the axis")
    starts = c.emit("arange", start=0, length=c.out_shape()[axis], step=int(step), dtype="i64")
    inside = c.emit("arange", start=0, length=size, dtype="i64")
    places = c.emit("add", c.reshape(starts, (*starts.shape, 1)), inside)
    windows = c.emit("take", x, places, axis=axis)
    perm = [place for place in range(windows.rank) if place != axis + 1]
    return windows if axis == x.rank - 1 else c.emit("transpose", windows, perm=(*perm, axis + 1))
