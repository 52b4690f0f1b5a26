"""Recurrent layers: one direction of one layer over time, given the inputs' share of the gates for every step.

Those on codes (`quantized_`) multiply a weight's codes by those of the state, which each row gets anew at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..graph.ir import Array, Dim, Value, replace
from ..graph.weights import as_read
from .call import Call
from .float import sigmoid
from .spec import FLAG, Input, Op, choice, describe

F32, F64 = np.float32, np.float64
_LENGTHS_AT = {4: 5, 3: 4, 1: 3}
"""The position of the lengths, by the number of gates."""
MOST_CODE = 127


def _infer(call: Call, gates: int, states: int) -> tuple[list[Value], int]:
    """Outputs y [T, B, R], h [B, R] and, of two states, c [B, H]; and H. states: the position of h0.

    The last input, if present, is the lengths [B].
    """
    steps, batch, width = call.shape(0, rank=3)
    rows, outputs = call.fixed_shape(1, rank=2)
    hidden = rows // gates
    call.need(min(hidden, outputs) > 0 and rows % gates == 0, f"w_hh must have {gates} rows for each unit, has {rows}")
    call.same(width, rows, "the gates of a step and w_hh do not fit")
    shapes: list[tuple[Dim, ...]] = [(steps, batch, outputs), (batch, outputs)]
    if gates == 4:
        shapes.append((batch, hidden))
    for place, shape in enumerate(shapes[1:]):
        call.match(states + place, shape)
    call.match(_LENGTHS_AT[gates], (batch,))
    return [Value(dtype="f32", shape=shape) for shape in shapes], hidden


def _square(call: Call, gates: int, states: int) -> list[Value]:
    """Where the state is as wide as the layer."""
    values, hidden = _infer(call, gates, states)
    call.same(values[1].shape[-1], hidden, "w_hh must have a column for each unit")
    return values


def _infer_lstm(call: Call) -> Sequence[Value]:
    values, hidden = _infer(call, 4, 2)
    outputs = values[1].shape[-1]
    if call.is_present(4):
        call.match(4, (outputs, hidden))
        return values
    return _square(call, 4, 2)


def _infer_gru(call: Call) -> Sequence[Value]:
    call.match(2, call.fixed_shape(1, rank=2)[:1])
    return _square(call, 3, 3)


def _lengths(call: Call, gates: int) -> Array:
    """The steps of each sample, all of them where none are given. Raises InputError for one that is out of range."""
    steps, batch = call.array(0).shape[:2]
    lengths = call.optional(_LENGTHS_AT[gates])
    if lengths is None:
        return np.full(batch, steps)
    wrong = lengths[(lengths < 1) | (lengths > steps)]
    if wrong.size:
        raise InputError(f"{describe(call.node)}: the length {wrong[0]} of a sequence is not in 1 .. {steps}")
    return lengths


def _scan(
    call: Call, gates: int, step: Callable[[Array, list[Array]], list[Array]], states: list[Array]
) -> Sequence[Array]:
    """The states after each step; what is returned of a step is its first. Past its end, a sample keeps its states."""
    x, lengths = call.array(0).astype(F64), _lengths(call, gates)
    y = np.zeros((*x.shape[:2], states[0].shape[-1]), F32)
    order = range(len(x))
    for t in reversed(order) if call.attrs["reverse"] else order:
        runs = (t < lengths)[:, None]
        states = [np.where(runs, *pair) for pair in zip(step(x[t], states), states, strict=True)]
        y[t] = np.where(runs, states[0], 0)
    return [y, *(state.astype(F32) for state in states)]


def share_of(call: Call) -> Callable[[Array], Array]:
    """What makes the state's share of the gates [B, G H] of a state [B, R], both float64."""
    if not call.node.op.startswith("quantized_"):
        weight = call.array(1).astype(F64)
        return lambda state: state @ weight.T
    held = as_read(call.weight(1))
    codes = held.codes.astype(F64)

    def share(state: Array) -> Array:
        rows, scale = state_codes(state.astype(F32))
        return ((rows @ codes.T).astype(F32) * held.scales * scale[:, None]).astype(F64)

    return share


def _shape(call: Call) -> tuple[int, int]:
    """Of w_hh."""
    weight = call.arrays[1]
    assert weight is not None
    rows, outputs = weight.shape
    return rows, outputs


def state_codes(state: Array) -> tuple[Array, Array]:
    """Codes of rows [B, R] around zero, float64, and their scales f32 [B], NaN for rows that are not all finite."""
    with np.errstate(all="ignore"):
        scale = np.abs(state).max(axis=1, initial=0.0).astype(F32) / F32(MOST_CODE)
        scale = np.where(scale == 0, F32(1), np.where(np.isfinite(scale), scale, F32(np.nan)))
        scaled = state * (F32(1) / scale)[:, None]
    codes = np.rint(np.clip(np.where(np.isnan(scaled), F32(0), scaled), F32(-MOST_CODE), F32(MOST_CODE)))
    return codes.astype(F64), scale


def _state(call: Call, position: int, width: int) -> Array:
    state = call.optional(position)
    return np.zeros((call.array(0).shape[1], width), F64) if state is None else state.astype(F64)


def _lstm(call: Call) -> Sequence[Array]:
    (rows, outputs), share, projection = _shape(call), share_of(call), call.optional(4)

    def step(x: Array, states: list[Array]) -> list[Array]:
        i, f, g, o = np.split(x + share(states[0]), 4, axis=-1)
        c = sigmoid(f) * states[1] + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return [h if projection is None else h @ projection.astype(F64).T, c]

    return _scan(call, 4, step, [_state(call, 2, outputs), _state(call, 3, rows // 4)])


def _gru(call: Call) -> Sequence[Array]:
    share, bias = share_of(call), call.optional(2)

    def step(x: Array, states: list[Array]) -> list[Array]:
        hidden = share(states[0]) + (0 if bias is None else bias)
        (xr, xz, xn), (hr, hz, hn) = np.split(x, 3, axis=-1), np.split(hidden, 3, axis=-1)
        fresh = np.tanh(xn + sigmoid(xr + hr) * hn)
        return [fresh + sigmoid(xz + hz) * (states[0] - fresh)]

    return _scan(call, 3, step, [_state(call, 3, _shape(call)[1])])


def _rnn(call: Call) -> Sequence[Array]:
    share = share_of(call)
    function: Any = np.tanh if call.attrs["kind"] == "tanh" else lambda x: np.maximum(x, 0)
    states = [_state(call, 2, _shape(call)[1])]
    return _scan(call, 1, lambda x, states: [function(x + share(states[0]))], states)


_GATES, _WEIGHT = Input(name="gates"), Input(name="w_hh", constant=True)
_LENGTHS = Input(name="lengths", dtypes=("i64",), optional=True)
_H0, _C0 = Input(name="h0", optional=True), Input(name="c0", optional=True)

_FLOATS = (
    Op(
        name="lstm",
        note=(
            "gates [T, B, 4 H], w_hh [4 H, R], h0 [B, R], c0 [B, H], w_hr [R, H]; lengths [B], 1 to T: steps "
            "past a sample's end give zeros and leave its state. Gives y [T, B, R], h [B, R], c [B, H]"
        ),
        inputs=(_GATES, _WEIGHT, _H0, _C0, Input(name="w_hr", optional=True, constant=True), _LENGTHS),
        attrs={"reverse": FLAG},
        outputs=3,
        infer_rule=_infer_lstm,
        reference_rule=_lstm,
    ),
    Op(
        name="gru",
        note=("gates [T, B, 3 H], w_hh [3 H, H], h0 [B, H]; lengths as in `lstm`. Gives y [T, B, H], h [B, H]"),
        inputs=(_GATES, _WEIGHT, Input(name="b_hh", optional=True, constant=True), _H0, _LENGTHS),
        attrs={"reverse": FLAG},
        outputs=2,
        infer_rule=_infer_gru,
        reference_rule=_gru,
    ),
    Op(
        name="rnn",
        note="gates [T, B, H], w_hh [H, H]; else as `gru`",
        inputs=(_GATES, _WEIGHT, _H0, _LENGTHS),
        attrs={"kind": choice("tanh", "relu"), "reverse": FLAG},
        outputs=2,
        infer_rule=lambda call: _square(call, 1, 2),
        reference_rule=_rnn,
    ),
)
CODED = tuple(
    replace(
        op,
        name=f"quantized_{op.name}",
        note=f"`{op.name}` on codes of w_hh and of its states; numerics.md has the equation",
        inputs=(_GATES, replace(_WEIGHT, weight=True), *op.inputs[2:]),
    )
    for op in _FLOATS
)
OPS = (*_FLOATS, *CODED)
"""gates: LSTM [i f g o], GRU [r z n] (its b_hh stays apart, because r multiplies the state's share), RNN one.

lengths: how many of the steps each sample has, 1 to T; past its end it gives zeros, and backward it begins there."""
