"""Keeps recurrent layers whole, and attention plain, while torch.export looks at a module.

torch.export fixes the number of time steps of nn.LSTM, nn.GRU and nn.RNN. During export their `forward` therefore calls
a custom operator, `lowbit::lstm` and so on: aten's own with the same arguments, but without states for zeros, and with
a shape rule that leaves sizes free. nn.MultiheadAttention and nn.TransformerEncoderLayer have a fused fast path in eval
mode, which is switched off meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import UnsupportedError

_LAYERS: dict[type[nn.RNNBase], Any] = {nn.LSTM: nn.LSTM.forward, nn.GRU: nn.GRU.forward, nn.RNN: nn.RNN.forward}
"""Whose forward is replaced, where no subclass has one of its own."""
_SIGNATURE = (
    "(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, "
    "bool bidirectional, bool batch_first) -> "
)
_LIBRARY = torch.library.Library("lowbit", "FRAGMENT")


def _state_shapes(kind: str, x: Tensor, params: Sequence[Tensor], options: Sequence[Any]) -> list[tuple[Any, ...]]:
    """[layers * directions, batch, width] of h and, for an LSTM, of c, whose width differs if h is projected."""
    _, num_layers, _, _, bidirectional, batch_first = options
    cells = num_layers * (2 if bidirectional else 1)
    batch, width = x.shape[0 if batch_first else 1], params[1].shape[1]
    hidden = params[1].shape[0] // {"lstm": 4, "gru": 3}.get(kind, 1)
    widths = (width, hidden) if kind == "lstm" else (width,)
    return [(cells, batch, size) for size in widths]


def _register(kind: str) -> None:
    """Define `lowbit::<kind>`."""
    original = getattr(torch.ops.aten, kind).input

    def run(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        states = hx or [x.new_zeros(shape) for shape in _state_shapes(kind, x, params, options)]
        result: tuple[Tensor, ...] = original(x, states if kind == "lstm" else states[0], params, *options)
        return result

    def shapes(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        states = [x.new_empty(shape) for shape in _state_shapes(kind, x, params, options)]
        width = states[0].shape[-1] * (2 if options[4] else 1)
        return (x.new_empty((*x.shape[:2], width)), *states)

    results = "(Tensor, Tensor, Tensor)" if kind == "lstm" else "(Tensor, Tensor)"
    _LIBRARY.define(f"{kind}{_SIGNATURE}{results}")
    _LIBRARY.impl(kind, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lowbit::{kind}", shapes, lib=_LIBRARY)


for _kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    _register(_kind)


@contextmanager
def whole_layers(net: nn.Module) -> Iterator[None]:
    """For a while, recurrent layers in `net` call the custom operators, and attention takes no fast path.

    Everything is as before afterwards. Layers that are shared, or replaced already by an outer context, are left to it.
    """
    layers = [layer for layer in net.modules() if _is_plain(layer)]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for layer in layers:
        layer.__dict__["forward"] = MethodType(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]
        torch.backends.mha.set_fastpath_enabled(fast)


def _is_plain(layer: nn.Module) -> bool:
    forward = getattr(type(layer), "forward", None)
    return isinstance(layer, nn.RNNBase) and forward in _LAYERS.values() and "forward" not in layer.__dict__


def _forward(layer: nn.RNNBase, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """What the layer computes; without a batch axis too."""
    if isinstance(input, PackedSequence):
        raise UnsupportedError(
            "a packed sequence (pack_padded_sequence) is not supported; pass the padded batch, and mask what follows "
            "the end of each sequence, or run the sequences of one length together"
        )
    states = [] if hx is None else [hx] if isinstance(hx, Tensor) else list(hx)
    x = input
    if input.dim() == 2:
        x, states = input.unsqueeze(0 if layer.batch_first else 1), [state.unsqueeze(1) for state in states]
    layer.check_input(x, None)
    params = [getattr(layer, name) for name in layer._flat_weights_names]
    options = (layer.bias, layer.num_layers, layer.dropout, False, layer.bidirectional, layer.batch_first)
    y, *ends = getattr(torch.ops.lowbit, layer.mode.lower())(x, states, params, *options)
    if input.dim() == 2:
        y, ends = y.squeeze(0 if layer.batch_first else 1), [state.squeeze(1) for state in ends]
    return y, tuple(ends) if layer.mode == "LSTM" else ends[0]
