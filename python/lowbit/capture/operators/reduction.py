"""Sums, means, extremes and norms over axes; running sums; order along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...graph import dims
from ...graph.ir import Dim
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import Lowered, lowers
from .common import Number, axes_of, binary, part


def _reduce(c: Lowering, kind: str, x: Ref, axes: tuple[int, ...], keepdim: bool) -> Ref:
    """A reduction over no axes changes nothing."""
    return c.emit("reduce", x, kind=kind, axes=axes, keepdim=int(keepdim)) if axes else x


@lowers("mean.dim")
def mean(c: Lowering, x: Ref, axes: Any, keepdim: bool) -> Ref:
    """Over height and width of images it is a pool to 1 x 1."""
    chosen = axes_of(x, axes)
    if x.rank == 4 and chosen == (2, 3):
        pooled = c.emit("adaptive_avg_pool2d", c.operand(x, "f32"), output_size=(1, 1))
        return pooled if keepdim else c.reshape(pooled, x.shape[:2])
    return c.emit("mean", c.operand(x, "f32"), axes=chosen, keepdim=int(keepdim))


@lowers("mean.default")
def mean_of_all(c: Lowering, x: Ref) -> Ref:
    return mean(c, x, None, False)


@lowers("sum.dim_IntList")
def sum_(c: Lowering, x: Ref, axes: Any, keepdim: bool) -> Ref:
    return _reduce(c, "sum", c.cast(x, c.out_dtype()), axes_of(x, axes), keepdim)


@lowers("sum.default")
def sum_of_all(c: Lowering, x: Ref) -> Ref:
    return sum_(c, x, None, False)


@lowers("sum_to_size")
def sum_to_size(c: Lowering, x: Ref) -> Ref:
    """Over the axes that the result has not, or has as one."""
    shape = c.out_shape()
    lead = x.rank - len(shape)
    axes = (axis for axis in range(x.rank) if axis < lead or (shape[axis - lead] == 1 != x.shape[axis]))
    return c.reshape(_reduce(c, "sum", x, tuple(axes), True))


@lowers("prod.dim_int")
def prod(c: Lowering, x: Ref, axis: int, keepdim: bool) -> Ref:
    return _reduce(c, "prod", c.cast(x, c.out_dtype()), axes_of(x, axis), keepdim)


@lowers("prod.default")
def prod_of_all(c: Lowering, x: Ref) -> Ref:
    return _reduce(c, "prod", c.cast(x, c.out_dtype()), axes_of(x, None), False)


def _extreme(c: Lowering, kind: str, x: Ref, axes: tuple[int, ...], keepdim: bool) -> Ref:
    if x.dtype in ("f32", "i64", "i32"):
        return _reduce(c, kind, x, axes, keepdim)
    if x.dtype == "bool":
        return _reduce(c, "any" if kind == "max" else "all", x, axes, keepdim)
    return c.cast(_reduce(c, kind, c.cast(x, "i32"), axes, keepdim), x.dtype)


def _register_extreme(kind: str) -> None:
    lowers(f"a{kind}")(lambda c, x, axes, keepdim: _extreme(c, kind, x, axes_of(x, axes), keepdim))
    lowers(f"{kind}.default")(lambda c, x: _extreme(c, kind, x, axes_of(x, None), False))

    def with_indices(c: Lowering, x: Ref, axis: int, keepdim: bool) -> Lowered:
        values = _extreme(c, kind, x, axes_of(x, axis), keepdim)
        return values, _arg_extreme(c, kind, x, axis, keepdim)

    lowers(f"{kind}.dim")(with_indices)
    lowers(f"arg{kind}")(lambda c, x, axis, keepdim: _arg_extreme(c, kind, x, axis, keepdim))


def _arg_extreme(c: Lowering, kind: str, x: Ref, axis: int | None, keepdim: bool) -> Ref:
    number = x if x.dtype in ("f32", "i64", "i32") else c.cast(x, "i32")
    if axis is None or x.rank == 0:
        flat = c.reshape(number, (dims.mul(*x.shape),))
        return c.reshape(c.emit("argmax", flat, axis=0, kind=kind), (1,) * x.rank if keepdim else ())
    return c.emit("argmax", number, axis=c.axis(x, axis), keepdim=int(keepdim), kind=kind)


for _kind in ("max", "min"):
    _register_extreme(_kind)


@lowers("aminmax")
def aminmax(c: Lowering, x: Ref) -> Lowered:
    axis, keepdim = c.argument("dim", None), c.argument("keepdim", False)
    return tuple(_extreme(c, kind, x, axes_of(x, axis), keepdim) for kind in ("min", "max"))


def _register_quantifier(kind: str) -> None:
    lowers(f"{kind}.dim", f"{kind}.dims")(
        lambda c, x, axes, keepdim: _reduce(c, kind, c.cast(x, "bool"), axes_of(x, axes), keepdim)
    )
    lowers(f"{kind}.default")(lambda c, x: _reduce(c, kind, c.cast(x, "bool"), axes_of(x, None), False))


for _kind in ("any", "all"):
    _register_quantifier(_kind)


@lowers("count_nonzero")
def count_nonzero(c: Lowering, x: Ref, axes: Any = None) -> Ref:
    return _reduce(c, "sum", c.cast(c.cast(x, "bool"), "i64"), axes_of(x, axes), False)


# ---------------------------------------------------------------------------------------------------- spread and norms


def _register_spread(name: str) -> None:
    kind = name.removesuffix("_mean")

    def finish(c: Lowering, x: Ref, axes: Any, keepdim: bool, correction: float) -> Lowered:
        x, chosen, keep = c.operand(x, "f32"), axes_of(x, axes), int(keepdim)
        y = c.emit("reduce", x, kind=kind, axes=chosen, keepdim=keep, correction=float(correction))
        return y if name == kind else (y, c.emit("mean", x, axes=chosen, keepdim=keep))

    def corrected(c: Lowering, x: Ref, axes: Any) -> Lowered:
        correction = c.argument("correction", None)
        return finish(c, x, axes, c.argument("keepdim", False), 1 if correction is None else correction)

    lowers(f"{name}.correction")(corrected)
    lowers(f"{name}.dim")(lambda c, x, axes, unbiased, keepdim: finish(c, x, axes, keepdim, int(unbiased)))
    lowers(f"{name}.default")(lambda c, x, unbiased: finish(c, x, None, False, int(unbiased)))


for _name in ("var", "std", "var_mean", "std_mean"):
    _register_spread(_name)


def _norm(c: Lowering, x: Ref, p: Number | None, axes: tuple[int, ...], keepdim: bool) -> Ref:
    x = c.operand(x, "f32")
    p = 2 if p is None else p
    if p == 2:
        return c.emit("unary", _reduce(c, "sum", c.emit("mul", x, x), axes, keepdim), kind="sqrt")
    size = c.emit("unary", x, kind="abs")
    if math.isinf(p):
        return _reduce(c, "max" if p > 0 else "min", size, axes, keepdim)
    if p == 0:
        return _reduce(c, "sum", c.cast(c.cast(x, "bool"), "f32"), axes, keepdim)
    if p == 1:
        return _reduce(c, "sum", size, axes, keepdim)
    total = _reduce(c, "sum", c.emit("pow", size, c.constant(float(p))), axes, keepdim)
    return c.emit("pow", total, c.constant(1 / float(p)))


@lowers("linalg_vector_norm", "norm.ScalarOpt_dim")
def vector_norm(c: Lowering, x: Ref, p: Number | None, axes: Any, keepdim: bool) -> Ref:
    return _norm(c, x, p, axes_of(x, axes), keepdim)


@lowers("norm.Scalar", "norm.ScalarOpt_dtype")
def norm(c: Lowering, x: Ref, p: Number | None) -> Ref:
    return _norm(c, x, p, axes_of(x, None), False)


def _matrix_norm(c: Lowering, x: Ref, p: Any, axes: Sequence[int], keepdim: bool) -> Ref:
    """Frobenius' norm; the largest or smallest sum of a column (1) or row (infinity)."""
    x, (rows, columns) = c.operand(x, "f32"), (c.axis(x, axis) for axis in axes)
    if p in ("fro", None):
        return _norm(c, x, 2, tuple(sorted((rows, columns))), keepdim)
    if not isinstance(p, int | float) or abs(p) not in (1, math.inf):
        raise Unlowerable(f"the norm {p!r} of a matrix, which needs its singular values")
    summed, found = (rows, columns) if abs(p) == 1 else (columns, rows)
    sums = _reduce(c, "sum", c.emit("unary", x, kind="abs"), (summed,), True)
    y = _reduce(c, "max" if p > 0 else "min", sums, (found,), True)
    return y if keepdim else c.reshape(y)


@lowers("linalg_norm")
def linalg_norm(c: Lowering, x: Ref, p: Any, axes: Any, keepdim: bool) -> Ref:
    chosen = [axes] if isinstance(axes, int) else axes
    if p is not None and len(chosen if chosen is not None else range(x.rank)) == 2:
        return _matrix_norm(c, x, p, chosen or (0, 1), keepdim)
    return _norm(c, x, p, axes_of(x, axes), keepdim)


@lowers("linalg_matrix_norm")
def matrix_norm(c: Lowering, x: Ref, p: Any) -> Ref:
    return _matrix_norm(c, x, p, c.argument("dim", (-2, -1)), c.argument("keepdim", False))


@lowers("frobenius_norm")
def frobenius_norm(c: Lowering, x: Ref, axes: Any, keepdim: bool) -> Ref:
    return _norm(c, x, 2, axes_of(x, axes), keepdim)


@lowers("dist")
def dist(c: Lowering, a: Ref, b: Ref, p: Number) -> Ref:
    apart = binary(c, "sub", a, b, "f32")
    return _norm(c, apart, p, axes_of(apart, None), False)


@lowers("trapezoid.dx", "trapz.dx")
def trapezoid(c: Lowering, y: Ref, step: Number, axis: int) -> Ref:
    total = _reduce(c, "sum", _strips(c, y, axis), (c.axis(y, axis),), False)
    return c.emit("mul", total, c.constant(float(step)))


@lowers("trapezoid.x", "trapz.x")
def trapezoid_between(c: Lowering, y: Ref, x: Ref, axis: int) -> Ref:
    return _reduce(c, "sum", _strips_between(c, y, x, axis), (c.axis(y, axis),), False)


@lowers("cumulative_trapezoid.dx")
def cumulative_trapezoid(c: Lowering, y: Ref, step: Number, axis: int) -> Ref:
    total = c.emit("cumsum", _strips(c, y, axis), axis=c.axis(y, axis))
    return c.emit("mul", total, c.constant(float(step)))


@lowers("cumulative_trapezoid.x")
def cumulative_trapezoid_between(c: Lowering, y: Ref, x: Ref, axis: int) -> Ref:
    return c.emit("cumsum", _strips_between(c, y, x, axis), axis=c.axis(y, axis))


def _neighbours(c: Lowering, y: Ref, axis: int) -> tuple[Ref, Ref]:
    """Each element but the last, and the one after it."""
    y, axis = c.operand(y, "f32"), c.axis(y, axis)
    length = dims.sub(y.shape[axis], 1)
    return part(c, y, axis, 0, length), part(c, y, axis, 1, length)


def _strips(c: Lowering, y: Ref, axis: int) -> Ref:
    """The means of neighbours."""
    return c.emit("mul", c.emit("add", *_neighbours(c, y, axis)), c.constant(0.5))


def _strips_between(c: Lowering, y: Ref, x: Ref, axis: int) -> Ref:
    """Times the distances of their places."""
    if x.rank == 1:
        x = c.reshape(x, (*x.shape, *(1,) * (y.rank - 1 - c.axis(y, axis))))
    before, after = _neighbours(c, x, c.axis(y, axis) - (y.rank - x.rank))
    return c.emit("mul", _strips(c, y, axis), c.emit("sub", after, before))


@lowers("logsumexp", "special_logsumexp")
def logsumexp(c: Lowering, x: Ref, axes: Any, keepdim: bool) -> Ref:
    """max + log(sum(e^(x - max))), with a max that is no infinity."""
    chosen = axes_of(x, axes)
    largest = float(np.finfo(np.float32).max)
    top = c.emit("clip", _reduce(c, "max", x, chosen, True), min=-largest, max=largest)
    total = _reduce(c, "sum", c.emit("unary", c.emit("sub", x, top), kind="exp"), chosen, True)
    y = c.emit("add", top, c.emit("unary", total, kind="log"))
    return y if keepdim else c.reshape(y)


# ------------------------------------------------------------------------------------------------- along one axis


@lowers("cumsum")
def cumsum(c: Lowering, x: Ref, axis: int) -> Ref:
    return _cumulated(c, x, axis, "sum")


@lowers("cumprod")
def cumprod(c: Lowering, x: Ref, axis: int) -> Ref:
    return _cumulated(c, x, axis, "prod")


def _cumulated(c: Lowering, x: Ref, axis: int, kind: str) -> Ref:
    dtype = c.out_dtype()
    if x.rank == 0:
        return c.cast(x, dtype)
    total = c.emit("cumsum", c.cast(x, "f32" if dtype == "f32" else "i64"), axis=c.axis(x, axis), kind=kind)
    return c.cast(total, dtype)


@lowers("topk")
def topk(c: Lowering, x: Ref, k: Dim, axis: int, largest: bool) -> Lowered:
    if x.dtype not in ("f32", "i64", "i32"):
        raise Unlowerable(f"topk of {x.dtype}")
    return c.emit_all("topk", x, k=k, axis=c.axis(x, axis), largest=int(largest))


def ordered(c: Lowering, x: Ref, axis: int, descending: bool) -> tuple[Ref, Ref]:
    """Sorted values, and where they were; NaN last."""
    number = x if x.dtype in ("f32", "i64", "i32") else c.cast(x, "i32")
    values, indices = c.emit_all("sort", number, axis=c.axis(x, axis), descending=int(descending))
    return c.cast(values, x.dtype), indices


@lowers("sort.default")
def sort(c: Lowering, x: Ref, axis: int, descending: bool) -> Lowered:
    return ordered(c, x, axis, descending)


@lowers("sort.stable")
def sort_stable(c: Lowering, x: Ref, stable: bool, axis: int, descending: bool) -> Lowered:
    return ordered(c, x, c.argument("dim", -1), c.argument("descending", False))


@lowers("argsort")
def argsort(c: Lowering, x: Ref) -> Ref:
    return ordered(c, x, c.argument("dim", -1), c.argument("descending", False))[1]


@lowers("msort")
def msort(c: Lowering, x: Ref) -> Ref:
    return ordered(c, x, 0, False)[0]


def _register_running(kind: str) -> None:
    def running(c: Lowering, x: Ref, axis: int) -> Lowered:
        """The extreme so far, and where it was last: the greatest index of an element that equals it, or is NaN."""
        if x.rank == 0:
            return x, c.operand(0, "i64")
        axis = c.axis(x, axis)
        wide = x if x.dtype in ("f32", "i64") else c.cast(x, "i64")
        values = c.emit("cumsum", wide, axis=axis, kind=kind)
        differs = c.emit("compare", wide, values, kind="ne")
        if wide.dtype == "f32":
            number = c.emit("compare", wide, wide, kind="eq")
            differs = c.emit("logical", differs, number, kind="and")
        places = c.emit("arange", start=0, length=x.shape[axis], dtype="i64")
        along = c.reshape(places, (x.shape[axis], *(1,) * (x.rank - 1 - axis)))
        known = c.emit("where", differs, c.operand(0, "i64"), along)
        return c.cast(values, x.dtype), c.emit("cumsum", known, axis=axis, kind="max")

    lowers(f"cum{kind}")(running)


for _kind in ("max", "min"):
    _register_running(_kind)


@lowers("diff")
def diff(c: Lowering, x: Ref, n: int, axis: int, prepend: Ref | None, append: Ref | None) -> Ref:
    axis = c.axis(x, axis)
    parts = [c.cast(item, c.out_dtype()) for item in (prepend, x, append) if item is not None]
    y = parts[0] if len(parts) == 1 else c.emit("concat", *parts, axis=axis)
    for _ in range(n):
        length = dims.sub(y.shape[axis], 1)
        later, earlier = part(c, y, axis, 1, length), part(c, y, axis, 0, length)
        y = c.emit("logical", later, earlier, kind="xor") if y.dtype == "bool" else c.emit("sub", later, earlier)
    return y
