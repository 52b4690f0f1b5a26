"""Looking values up among others: by order (searchsorted), by presence (isin), by rank (quantile, kthvalue)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...graph import dims
from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import Lowered, lowers
from .arithmetic import is_nan
from .common import axes_of, part, promoted
from .reduction import ordered
from .repetition import expanded
from .shape import permute

Operand = Ref | Dim | float

# ------------------------------------------------------------------------------------------------- order and presence


def _place(c: Lowering, sorted_: Ref, x: Operand, right: bool) -> Ref:
    """How many of the boundaries [..., n] lie before each x [..., m]; all of them before NaN."""
    dtype = promoted(sorted_, x)
    x = c.operand(x, dtype)
    bounds = c.cast(sorted_, dtype)
    if bounds.rank > 1:
        bounds = c.reshape(bounds, (*bounds.shape[:-1], 1, bounds.shape[-1]))
    behind = c.emit("compare", bounds, c.reshape(x, (*x.shape, 1)), kind="gt" if right else "ge")
    before = c.cast(c.emit("logical_not", behind), "i64")
    return c.cast(c.emit("reduce", before, kind="sum", axes=(before.rank - 1,), keepdim=0), c.out_dtype())


@lowers("bucketize")
def bucketize(c: Lowering, x: Operand, boundaries: Ref) -> Ref:
    return _place(c, boundaries, x, bool(c.argument("right", False)))


@lowers("searchsorted")
def searchsorted(c: Lowering, boundaries: Ref, x: Operand) -> Ref:
    order = c.argument("sorter", None)
    if order is not None:
        boundaries = c.emit("gather", boundaries, order, axis=boundaries.rank - 1)
    right = bool(c.argument("right", False)) or c.argument("side", None) == "right"
    return _place(c, boundaries, x, right)


@lowers("isin")
def isin(c: Lowering, elements: Operand, among: Operand) -> Ref:
    dtype = promoted(elements, among)
    x, set_ = c.operand(elements, dtype), c.operand(among, dtype)
    flat = c.reshape(set_, (dims.mul(*set_.shape),))
    same = c.emit("compare", c.reshape(x, (*x.shape, 1)), flat, kind="eq")
    found = c.emit("reduce", same, kind="any", axes=(same.rank - 1,), keepdim=0)
    return c.emit("logical_not", found) if c.argument("invert", False) else found


# ----------------------------------------------------------------------------------------------------------------- rank


def _last(c: Lowering, x: Ref, axis: int | None) -> Ref:
    """The axis at the end; without one, all elements."""
    if axis is None or x.rank == 0:
        return c.reshape(x, (dims.mul(*x.shape),))
    axis = c.axis(x, axis)
    return permute(c, x, [*(place for place in range(x.rank) if place != axis), axis])


def _quantiles(c: Lowering, x: Ref, q: Operand, axis: int | None, skips: bool) -> Ref:
    """Between the two elements whose ranks are next to q (n - 1). skips: NaN is left out, else it is the answer."""
    x, q = _last(c, c.operand(x, "f32"), axis), c.operand(q, "f32")
    one = q.rank == 0
    q = c.reshape(q, (1,)) if one else q
    values, _ = ordered(c, x, x.rank - 1, False)
    nan = is_nan(c, x)
    count = c.emit("reduce", c.cast(nan, "i64"), kind="sum", axes=(x.rank - 1,), keepdim=1)
    size = c.operand(x.shape[-1], "i64")
    none = c.emit("compare", count, size if skips else c.operand(0, "i64"), kind="eq" if skips else "ne")
    last = c.emit("sub", c.emit("sub", size, count) if skips else size, c.operand(1, "i64"))
    last = c.emit("maximum", last, c.operand(0, "i64"))
    rank = c.emit("mul", q, c.cast(last, "f32"))
    shape = (*x.shape[:-1], q.shape[0])
    y = _interpolated(c, values, expanded(c, rank, shape), str(c.argument("interpolation", "linear")))
    y = c.emit("where", none, c.constant(float("nan")), y)
    front = permute(c, y, [y.rank - 1, *range(y.rank - 1)])
    return c.reshape(front)


def _interpolated(c: Lowering, values: Ref, rank: Ref, how: str) -> Ref:
    def at(kind: str) -> Ref:
        places = c.cast(c.emit("unary", rank, kind=kind), "i64")
        return c.emit("gather", values, places, axis=values.rank - 1)

    if how in ("lower", "higher", "nearest"):
        return at({"lower": "floor", "higher": "ceil", "nearest": "round"}[how])
    below, above = at("floor"), at("ceil")
    weight = c.emit("sub", rank, c.emit("unary", rank, kind="floor")) if how == "linear" else c.constant(0.5)
    apart = c.emit("sub", above, below)
    moved = c.emit("add", below, c.emit("mul", apart, weight))
    rest = c.emit("sub", above, c.emit("mul", apart, c.emit("sub", c.constant(1.0), weight)))
    moved = c.emit("where", c.emit("compare", weight, c.constant(0.5), kind="lt"), moved, rest)  # from the nearer one
    if how == "midpoint":
        whole = c.emit("compare", rank, c.emit("unary", rank, kind="floor"), kind="eq")
        return c.emit("where", whole, below, moved)
    return c.emit("where", c.emit("compare", weight, c.constant(0.0), kind="eq"), below, moved)


@lowers("quantile")
def quantile(c: Lowering, x: Ref, q: Operand, axis: int | None) -> Ref:
    return _quantiles(c, x, q, axis, False)


@lowers("nanquantile")
def nanquantile(c: Lowering, x: Ref, q: Operand, axis: int | None) -> Ref:
    return _quantiles(c, x, q, axis, True)


def _middle(c: Lowering, x: Ref, axis: int, skips: bool) -> tuple[Ref, Ref]:
    """The lower one of the two in the middle, and its place; NaN if there is one, or of what is left without it."""
    if x.rank == 0:
        return x, c.operand(0, "i64")
    axis = c.axis(x, axis)
    values, indices = ordered(c, x, axis, False)
    size = x.shape[axis]
    if x.dtype != "f32":
        middle = dims.floordiv(dims.sub(size, 1), 2)
        return part(c, values, axis, middle, 1), part(c, indices, axis, middle, 1)
    nan = c.emit("reduce", c.cast(is_nan(c, x), "i64"), kind="sum", axes=(axis,), keepdim=1)
    kept = c.emit("sub", c.operand(size, "i64"), nan)
    one, two = c.operand(1, "i64"), c.operand(2, "i64")
    place = c.emit("maximum", c.emit("floor_div", c.emit("sub", kept, one), two), c.operand(0, "i64"))
    if not skips:  # the first NaN comes after all numbers
        place = c.emit("where", c.emit("compare", nan, c.operand(0, "i64"), kind="gt"), kept, c.cast(place, "i64"))
    return c.emit("gather", values, place, axis=axis), c.emit("gather", indices, place, axis=axis)


def _register_median(name: str, skips: bool) -> None:
    def along(c: Lowering, x: Ref, axis: int, keepdim: bool) -> Lowered:
        values, indices = _middle(c, x, axis, skips)
        return c.reshape(values, c.out_shape(0)), c.reshape(indices, c.out_shape(0))

    lowers(f"{name}.dim")(along)
    lowers(f"{name}.default")(lambda c, x: c.reshape(_middle(c, _last(c, x, None), 0, skips)[0], ()))


_register_median("median", False)
_register_median("nanmedian", True)


@lowers("kthvalue")
def kthvalue(c: Lowering, x: Ref, k: Dim, axis: int, keepdim: bool) -> Lowered:
    if x.rank == 0:
        raise Unlowerable("kthvalue of a number")
    axis = c.axis(x, axis)
    items = (part(c, item, axis, dims.sub(k, 1), 1) for item in ordered(c, x, axis, False))
    values, indices = (c.reshape(item, c.out_shape(0)) for item in items)
    return values, indices


@lowers("mode")
def mode(c: Lowering, x: Ref, axis: int, keepdim: bool) -> Lowered:
    """The value that most elements equal, the smallest of several; where the last of them was."""
    y = _last(c, x, axis)
    values, indices = ordered(c, y, y.rank - 1, False)
    before, after = (c.reshape(values, (*values.shape[:-1], *pair)) for pair in ((y.shape[-1], 1), (1, y.shape[-1])))
    same = c.cast(c.emit("compare", before, after, kind="eq"), "i64")
    count = c.emit("reduce", same, kind="sum", axes=(same.rank - 1,), keepdim=0)
    first = c.emit("argmax", count, axis=count.rank - 1, keepdim=1)
    most = c.emit("reduce", count, kind="max", axes=(count.rank - 1,), keepdim=1)
    last = c.emit("sub", c.emit("add", first, most), c.operand(1, "i64"))
    found = (c.emit("gather", item, last, axis=item.rank - 1) for item in (values, indices))
    value, place = (c.reshape(item, c.out_shape(0)) for item in found)
    return value, place


# --------------------------------------------------------------------------------------------------------- without NaN


def _known(c: Lowering, x: Ref) -> Ref:
    """x with zeros for NaN."""
    return c.emit("where", is_nan(c, x), c.constant(0.0), x) if x.dtype == "f32" else x


@lowers("nansum")
def nansum(c: Lowering, x: Ref, axes: Sequence[int] | None, keepdim: bool) -> Ref:
    y = c.cast(_known(c, x), c.out_dtype())
    chosen = axes_of(y, axes)
    return c.emit("reduce", y, kind="sum", axes=chosen, keepdim=int(keepdim)) if chosen else y


@lowers("nanmean")
def nanmean(c: Lowering, x: Ref, axes: Sequence[int] | None, keepdim: bool) -> Ref:
    x = c.operand(x, "f32")
    chosen = axes_of(x, axes)
    count = c.cast(c.emit("logical_not", is_nan(c, x)), "f32")
    if not chosen:
        return x
    total, number = (
        c.emit("reduce", item, kind="sum", axes=chosen, keepdim=int(keepdim)) for item in (_known(c, x), count)
    )
    return c.emit("div", total, number)


@lowers("histc")
def histc(c: Lowering, x: Ref, bins: int, low: float, high: float) -> Ref:
    """How many elements lie in each of `bins` equal parts; the last one has its end, too."""
    x = c.reshape(c.operand(x, "f32"), (dims.mul(*x.shape), 1))
    a, b = c.constant(float(low)), c.constant(float(high))
    if low == high:
        a, b = (c.emit("reduce", x, kind=kind, axes=(0, 1)) for kind in ("min", "max"))
    share = c.emit("div", c.emit("sub", x, a), c.emit("sub", b, a))
    place = c.emit("unary", c.emit("mul", share, c.constant(float(bins))), kind="floor")
    last = c.emit("compare", x, b, kind="eq")
    place = c.emit("where", last, c.constant(float(bins - 1)), place)
    numbers = c.constant(np.arange(bins, dtype=np.float32))
    return c.emit("reduce", c.cast(c.emit("compare", place, numbers, kind="eq"), "f32"), kind="sum", axes=(0,))
