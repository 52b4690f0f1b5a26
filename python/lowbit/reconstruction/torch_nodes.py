"""Float nodes of a graph in torch, with gradients: those that blocks whose rounding is learned are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..graph.ir import Graph, Node
from ..ops import OPS, attributes

LAYERS = ("conv2d", "linear")

_Compute = Callable[[Mapping[str, Any], Sequence[Tensor]], Tensor]


def product(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A layer's sum, before its residual and bounds."""
    if node.op == "linear":
        return functional.linear(x, weight, bias)
    attrs = attributes(OPS[node.op], node)
    top, bottom, left, right = attrs["padding"]
    x = functional.pad(x, (left, right, top, bottom)) if any(attrs["padding"]) else x
    return functional.conv2d(x, weight, bias, attrs["stride"], 0, attrs["dilation"], attrs["groups"])


def finished(node: Node, made: Tensor, residual: Tensor | None) -> Tensor:
    """A layer's sum with its residual, within its bounds."""
    made = made if residual is None else made + residual
    return bounded(made, node.attrs.get("activation_min"), node.attrs.get("activation_max"))


def bounded(x: Tensor, low: Any, high: Any) -> Tensor:
    """Clipped where there are bounds."""
    return x if low is None and high is None else torch.clamp(x, low, high)


_UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "fast_gelu": functional.gelu,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
}
_COMPUTE: Mapping[str, _Compute] = {
    "add": lambda attrs, values: values[0] + values[1],
    "mul": lambda attrs, values: values[0] * values[1],
    "clip": lambda attrs, values: bounded(values[0], attrs.get("min"), attrs.get("max")),
    "unary": lambda attrs, values: _UNARY[attrs["kind"]](values[0]),
    "reshape": lambda attrs, values: values[0].reshape(len(values[0]), *attrs["shape"][1:]),
    "adaptive_avg_pool2d": lambda attrs, values: functional.adaptive_avg_pool2d(values[0], attrs["output_size"]),
}
LOCAL = ("conv2d", "add", "mul", "clip", "unary")
"""What a patch of an image is enough for."""


def compute(node: Node, values: Sequence[Tensor]) -> Tensor:
    """A node that is no layer."""
    return _COMPUTE[node.op](attributes(OPS[node.op], node), values)


def can_compute(graph: Graph, node: Node) -> bool:
    """Whether torch's form of the node is known here."""
    if node.op in LAYERS:
        return node.inputs[1] in graph.constants
    if node.op == "reshape":
        first, *rest = attributes(OPS[node.op], node)["shape"]
        leads = graph.values[node.inputs[0]].shape[:1] == (first,)  # of each sample by itself
        return leads and all(isinstance(size, int) for size in rest)
    return node.op in _COMPUTE and (node.op != "unary" or node.attrs["kind"] in _UNARY)
