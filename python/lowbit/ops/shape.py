"""Operators that move elements, or change their type, and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import dims
from ..graph.ir import DTYPES, Array, Dim, Value
from .call import Call, broadcast
from .spec import FLAG, SIZE, SIZE_OR_NUMBER, Attr, Input, Op, choice, dim_list, integer, integers, number

ANY = tuple(DTYPES)
_DIM = Attr(kind="dim", minimum=0, maximum=dims.LIMIT - 1)


def _infer_reshape(call: Call) -> Sequence[Value]:
    shape = tuple(dims.simplify(size) for size in call.attrs["shape"])
    call.same(
        dims.mul(*call.shape(0)),
        dims.mul(*shape),
        f"{list(call.shape(0))} does not reshape to {list(shape)}, the numbers of elements differ",
    )
    return [Value(dtype=call.value(0).dtype, shape=shape)]


def _infer_expand(call: Call) -> Sequence[Value]:
    shape = tuple(call.attrs["shape"])
    together = broadcast(call, call.shape(0), shape)
    same = len(together) == len(shape) and all(map(call.equal, together, shape))
    call.need(same, f"{list(call.shape(0))} does not expand to {list(shape)}")
    return [Value(dtype=call.value(0).dtype, shape=shape)]


def _triangle(call: Call) -> Sequence[Array]:
    x, diagonal = call.array(0), call.attrs["diagonal"]
    return [np.triu(x, diagonal) if call.attrs["upper"] else np.tril(x, diagonal)]


def _infer_triangle(call: Call) -> Sequence[Value]:
    call.need(len(call.shape(0)) >= 2, f"the input must have at least two axes, has shape {list(call.shape(0))}")
    return [call.value(0)]


def _infer_transpose(call: Call) -> Sequence[Value]:
    shape, perm = call.shape(0), call.attrs["perm"]
    call.need(sorted(perm) == list(range(len(shape))), f"perm {list(perm)} is no permutation of {len(shape)} axes")
    return [Value(dtype=call.value(0).dtype, shape=tuple(shape[axis] for axis in perm))]


def _infer_pad(call: Call) -> Sequence[Value]:
    shape, padding, dtype = call.shape(0), call.attrs["padding"], call.value(0).dtype
    value, mode = call.attrs["value"], call.attrs["mode"]
    call.need(
        len(padding) == 2 * len(shape), f"padding has {len(padding)} items, rank {len(shape)} needs {2 * len(shape)}"
    )
    low, high = (0, 1) if dtype == "bool" else (-(2**31), 2**31 - 1) if dtype == "i64" else _range_of(dtype)
    call.need(dtype == "f32" or (value == int(value) and low <= value <= high), f"{value} is no {dtype}")
    for axis, size in enumerate(shape):
        for side in padding[2 * axis : 2 * axis + 2]:
            if mode == "constant" or side == 0:
                continue
            call.at_least(dims.sub(_widest(mode, size), side), 0, f"mode {mode} cannot add {side} to {size} elements")
    padded = [dims.add(size, padding[2 * axis], padding[2 * axis + 1]) for axis, size in enumerate(shape)]
    return [Value(dtype=dtype, shape=tuple(padded))]


def _range_of(dtype: str) -> tuple[int, int]:
    if dtype not in ("u8", "s8", "i32"):
        return 0, 0
    info = np.iinfo(DTYPES[dtype])
    return int(info.min), int(info.max)


def _widest(mode: str, size: Dim) -> Dim:
    """The most that a mode other than constant can add on one side."""
    if mode == "replicate":
        return dims.mul(dims.minimum(size, 1), SIZE)
    return dims.sub(size, 1) if mode == "reflect" else size


_NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(call: Call) -> Sequence[Array]:
    x, padding, mode = call.array(0), call.attrs["padding"], call.attrs["mode"]
    pairs = list(zip(padding[::2], padding[1::2], strict=True))
    call.need(all(side >= 0 for side in padding), f"padding {list(padding)} has a negative side")
    if mode == "constant":
        return [np.pad(x, pairs, constant_values=x.dtype.type(call.attrs["value"])) if pairs else x]
    for axis, pair in enumerate(pairs):
        widest = dims.evaluate(_widest(mode, x.shape[axis]), {})
        call.need(
            not any(pair) or max(pair) <= widest, f"mode {mode} cannot add {max(pair)} to {x.shape[axis]} elements"
        )
        if any(pair):  # NumPy refuses an axis of no elements even where nothing is added to it
            sides = [pair if other == axis else (0, 0) for other in range(x.ndim)]
            x = np.pad(x, sides, mode=_NUMPY_MODES[mode])  # type: ignore[call-overload]
    return [x]


def _infer_concat(call: Call) -> Sequence[Value]:
    first = call.shape(0)
    axis = call.axis(len(first))
    total = first[axis]
    for position in range(1, len(call.values)):
        shape = call.shape(position, rank=len(first))
        call.need(
            call.value(position).dtype == call.value(0).dtype,
            f"input {position} is {call.value(position).dtype}, input 0 {call.value(0).dtype}",
        )
        for place, size in enumerate(shape):
            if place != axis:
                call.same(size, first[place], f"input {position} does not fit input 0 on axis {place}")
        total = dims.add(total, shape[axis])
    return [Value(dtype=call.value(0).dtype, shape=(*first[:axis], total, *first[axis + 1 :]))]


def _infer_slice(call: Call) -> Sequence[Value]:
    shape = list(call.shape(0))
    axis, step = call.axis(len(shape)), call.attrs["step"]
    start = dims.minimum(call.attrs["start"], shape[axis])
    stop = dims.maximum(start, dims.minimum(call.attrs["stop"], shape[axis]))
    call.at_least(start, 0, f"start {start} is negative")
    shape[axis] = dims.floordiv(dims.add(stop, dims.mul(-1, start), step - 1), step)
    return [Value(dtype=call.value(0).dtype, shape=tuple(shape))]


def _slice(call: Call) -> Sequence[Array]:
    x, attrs = call.array(0), call.attrs
    axis = attrs["axis"] % x.ndim
    call.need(attrs["start"] >= 0 and attrs["stop"] >= 0, f"start {attrs['start']} or stop {attrs['stop']} is negative")
    return [x[(slice(None),) * axis + (slice(attrs["start"], attrs["stop"], attrs["step"]),)]]


def _cast(call: Call) -> Sequence[Array]:
    x, target = call.array(0), DTYPES[call.attrs["dtype"]]
    if x.dtype.kind == "f" and target.kind in "iu":
        info = np.iinfo(target)  # towards zero, saturating; NaN gives 0: defined where a C cast is not
        wide = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
        inside = np.where((wide > info.min) & (wide < info.max), wide, 0.0).astype(target)
        return [np.where(wide >= info.max, info.max, np.where(wide <= info.min, info.min, inside)).astype(target)]
    return [x.astype(target)]


_X = (Input(name="x", dtypes=ANY),)

OPS = (
    Op(
        name="reshape",
        inputs=_X,
        attrs={"shape": dim_list()},
        infer_rule=_infer_reshape,
        reference_rule=lambda call: [call.array(0).reshape(call.attrs["shape"])],
    ),
    Op(
        name="expand",
        note="shape: what x broadcasts to",
        inputs=_X,
        attrs={"shape": dim_list()},
        infer_rule=_infer_expand,
        reference_rule=lambda call: [np.broadcast_to(call.array(0), call.attrs["shape"])],
    ),
    Op(
        name="triangle",
        note="the other side of the last two axes' diagonal becomes zero",
        inputs=_X,
        attrs={"diagonal": SIZE_OR_NUMBER, "upper": FLAG},
        infer_rule=_infer_triangle,
        reference_rule=_triangle,
    ),
    Op(
        name="transpose",
        inputs=_X,
        attrs={"perm": integers(None, 0)},
        infer_rule=_infer_transpose,
        reference_rule=lambda call: [call.array(0).transpose(call.attrs["perm"])],
    ),
    Op(
        name="pad",
        note="padding: begin and end of each axis",
        inputs=(Input(name="x", dtypes=("f32", "u8", "s8", "i32", "i64", "bool")),),
        attrs={
            "padding": dim_list(minimum=0),
            "value": number(default=0.0),
            "mode": choice("constant", *_NUMPY_MODES, default="constant"),
        },
        infer_rule=_infer_pad,
        reference_rule=_pad,
    ),
    Op(
        name="concat",
        note="inputs of one type",
        inputs=_X,
        variadic=True,
        attrs={"axis": integer()},
        infer_rule=_infer_concat,
        reference_rule=lambda call: [
            np.concatenate([x for x in call.arrays if x is not None], axis=call.attrs["axis"])
        ],
    ),
    Op(
        name="slice",
        inputs=_X,
        attrs={"axis": integer(), "start": _DIM, "stop": _DIM, "step": integer(1, SIZE, default=1)},
        infer_rule=_infer_slice,
        reference_rule=_slice,
    ),
    Op(
        name="cast",
        note="to integers: towards zero, what is too large becomes the nearest, NaN 0",
        inputs=_X,
        attrs={"dtype": choice(*DTYPES)},
        infer_rule=lambda call: [Value(dtype=call.attrs["dtype"], shape=call.shape(0))],
        reference_rule=_cast,
    ),
)
