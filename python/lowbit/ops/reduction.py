"""Reductions over axes, and running ones. Floats are summed and multiplied in float64 and rounded once.

A variance takes two passes: the mean, then the squares of what elements differ from it by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..graph.ir import Array, Value
from .call import Call, reduced_axes
from .spec import FLAG, SIZE, Input, Op, choice, integer, integers, number

KINDS: dict[str, Callable[..., Any]] = {
    "sum": np.sum,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
    "any": np.any,
    "all": np.all,
}
_SPREAD: dict[str, Callable[..., Any]] = {"var": np.asarray, "std": np.sqrt}
"""What is made of a variance."""
_RUNNING: dict[str, Callable[..., Any]] = {
    "sum": np.cumsum,
    "prod": np.cumprod,
    "max": np.maximum.accumulate,
    "min": np.minimum.accumulate,
}


def _infer_reduce(call: Call) -> Sequence[Value]:
    shape, dtype, kind = call.shape(0), call.value(0).dtype, call.attrs["kind"]
    call.need((dtype == "bool") == (kind in ("any", "all")), f"{kind} is not defined for {dtype}")
    call.need(kind not in _SPREAD or dtype == "f32", f"{kind} is not defined for {dtype}")
    axes = reduced_axes(call, len(shape))
    kept = [1 if axis in axes else size for axis, size in enumerate(shape) if call.attrs["keepdim"] or axis not in axes]
    empty = any(shape[axis] == 0 for axis in axes) and 0 not in kept
    call.need(not empty or kind not in ("max", "min"), f"there is no {kind} of no elements")
    return [Value(dtype=dtype, shape=tuple(kept))]


def _wide(call: Call) -> dict[str, Any]:
    """The type to compute in, where it matters."""
    x = call.array(0)
    return {"dtype": np.float64 if x.dtype.kind == "f" else x.dtype}


def _reduce(call: Call) -> Sequence[Array]:
    x, kind = call.array(0), call.attrs["kind"]
    axes, keep = reduced_axes(call, x.ndim), bool(call.attrs["keepdim"])
    if kind in _SPREAD:
        with np.errstate(all="ignore"):
            return [np.asarray(_SPREAD[kind](_variance(x, axes, keep, call.attrs["correction"])), dtype=x.dtype)]
    dtype = _wide(call) if kind in ("sum", "prod") else {}
    return [np.asarray(KINDS[kind](x, axis=axes, keepdims=keep, **dtype), dtype=x.dtype)]


def _variance(x: Array, axes: tuple[int, ...], keep: bool, correction: float) -> Array:
    """sum((x - mean)^2) / max(count - correction, 0) in float64: NaN of a single element and a correction of 1."""
    count = math.prod(x.shape[axis] for axis in axes)
    mean = x.sum(axis=axes, keepdims=True, dtype=np.float64) / count
    total = np.square(x - mean).sum(axis=axes, keepdims=keep)
    return np.asarray(total / np.float64(max(count - correction, 0.0)))


def _infer_cumsum(call: Call) -> Sequence[Value]:
    call.axis(len(call.shape(0)))
    return [call.value(0)]


def _cumsum(call: Call) -> Sequence[Array]:
    x, kind = call.array(0), call.attrs["kind"]
    wide = _wide(call) if kind in ("sum", "prod") else {}
    return [_RUNNING[kind](x, axis=call.attrs["axis"], **wide).astype(x.dtype)]


OPS = (
    Op(
        name="reduce",
        note="all and any of bool, var and std of f32: divided by the count less correction",
        inputs=(Input(name="x", dtypes=("f32", "i64", "i32", "bool")),),
        attrs={
            "kind": choice(*KINDS, *_SPREAD),
            "axes": integers(None, -SIZE),
            "keepdim": FLAG,
            "correction": number(default=0.0),
        },
        infer_rule=_infer_reduce,
        reference_rule=_reduce,
    ),
    Op(
        name="cumsum",
        note="running, along the axis",
        inputs=(Input(name="x", dtypes=("f32", "i64")),),
        attrs={"axis": integer(-8, 7), "kind": choice(*_RUNNING, default="sum")},
        infer_rule=_infer_cumsum,
        reference_rule=_cumsum,
    ),
)
