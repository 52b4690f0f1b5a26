"""Operators that read or write at computed places. An index that is out of range raises InputError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..graph import dims
from ..graph.ir import DTYPES, Array, Dim, Value
from .call import Call, broadcast
from .spec import FLAG, SIZE, Input, Op, choice, describe, integer

ANY = tuple(DTYPES)
UPDATES: dict[str, np.ufunc | None] = {
    "none": None,
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}
_X = Input(name="x", dtypes=ANY)
_INDICES = Input(name="indices", dtypes=("i64", "i32"))
_AXIS = {"axis": integer(-8, 7)}
BAG_ATTRS = {"last": FLAG, "padding": integer(-1, SIZE, default=-1)}
_UPDATE = {**_AXIS, "reduce": choice(*UPDATES, default="none")}


def check_indices(call: Call, indices: Array, low: int, size: int) -> Array:
    """The indices as int64, all in [low, size)."""
    wrong = indices[(indices < low) | (indices >= size)]
    if wrong.size:
        raise InputError(f"{describe(call.node)}: index {wrong.flat[0]} is out of range for an axis of size {size}")
    return indices.astype(np.int64)


def _infer_take(call: Call) -> Sequence[Value]:
    shape = call.shape(0)
    axis = call.axis(len(shape))
    return [Value(dtype=call.value(0).dtype, shape=(*shape[:axis], *call.shape(1), *shape[axis + 1 :]))]


def _take(call: Call) -> Sequence[Array]:
    x = call.array(0)
    axis = call.axis(x.ndim)
    return [np.take(x, check_indices(call, call.array(1), 0, x.shape[axis]), axis=axis)]


def _match_but_axis(call: Call) -> tuple[Dim, ...]:
    """The shape of the indices, which is that of input 0 but for the axis."""
    shape, indices = call.shape(0), call.shape(1, rank=len(call.shape(0)))
    axis = call.axis(len(shape))
    for place, (size, index) in enumerate(zip(shape, indices, strict=True)):
        if place != axis:
            call.same(index, size, f"the indices do not fit input 0 on axis {place}")
    return indices


def _infer_gather(call: Call) -> Sequence[Value]:
    return [Value(dtype=call.value(0).dtype, shape=_match_but_axis(call))]


def _gather(call: Call) -> Sequence[Array]:
    x = call.array(0)
    axis = call.axis(x.ndim)
    return [np.take_along_axis(x, check_indices(call, call.array(1), 0, x.shape[axis]), axis=axis)]


def _update_dtypes(call: Call, position: int) -> None:
    dtype = call.value(0).dtype
    call.need(call.value(position).dtype == dtype, f"input {position} is {call.value(position).dtype}, input 0 {dtype}")
    known = call.attrs["reduce"] == "none" or dtype in ("f32", "i64", "i32")
    call.need(known, "only f32, i64 and i32 can be reduced")


def _put(call: Call, y: Array, places: Any, updates: Array) -> Sequence[Array]:
    """Updates y in order, so that of several updates of one place the last one counts."""
    function = UPDATES[call.attrs["reduce"]]
    if function is None:
        y[places] = updates
    else:
        function.at(y, places, updates)
    return [y]


def _infer_scatter(call: Call) -> Sequence[Value]:
    call.match(2, _match_but_axis(call))
    _update_dtypes(call, 2)
    return [call.value(0)]


def _scatter(call: Call) -> Sequence[Array]:
    x, updates = call.array(0), call.array(2)
    axis = call.axis(x.ndim)
    indices = check_indices(call, call.array(1), 0, x.shape[axis])
    places = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    places[axis] = indices
    return _put(call, x.copy(), tuple(places), updates)


def _index_result(call: Call, first: int) -> tuple[Dim, ...]:
    """Input 0's shape with the indexed axes replaced by the shape that the indices broadcast to."""
    shape = call.shape(0)
    axis, count = call.axis(len(shape)), len(call.values) - first
    call.need(axis + count <= len(shape), f"{count} indices from axis {axis} are more than {list(shape)} has")
    indices: tuple[Dim, ...] = ()
    for position in range(first, len(call.values)):
        indices = broadcast(call, indices, call.shape(position))
    return (*shape[:axis], *indices, *shape[axis + count :])


def _places(call: Call, first: int) -> tuple[Any, ...]:
    """The index expression; negative indices count from the end."""
    x = call.array(0)
    axis = call.axis(x.ndim)
    indices = [
        check_indices(call, call.array(position), -x.shape[axis + place], x.shape[axis + place])
        for place, position in enumerate(range(first, len(call.arrays)))
    ]
    return ((slice(None),) * axis) + tuple(indices)


def _infer_index_put(call: Call) -> Sequence[Value]:
    expected = _index_result(call, 2)
    call.match(1, expected)
    _update_dtypes(call, 1)
    return [call.value(0)]


def infer_bags(call: Call, indices: int, width: Dim) -> Sequence[Value]:
    """One row a bag; `last`: the offsets, input 2, end with the number of indices."""
    (count,), (offsets,) = call.shape(indices, rank=1), call.shape(2, rank=1)
    call.match(3, (count,))
    call.need(not call.is_present(3) or call.attrs["mode"] == "sum", "weights of samples go with the sum alone")
    bags = dims.sub(offsets, call.attrs["last"])
    call.at_least(bags, 0, "there is no offset")
    return [Value(dtype="f32", shape=(bags, width))]


def bags_of(call: Call, indices: Array) -> list[Array]:
    """For each bag the places of its indices, without those left out."""
    offsets = call.array(2).astype(np.int64)
    ends = offsets[1:] if call.attrs["last"] else np.append(offsets[1:], indices.size)[: offsets.size]
    starts = offsets[: ends.size]
    if offsets.size and (offsets[0] != 0 or (starts > ends).any() or offsets[-1] > indices.size):
        raise InputError(f"{describe(call.node)}: the offsets must rise from 0 to at most {indices.size}")
    kept = indices != call.attrs["padding"]
    bounds = zip(starts.tolist(), ends.tolist(), strict=True)
    return [start + np.flatnonzero(kept[start:end]) for start, end in bounds]


def _bags(call: Call) -> Sequence[Array]:
    table, weights, mode = call.array(0), call.optional(3), call.attrs["mode"]
    indices = check_indices(call, call.array(1), 0, table.shape[0])
    bags = bags_of(call, indices)
    rows = table[indices].astype(np.float64) * (1.0 if weights is None else weights[:, None])
    out = np.zeros((len(bags), table.shape[1]), np.float64)
    for bag, places in enumerate(bags):
        own = rows[places]
        if own.size:
            out[bag] = {"sum": own.sum(0), "mean": own.mean(0), "max": own.max(0)}[mode]
    return [out.astype(np.float32)]


OFFSETS = Input(name="offsets", dtypes=("i64", "i32"))
WEIGHTS = Input(name="weights", optional=True)
"""Of a bag's samples."""

OPS = (
    Op(
        name="embedding_bag",
        note=(
            "table [rows, width]; offsets: where bags begin, with last=1 the number of indices too; padding: "
            "an index left out"
        ),
        inputs=(
            Input(name="table"),
            _INDICES,
            OFFSETS,
            WEIGHTS,
        ),
        attrs={"mode": choice("sum", "mean", "max"), **BAG_ATTRS},
        infer_rule=lambda call: infer_bags(call, 1, call.shape(0, rank=2)[1]),
        reference_rule=_bags,
    ),
    Op(
        name="take",
        note="the axis is replaced by the indices' axes; indices from 0 on",
        inputs=(_X, _INDICES),
        attrs=_AXIS,
        infer_rule=_infer_take,
        reference_rule=_take,
    ),
    Op(
        name="gather",
        note="indices of x's shape but for the axis, from 0 on",
        inputs=(_X, _INDICES),
        attrs=_AXIS,
        infer_rule=_infer_gather,
        reference_rule=_gather,
    ),
    Op(
        name="index",
        note="indices broadcast; axis: the first of those indexed; negative indices count from the end",
        inputs=(_X, _INDICES),
        variadic=True,
        attrs=_AXIS,
        infer_rule=lambda call: [Value(dtype=call.value(0).dtype, shape=_index_result(call, 1))],
        reference_rule=lambda call: [call.array(0)[_places(call, 1)]],
    ),
    Op(
        name="scatter",
        note="indices as in `gather`, updates of their shape",
        inputs=(_X, _INDICES, Input(name="updates", dtypes=ANY)),
        attrs=_UPDATE,
        infer_rule=_infer_scatter,
        reference_rule=_scatter,
    ),
    Op(
        name="index_put",
        note="indices as in `index`",
        inputs=(_X, Input(name="updates", dtypes=ANY), _INDICES),
        variadic=True,
        attrs=_UPDATE,
        infer_rule=_infer_index_put,
        reference_rule=lambda call: _put(call, call.array(0).copy(), _places(call, 2), call.array(1)),
    ),
)
