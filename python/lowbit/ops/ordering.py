"""Operators that compare elements along an axis. NaN is greater than all numbers; of equals the first is first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..graph import dims
from ..graph.ir import Array, Value
from .call import Call
from .spec import FLAG, Attr, Input, Op, choice, integer

_X = (Input(name="x", dtypes=("f32", "i64", "i32")),)
_AXIS = {"axis": integer(-8, 7)}
_TRUE = integer(0, 1, default=1)


def _infer_argmax(call: Call) -> Sequence[Value]:
    shape = call.shape(0)
    axis = call.axis(len(shape))
    kept = (*shape[:axis], *((1,) if call.attrs["keepdim"] else ()), *shape[axis + 1 :])
    call.need(shape[axis] != 0 or 0 in kept, "the axis is empty")
    return [Value(dtype="i64", shape=kept)]


def _argmax(call: Call) -> Sequence[Array]:
    x = call.array(0)
    function: Any = np.argmax if call.attrs["kind"] == "max" else np.argmin
    axis = call.axis(x.ndim)
    if x.size == 0:
        function = np.sum
    return [np.asarray(function(x, axis=axis, keepdims=bool(call.attrs["keepdim"])), dtype=np.int64)]


def _order(x: Array, axis: int, descending: bool) -> Array:
    """The stable order. A descending one turns the ranks of values around, not the order itself."""
    ranks = np.unique(x, return_inverse=True)[1].reshape(x.shape)  # NaN last, all of them alike
    return np.argsort(-ranks if descending else ranks, axis=axis, kind="stable")


def _infer_sort(call: Call) -> Sequence[Value]:
    call.axis(len(call.shape(0)))
    return [call.value(0), Value(dtype="i64", shape=call.shape(0))]


def _sorted(call: Call, descending: bool, count: int | None = None) -> Sequence[Array]:
    x = call.array(0)
    axis = call.axis(x.ndim)
    indices = np.take(_order(x, axis, descending), np.arange(x.shape[axis] if count is None else count), axis=axis)
    return [np.take_along_axis(x, indices, axis=axis), indices.astype(np.int64)]


def _infer_topk(call: Call) -> Sequence[Value]:
    shape, k = call.shape(0), call.attrs["k"]
    axis = call.axis(len(shape))
    call.at_least(dims.sub(shape[axis], k), 0, f"k is {k}, the axis has {shape[axis]}")
    result = (*shape[:axis], k, *shape[axis + 1 :])
    return [Value(dtype=call.value(0).dtype, shape=result), Value(dtype="i64", shape=result)]


OPS = (
    Op(
        name="argmax",
        note="gives i64: the first of equal ones; NaN is the extreme",
        inputs=_X,
        attrs={**_AXIS, "keepdim": FLAG, "kind": choice("max", "min", default="max")},
        infer_rule=_infer_argmax,
        reference_rule=_argmax,
    ),
    Op(
        name="sort",
        note="gives values and indices i64; stable, NaN is the greatest",
        inputs=_X,
        attrs={**_AXIS, "descending": FLAG},
        infer_rule=_infer_sort,
        reference_rule=lambda call: _sorted(call, bool(call.attrs["descending"])),
        outputs=2,
    ),
    Op(
        name="topk",
        note="as `sort`, the first k",
        inputs=_X,
        attrs={**_AXIS, "k": Attr(kind="dim", minimum=0, maximum=dims.LIMIT - 1), "largest": _TRUE},
        infer_rule=_infer_topk,
        reference_rule=lambda call: _sorted(call, bool(call.attrs["largest"]), call.attrs["k"]),
        outputs=2,
    ),
)
