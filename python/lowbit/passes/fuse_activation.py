"""Moves clipping activations (relu, relu6, hardtanh) into the layer before them."""

from __future__ import annotations

import math

from ..graph.ir import Graph, Node, replace
from .layers import LAYERS
from .rewrite import Rewriter, rewrite

NAMES = {
    **dict.fromkeys(LAYERS, ("activation_min", "activation_max")),
    "clip": ("min", "max"),
}
"""What can hold bounds, and the names of its attributes for them."""


def fuse_activation(graph: Graph) -> Graph:
    """Make a clip the bounds of the layer or clip before it, which must have no other reader.

    before: conv2d -> clip(0, 6)
    after:  conv2d(activation_min 0, activation_max 6)
    """
    return rewrite(graph, _fuse)


def _fuse(r: Rewriter, node: Node) -> Node:
    layer = r.producer(node.inputs[0]) if node.op == "clip" else None
    if layer is None or layer.op not in NAMES or not r.is_private(layer.outputs[0]):
        return node
    low, high = _bounds(node)
    names = NAMES[layer.op]
    bounds = [min(max(bound, low), high) for bound in _bounds(layer)]
    attrs = {key: value for key, value in layer.attrs.items() if key not in names}
    attrs.update({name: bound for name, bound in zip(names, bounds, strict=True) if math.isfinite(bound)})
    r.take(layer)
    return replace(layer, outputs=node.outputs, attrs=attrs)


def _bounds(node: Node) -> tuple[float, float]:
    """Absent bounds are infinite."""
    low, high = NAMES[node.op]
    return node.number(low, -math.inf), node.number(high, math.inf)
