"""Max pools that also say where each maximum lies in its image [h * width + w], and what puts values back there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Array, Value, replace
from .call import Call
from .float import infer_adaptive
from .indexing import check_indices
from .spec import Input, Op, dim_list
from .windows import CONV_ATTRS, POOL_ATTRS, adaptive_edges, pool_shape, pool_windows


def _with_indices(value: Value) -> Sequence[Value]:
    return [value, replace(value, dtype="i64")]


def _first_maxima(x: Array, index: Array) -> tuple[Array, Array]:
    """Along the last axis the maximum and its index (-1: no element): the first of equal ones, the last NaN."""
    best = np.full(x.shape[:-1], -np.inf, x.dtype)
    place = np.full(x.shape[:-1], -1, np.int64)
    for k in range(x.shape[-1]):
        v, here = x[..., k], np.broadcast_to(index[..., k], place.shape)
        better = (here >= 0) & ((v > best) | np.isnan(v))
        place = np.where(better | ((place < 0) & (here >= 0)), here, place)
        best = np.where(better, v, best)
    return best, place


def _places(x: Array) -> Array:
    """The index of each pixel: [1, 1, height, width]."""
    return np.arange(x.shape[2] * x.shape[3], dtype=np.int64).reshape(1, 1, *x.shape[2:])


def _max_pool(call: Call) -> Sequence[Array]:
    x = call.array(0)
    values = np.stack(list(pool_windows(x, call.attrs, -np.inf)), -1)
    return _first_maxima(values, np.stack(list(pool_windows(_places(x), call.attrs, -1)), -1))


def _adaptive_max_pool(call: Call) -> Sequence[Array]:
    x, size, places = call.array(0), call.attrs["output_size"], _places(call.array(0))
    (top, bottom), (left, right) = (adaptive_edges(x.shape[2 + a], size[a]) for a in (0, 1))
    best, place = np.empty((*x.shape[:2], *size), x.dtype), np.empty((*x.shape[:2], *size), np.int64)
    for i in range(size[0]):
        for j in range(size[1]):
            window = (..., slice(top[i], bottom[i]), slice(left[j], right[j]))
            index = places[window].reshape(1, 1, -1)
            values = x[window].reshape(*x.shape[:2], index.size)
            best[..., i, j], place[..., i, j] = _first_maxima(values, index)
    return [best, place]


def _infer_unpool(call: Call) -> Sequence[Value]:
    shape = call.shape(0, rank=4)
    call.match(1, shape)
    return [Value(dtype="f32", shape=(*shape[:2], *call.attrs["output_size"]))]


def _max_unpool(call: Call) -> Sequence[Array]:
    x, (height, width) = call.array(0), call.attrs["output_size"]
    y = np.zeros((*x.shape[:2], height * width), x.dtype)
    indices = check_indices(call, call.array(1), 0, height * width)
    indices = indices.reshape(*x.shape[:2], x.shape[2] * x.shape[3])
    np.put_along_axis(y, indices, x.reshape(indices.shape), axis=2)
    return [y.reshape(*x.shape[:2], height, width)]


_X = Input(name="x")

OPS = (
    Op(
        name="max_pool2d_with_indices",
        note=(
            "gives y, and where in its image [height * width] each maximum lies (the first of equal ones, "
            "the last NaN; -1: no element)"
        ),
        inputs=(_X,),
        attrs={**POOL_ATTRS, "dilation": CONV_ATTRS["dilation"]},
        infer_rule=lambda call: _with_indices(Value(dtype="f32", shape=pool_shape(call))),
        reference_rule=_max_pool,
        outputs=2,
    ),
    Op(
        name="adaptive_max_pool2d_with_indices",
        note="gives the same two",
        inputs=(_X,),
        attrs={"output_size": dim_list(2, minimum=1)},
        infer_rule=lambda call: _with_indices(Value(dtype="f32", shape=infer_adaptive(call))),
        reference_rule=_adaptive_max_pool,
        outputs=2,
    ),
    Op(
        name="max_unpool2d",
        note="zeros, but x at its indices",
        inputs=(_X, Input(name="indices", dtypes=("i64",))),
        attrs={"output_size": dim_list(2, minimum=0)},
        infer_rule=_infer_unpool,
        reference_rule=_max_unpool,
    ),
)
