"""Recurrent layers: of each cell a linear layer over all steps (which can be quantized), then the scan over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..builder import Ref
from ..lowering import Lowering
from ..registry import Lowered, lowers
from .common import part
from .shape import permute

_KINDS: dict[str, dict[str, Any]] = {
    "lstm": {"op": "lstm"},
    "gru": {"op": "gru"},
    "rnn_tanh": {"op": "rnn", "kind": "tanh"},
    "rnn_relu": {"op": "rnn", "kind": "relu"},
}


def _scan(
    c: Lowering,
    kind: str,
    x: Ref,
    states: Sequence[Ref],
    params: Sequence[Ref],
    has_biases: bool,
    reverse: bool,
    lengths: Ref | None = None,
) -> tuple[Ref, ...]:
    """One direction of one layer: x [T, B, I], lengths [B]; y [T, B, R] and the last states [B, R], [B, H]."""
    w_ih, w_hh, *rest = params
    b_ih, b_hh = rest[:2] if has_biases else (None, None)
    for weight in params:
        c.array(weight, "a weight of a recurrent layer")
    bias = b_ih
    if kind != "gru" and b_ih is not None and b_hh is not None:
        bias = c.constant(c.array(b_ih, "") + c.array(b_hh, ""), f"{b_ih.name}.sum")
    gates = c.emit("linear", x, w_ih, bias)
    h0 = states[0] if states else None
    attrs = {**_KINDS[kind], "reverse": int(reverse)}
    op = attrs.pop("op")
    if op == "lstm":
        projection = rest[-1] if len(rest) % 2 else None
        return c.emit_all(op, gates, w_hh, h0, states[1] if states else None, projection, lengths, **attrs)
    return c.emit_all(op, gates, w_hh, *((b_hh, h0) if op == "gru" else (h0,)), lengths, **attrs)


def _layers(c: Lowering, kind: str, x: Ref, states: Sequence[Ref], params: Sequence[Ref], options: Any) -> Lowered:
    """All layers and directions; the last states are stacked as torch does, layer by layer, forward before backward."""
    has_biases, num_layers, _, _, bidirectional, batch_first, lengths = options
    directions = 2 if bidirectional else 1
    each = len(params) // (num_layers * directions)
    y = permute(c, x, (1, 0, 2)) if batch_first else x
    ends: list[tuple[Ref, ...]] = []
    for layer in range(num_layers):
        results = []
        for direction in range(directions):
            cell = layer * directions + direction
            starts = [c.reshape(part(c, state, 0, cell, 1), state.shape[1:]) for state in states]
            own = params[cell * each : (cell + 1) * each]
            results.append(_scan(c, kind, y, starts, own, has_biases, direction == 1, lengths))
        y = results[0][0] if directions == 1 else c.emit("concat", results[0][0], results[1][0], axis=2)
        ends += [result[1:] for result in results]
    stacked = []
    for states_of_kind in zip(*ends, strict=True):
        rows = [c.reshape(state, (1, *state.shape)) for state in states_of_kind]
        stacked.append(rows[0] if len(rows) == 1 else c.emit("concat", *rows, axis=0))
    return (permute(c, y, (1, 0, 2)) if batch_first else y, *stacked)


def _register(kind: str) -> None:
    def layers(
        c: Lowering,
        x: Ref,
        states: Any,
        params: Sequence[Ref],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
        lengths: Ref | None = None,
    ) -> Lowered:
        starts = [states] if isinstance(states, Ref) else list(states)
        options = (has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths)
        return _layers(c, kind, x, starts, params, options)

    def cell(c: Lowering, x: Ref, states: Any, w_ih: Ref, w_hh: Ref, b_ih: Ref | None, b_hh: Ref | None) -> Lowered:
        """A scan of one step."""
        starts = [states] if isinstance(states, Ref) else list(states)
        params = [w_ih, w_hh] if b_ih is None or b_hh is None else [w_ih, w_hh, b_ih, b_hh]
        _, *ends = _scan(c, kind, c.reshape(x, (1, *x.shape)), starts, params, len(params) == 4, False)
        return tuple(ends) if kind == "lstm" else ends[0]

    lowers(f"lowbit.{kind}.default", f"{kind}.input")(layers)
    lowers(f"{kind}_cell")(cell)


for _kind in _KINDS:
    _register(_kind)
