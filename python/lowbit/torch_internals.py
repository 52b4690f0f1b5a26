"""All that lowbit uses of torch and that torch does not document: the one place to look when a new torch breaks it.

tests/test_torch_internals.py asks each name for what lowbit relies on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunctionSubclass
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx.experimental import symbolic_shapes
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import (
    GuardOnDataDependentSymNode,
    ShapeEnv,
    free_unbacked_symbols,
    statically_known_true,
)
from torch.utils import _pytree as pytree

__all__ = [
    "DisableTorchFunctionSubclass",
    "GuardOnDataDependentSymNode",
    "HigherOrderOperator",
    "OpOverload",
    "ShapeEnv",
    "SymNode",
    "free_unbacked_symbols",
    "pytree",
    "statically_known_true",
    "symbolic_shapes",
]

ENCODER_LAYER = torch._transformer_encoder_layer_fwd
"""What a whole encoder layer becomes on torch's fast path in eval mode."""
ATTENTION = torch._native_multi_head_attention
"""The same for attention alone."""
LOOKS_AT_MASKS = torch.nn.modules.transformer, "_detect_is_causal_mask"
"""The function (its module and name) by which layers look at the values of a mask."""
CHECKS_ARGUMENTS = torch.distributions.Distribution, "_validate_args"
"""The flag (its class and name) by which distributions look at the values of their arguments."""


def schema(operator: Any) -> Any:
    """The name and the arguments of an operator; None of what is no operator."""
    return getattr(operator, "_schema", None)


def parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters; writing to it registers nothing and calls no hook."""
    return module._parameters


def children(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's own parts, under each of their names."""
    return module._modules


def weight_names(layer: nn.RNNBase) -> list[str]:
    """The parameters of a recurrent layer in the order of torch's kernels."""
    return layer._flat_weights_names


def padding_of(convolution: nn.Conv2d) -> tuple[list[int], str]:
    """What a convolution pads its input by, and how: the arguments of nn.functional.pad."""
    mode = convolution.padding_mode
    return list(convolution._reversed_padding_repeated_twice), "constant" if mode == "zeros" else mode


def pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """A padded batch, sorted by falling length, as one row a step and sequence; batch sizes by step."""
    return torch._VF._pack_padded_sequence(x, lengths, batch_first)


def pad(data: Tensor, sizes: Tensor, batch_first: bool, steps: Any) -> Tensor:
    """The padded batch of what `pack` returns, zero beyond the lengths."""
    return torch._VF._pad_packed_sequence(data, sizes, batch_first, 0.0, steps)[0]


def version(tensor: Tensor) -> int:
    """How often a tensor was written to."""
    return tensor._version


def shell(kind: type, shape: Any) -> Any:
    """A float32 tensor of a subclass, without memory: its operators go to `__torch_dispatch__`."""
    return Tensor._make_wrapper_subclass(kind, shape, dtype=torch.float32)


def compile_lock() -> AbstractContextManager[Any]:
    """What torch.compile holds while it traces: the machinery belongs to the process."""
    lock: AbstractContextManager[Any] = import_module("torch._dynamo.convert_frame").compile_lock
    return lock


def trace_of_export() -> Any:
    """The module of torch.export that prints graphs when it fails."""
    return import_module("torch.export._trace")


def allow_recurrent_layers() -> None:
    """Let dynamo put LSTM, GRU and RNN layers into graphs; they stay outside by default."""
    config: Any = import_module("torch._dynamo.config")
    config.allow_rnn = True


@contextmanager
def outside_of_tracing() -> Iterator[None]:
    """For code that runs while dynamo traces, and is no part of what it traces."""
    with torch._guards.tracing(None), torch.utils._python_dispatch._disable_current_modes():
        yield
