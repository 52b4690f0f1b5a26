"""Keeps recurrent layers whole, and attention plain, while torch.export looks at a module.

torch.export fixes the number of time steps of nn.LSTM, nn.GRU and nn.RNN. During export their `forward` therefore calls
a custom operator, `lowbit::lstm` and so on: aten's own with the same arguments, but without states for zeros, with
lengths for packed sequences, and with a shape rule that leaves sizes free. nn.MultiheadAttention and
nn.TransformerEncoderLayer have a fused fast path in eval mode, which is switched off meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..torch_internals import pack, pad, weight_names
from .packed import Padded, masks_for_packing, padded

_LAYERS: dict[type[nn.RNNBase], Any] = {nn.LSTM: nn.LSTM.forward, nn.GRU: nn.GRU.forward, nn.RNN: nn.RNN.forward}
"""Whose forward is replaced, where no subclass has one of its own."""
_SIGNATURE = (
    "(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
    "bool bidirectional, bool batch_first, Tensor? lengths=None) -> "
)
_LIBRARY = torch.library.Library("lowbit", "FRAGMENT")


def _state_shapes(kind: str, x: Tensor, params: Sequence[Tensor], options: Sequence[Any]) -> list[tuple[Any, ...]]:
    """[layers * directions, batch, width] of h and, for an LSTM, of c, whose width differs if h is projected."""
    _, num_layers, _, _, bidirectional, batch_first = options[:6]
    cells = num_layers * (2 if bidirectional else 1)
    batch, width = x.shape[0 if batch_first else 1], params[1].shape[1]
    hidden = params[1].shape[0] // {"lstm": 4, "gru": 3}.get(kind, 1)
    widths = (width, hidden) if kind == "lstm" else (width,)
    return [(cells, batch, size) for size in widths]


def _register(kind: str) -> None:
    """Define `lowbit::<kind>`."""
    aten = getattr(torch.ops.aten, kind)

    def run(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        states = hx or [x.new_zeros(shape) for shape in _state_shapes(kind, x, params, options)]
        if options[6:] and options[6] is not None:
            return _run_packed(aten.data, x, states, params, options)
        result: tuple[Tensor, ...] = aten.input(x, states if kind == "lstm" else states[0], params, *options[:6])
        return result

    def shapes(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        states = [x.new_empty(shape) for shape in _state_shapes(kind, x, params, options)]
        width = states[0].shape[-1] * (2 if options[4] else 1)
        return (x.new_empty((*x.shape[:2], width)), *states)

    results = "(Tensor, Tensor, Tensor)" if kind == "lstm" else "(Tensor, Tensor)"
    _LIBRARY.define(f"{kind}{_SIGNATURE}{results}")
    _LIBRARY.impl(kind, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lowbit::{kind}", shapes, lib=_LIBRARY)


def _run_packed(
    data_rule: Any, x: Tensor, states: Sequence[Tensor], params: Sequence[Tensor], options: Sequence[Any]
) -> tuple[Tensor, ...]:
    """With torch's own packed sequences, which are in order of length."""
    *options, batch_first, lengths = options
    axis = 0 if batch_first else 1
    order = lengths.argsort(descending=True)
    back = order.argsort()
    data, sizes = pack(x.index_select(axis, order), lengths[order], batch_first)
    states = [state.index_select(1, order) for state in states]
    y, *ends = data_rule(data, sizes, states if len(states) > 1 else states[0], params, *options)
    y = pad(y, sizes, batch_first, x.shape[1 - axis])
    return y.index_select(axis, back), *(end.index_select(1, back) for end in ends)


for _kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    _register(_kind)


@contextmanager
def whole_layers(net: nn.Module, notes: list[str]) -> Iterator[None]:
    """For a while, recurrent layers in `net` call the custom operators, and attention takes no fast path.

    Packed sequences are padded ones meanwhile; `notes` gains where that shows. Everything is as before afterwards.
    Layers that are shared, or replaced already by an outer context, are left to it.
    """
    layers = [layer for layer in net.modules() if _is_plain(layer)]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for layer in layers:
        layer.__dict__["forward"] = MethodType(_forward, layer)
    try:
        with masks_for_packing(notes):
            yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]
        torch.backends.mha.set_fastpath_enabled(fast)


def _is_plain(layer: nn.Module) -> bool:
    forward = getattr(type(layer), "forward", None)
    return isinstance(layer, nn.RNNBase) and forward in _LAYERS.values() and "forward" not in layer.__dict__


def _forward(layer: nn.RNNBase, input: Any, hx: Any = None) -> tuple[Any, Any]:
    """What the layer computes; without a batch axis too."""
    if isinstance(input, PackedSequence):
        packed = padded(input)
        y, ends = _layers(layer, packed.x, hx, packed.batch_first, packed.lengths)
        return Padded(y, packed.lengths, packed.batch_first, ends_in_zeros=True), ends
    if input.dim() == 3:
        return _layers(layer, input, hx, layer.batch_first, None)
    axis = 0 if layer.batch_first else 1
    states = None if hx is None else [state.unsqueeze(1) for state in _states(hx)]
    y, ends = _layers(layer, input.unsqueeze(axis), states, layer.batch_first, None)
    return y.squeeze(axis), tuple(end.squeeze(1) for end in ends) if layer.mode == "LSTM" else ends.squeeze(1)


def _states(hx: Any) -> list[Tensor]:
    return [] if hx is None else [hx] if isinstance(hx, Tensor) else list(hx)


def _layers(layer: nn.RNNBase, x: Tensor, hx: Any, batch_first: bool, lengths: Tensor | None) -> tuple[Tensor, Any]:
    """x [T, B, I], [B, T, I] if batch_first; what is past the lengths [B] does not count."""
    layer.check_input(x, None)
    params = [getattr(layer, name) for name in weight_names(layer)]
    options = (layer.bias, layer.num_layers, layer.dropout, False, layer.bidirectional, batch_first)
    y, *ends = getattr(torch.ops.lowbit, layer.mode.lower())(x, _states(hx), params, *options, lengths)
    return y, tuple(ends) if layer.mode == "LSTM" else ends[0]
