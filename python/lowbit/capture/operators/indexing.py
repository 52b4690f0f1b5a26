"""Reading and writing at computed places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...graph import dims
from ...graph.ir import DTYPES, Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import Lowered, lowers
from .common import filled, part


def _whole(c: Lowering, indices: Ref) -> Ref:
    return indices if indices.dtype in ("i64", "i32") else c.cast(indices, "i64")


@lowers("embedding")
def embedding(c: Lowering, weight: Ref, indices: Ref) -> Ref:
    return c.emit("take", weight, _whole(c, indices), axis=0)


_MODES = ("sum", "mean", "max")


@lowers("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    c: Lowering,
    weight: Ref,
    indices: Ref,
    offsets: Ref,
    by_frequency: bool,
    mode: int,
    sparse: bool,
    sample_weights: Ref | None,
    include_last: bool,
) -> Lowered:
    padding = c.argument("padding_idx", None)
    padding = -1 if padding is None else int(padding)
    if padding < 0 and "padding_idx" in str(c.node.target) and c.argument("padding_idx", None) is not None:
        padding += int(weight.shape[0])
    y = c.emit(
        "embedding_bag",
        weight,
        _whole(c, indices),
        _whole(c, offsets),
        sample_weights,
        mode=_MODES[mode],
        last=int(include_last),
        padding=padding,
    )
    return y, None, None, None


@lowers("index_select")
def index_select(c: Lowering, x: Ref, axis: int, indices: Ref) -> Ref:
    y = c.emit("take", x, _whole(c, indices), axis=c.axis(x, axis))
    return c.reshape(y)


@lowers("take")
def take(c: Lowering, x: Ref, indices: Ref) -> Ref:
    return c.emit("index", c.reshape(x, (dims.mul(*x.shape),)), _whole(c, indices), axis=0)


def _cut(c: Lowering, x: Ref, like: Ref, but: int) -> Ref:
    """x as far as `like` goes, on all axes but one."""
    for axis in range(x.rank):
        if axis != but and x.shape[axis] != like.shape[axis]:
            x = part(c, x, axis, 0, like.shape[axis])
    return x


@lowers("take_along_dim")
def take_along_dim(c: Lowering, x: Ref, indices: Ref, axis: int | None) -> Ref:
    """`gather` after both have the same sizes on the other axes; without an axis, of all elements."""
    if axis is None:
        x, indices = (c.reshape(item, (dims.mul(*item.shape),)) for item in (x, indices))
        return c.emit("gather", x, _whole(c, indices), axis=0)
    axis, shape = c.axis(x, axis), c.out_shape()
    wide = (*shape[:axis], x.shape[axis], *shape[axis + 1 :])
    x = x if x.shape == wide else c.emit("expand", x, shape=wide)
    indices = indices if indices.shape == shape else c.emit("expand", indices, shape=shape)
    return c.emit("gather", x, _whole(c, indices), axis=axis)


@lowers("masked_scatter")
def masked_scatter(c: Lowering, x: Ref, mask: Ref, source: Ref) -> Ref:
    """The n-th true element gets the n-th of the source."""
    shape, dtype = c.out_shape(), x.dtype
    mask = c.cast(mask, "bool")
    mask = mask if mask.shape == shape else c.emit("expand", mask, shape=shape)
    count = dims.mul(*shape)
    order = c.emit("cumsum", c.cast(c.reshape(mask, (count,)), "i64"), axis=0)
    before = c.emit("maximum", c.emit("sub", order, c.operand(1, "i64")), c.operand(0, "i64"))
    flat = c.reshape(c.cast(source, dtype), (dims.mul(*source.shape),))
    if source.shape != shape:  # where the mask is false, a place may lie behind the end
        last = c.emit("sub", c.operand(flat.shape[0], "i64"), c.operand(1, "i64"))
        reached = c.emit("minimum", before, last)
        before = c.emit("where", c.reshape(mask, (count,)), before, reached)
    return c.emit("where", mask, c.reshape(c.emit("take", flat, before, axis=0), shape), x)


@lowers("put")
def put(c: Lowering, x: Ref, indices: Ref, values: Ref, accumulate: bool) -> Ref:
    """Of all elements in one row."""
    flat = c.reshape(x, (dims.mul(*x.shape),))
    updates = c.reshape(c.cast(values, x.dtype), indices.shape)
    y = c.emit("index_put", flat, updates, _whole(c, indices), axis=0, reduce="add" if accumulate else "none")
    return c.reshape(y)


@lowers("gather")
def gather(c: Lowering, x: Ref, axis: int, indices: Ref) -> Ref:
    if x.rank == 0:
        return x
    axis = c.axis(x, axis)
    return c.emit("gather", _cut(c, x, indices, axis), _whole(c, indices), axis=axis)


# ------------------------------------------------------------------------------------------------------ x[a, :, b, ...]


def _expand_masks(c: Lowering, indices: Sequence[Ref | None]) -> list[Ref | None]:
    """Bool masks as the indices of their true elements; those must be known now."""
    found: list[Ref | None] = []
    for item in indices:
        if item is not None and _is_mask(item):
            mask = c.array(item, "a mask of elements to write to")
            found += [c.constant(places) for places in np.nonzero(mask)]
        else:
            found.append(None if item is None else _whole(c, item))
    return found


def _is_mask(item: Ref | None) -> bool:
    return item is not None and item.dtype in ("bool", "u8")


def _front(c: Lowering, x: Ref, indices: Sequence[Ref | None]) -> tuple[list[int], list[Ref], int]:
    """A permutation of x after which the indexed axes are adjacent, the indices, and the first axis of theirs.

    Indices with a slice between them put their axes first, as in NumPy.
    """
    places = [place for place, item in enumerate(indices) if item is not None]
    tensors = [item for item in indices if item is not None]
    adjacent = places == list(range(places[0], places[-1] + 1))
    if adjacent:
        return list(range(x.rank)), tensors, places[0]
    return [*places, *(axis for axis in range(x.rank) if axis not in places)], tensors, 0


def _permuted(c: Lowering, x: Ref, perm: Sequence[int]) -> Ref:
    return x if list(perm) == list(range(x.rank)) else c.emit("transpose", x, perm=tuple(perm))


@lowers("index.Tensor", "_unsafe_index.Tensor")
def index(c: Lowering, x: Ref, indices: Sequence[Ref | None]) -> Ref:
    found = _expand_masks(c, indices)
    if all(item is None for item in found):
        return x
    perm, tensors, axis = _front(c, x, found)
    return c.emit("index", _permuted(c, x, perm), *tensors, axis=axis)


@lowers("index_put", "_unsafe_index_put")
def index_put(c: Lowering, x: Ref, indices: Sequence[Ref | None], values: Ref, accumulate: bool) -> Ref:
    """With a single mask of x's own shape it is a choice: no size depends on it."""
    if len(indices) == 1 and _is_mask(indices[0]) and dims.mul(*values.shape) == 1 and not accumulate:
        mask = indices[0]
        assert mask is not None
        mask = c.reshape(mask, (*mask.shape, *(1,) * (x.rank - mask.rank)))
        return c.emit("where", c.cast(mask, "bool"), c.cast(c.reshape(values, ()), x.dtype), x)
    found = _expand_masks(c, indices)
    perm, tensors, axis = _front(c, x, found)
    moved = _permuted(c, x, perm)
    shape: tuple[Dim, ...] = c.emit("index", moved, *tensors, axis=axis).shape
    updates = c.cast(values, x.dtype)
    if updates.shape != shape:
        updates = c.emit("expand", updates, shape=shape)
    y = c.emit("index_put", moved, updates, *tensors, axis=axis, reduce="add" if accumulate else "none")
    return _permuted(c, y, [perm.index(axis) for axis in range(x.rank)])


# ----------------------------------------------------------------------------------------------------------- scattering


def _scattered(c: Lowering, x: Ref, axis: int, indices: Ref, updates: Ref, reduce: str) -> Ref:
    axis = c.axis(x, axis)
    updates = c.cast(_cut(c, _cut(c, updates, indices, -1), indices, -1), x.dtype)
    for place in range(x.rank):
        if place != axis and x.shape[place] != indices.shape[place]:
            raise Unlowerable("scattering by indices that are smaller than the tensor on another axis")
    return c.emit("scatter", x, _whole(c, indices), updates, axis=axis, reduce=reduce)


_REDUCE = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


@lowers("scatter.src", "scatter.reduce")
def scatter(c: Lowering, x: Ref, axis: int, indices: Ref, updates: Ref) -> Ref:
    return _scattered(c, x, axis, indices, updates, _REDUCE.get(c.argument("reduce", None), "none"))


@lowers("scatter.value", "scatter.value_reduce")
def scatter_value(c: Lowering, x: Ref, axis: int, indices: Ref, value: float) -> Ref:
    updates = filled(c, indices.shape, value, x.dtype)
    return _scattered(c, x, axis, indices, updates, _REDUCE.get(c.argument("reduce", None), "none"))


@lowers("scatter_add")
def scatter_add(c: Lowering, x: Ref, axis: int, indices: Ref, updates: Ref) -> Ref:
    return _scattered(c, x, axis, indices, updates, "add")


@lowers("scatter_reduce.two")
def scatter_reduce(c: Lowering, x: Ref, axis: int, indices: Ref, updates: Ref, reduce: str, include_self: bool) -> Ref:
    kind = "sum" if reduce == "mean" else reduce
    if not include_self:  # what is written to starts from the kind's neutral element
        reached = _scattered(c, _like(c, x, 0.0), axis, indices, _like(c, updates, 1.0), "max")
        x = c.emit("where", c.cast(reached, "bool"), _like(c, x, _NEUTRAL[kind]), x)
    y = _scattered(c, x, axis, indices, updates, _REDUCE[kind])
    if reduce != "mean":
        return y
    start = _like(c, x, 1.0)
    if not include_self:
        start = c.emit("sub", start, reached)
    count = _scattered(c, start, axis, indices, _like(c, updates, 1.0), "add")
    return c.emit("div", y, count) if y.dtype == "f32" else c.emit("floor_div", y, count)


_NEUTRAL = {"sum": 0, "prod": 1, "amax": -math.inf, "amin": math.inf}


def _like(c: Lowering, x: Ref, value: float) -> Ref:
    """x's shape and type, filled; infinities become the ends of whole numbers."""
    if x.dtype != "f32" and math.isinf(value):
        value = np.iinfo(DTYPES[x.dtype]).max if value > 0 else np.iinfo(DTYPES[x.dtype]).min
    return filled(c, x.shape, value, x.dtype)


@lowers("index_reduce")
def index_reduce(c: Lowering, x: Ref, axis: int, indices: Ref, updates: Ref, reduce: str, include_self: bool) -> Ref:
    """`scatter_reduce` by one index for each slice."""
    axis = c.axis(x, axis)
    along = c.reshape(_whole(c, indices), (*indices.shape, *(1,) * (x.rank - 1 - axis)))
    return scatter_reduce(c, x, axis, c.emit("expand", along, shape=updates.shape), updates, reduce, include_self)


@lowers("index_add", "index_copy")
def index_add(c: Lowering, x: Ref, axis: int, indices: Ref, updates: Ref) -> Ref:
    updates = c.cast(updates, x.dtype)
    alpha = c.argument("alpha", 1)
    if alpha != 1:
        updates = c.emit("mul", updates, c.operand(alpha, x.dtype))
    reduce = "add" if "add" in str(c.node.target) else "none"
    return c.emit("index_put", x, updates, _whole(c, indices), axis=c.axis(x, axis), reduce=reduce)


@lowers("index_fill")
def index_fill(c: Lowering, x: Ref, axis: int, indices: Ref, value: Ref | float) -> Ref:
    axis = c.axis(x, axis)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    updates = filled(c, shape, value, x.dtype)
    return c.emit("index_put", x, updates, _whole(c, indices), axis=axis)


@lowers("select_scatter")
def select_scatter(c: Lowering, x: Ref, updates: Ref, axis: int, index: Dim) -> Ref:
    axis = c.axis(x, axis)
    start = dims.add(x.shape[axis], index) if isinstance(index, int) and index < 0 else index
    updates = c.reshape(updates, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    return _replaced(c, x, updates, axis, start, 1)


@lowers("slice_scatter")
def slice_scatter(c: Lowering, x: Ref, updates: Ref, axis: int, start: Dim | None, stop: Dim | None, step: int) -> Ref:
    axis = c.axis(x, axis)
    first: Dim = 0 if start is None else start
    if isinstance(first, int) and first < 0:
        first = dims.maximum(0, dims.add(x.shape[axis], first))
    length = updates.shape[axis]
    if step != 1:
        places = c.emit("arange", start=first, length=length, step=int(step), dtype="i64")
        return c.emit("index_put", x, c.cast(updates, x.dtype), places, axis=axis)
    return _replaced(c, x, updates, axis, first, length)


def _replaced(c: Lowering, x: Ref, updates: Ref, axis: int, start: Dim, length: Dim) -> Ref:
    """What comes before, the updates, what comes after."""
    stop, size = dims.add(start, length), x.shape[axis]
    parts = [c.cast(updates, x.dtype)]
    if start != 0:
        parts.insert(0, part(c, x, axis, 0, start))
    if stop != size:
        parts.append(part(c, x, axis, stop, dims.sub(size, stop)))
    return parts[0] if len(parts) == 1 else c.emit("concat", *parts, axis=axis)


# -------------------------------------------------------------------------------------------------------------- refused


@lowers("as_strided", "as_strided_copy", "set", "resize")
def refused(c: Lowering) -> Ref:
    raise Unlowerable("it looks into a tensor's memory")


@lowers("unique_consecutive", "unique_dim", "_unique", "_unique2")
def unique(c: Lowering) -> Ref:
    raise Unlowerable("the size of its result depends on the inputs' values")
