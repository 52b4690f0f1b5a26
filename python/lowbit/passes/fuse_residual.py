"""Moves a residual addition into the layer that makes one of its operands, which saves a pass and a rounding."""

from __future__ import annotations

from collections.abc import Callable

from ..graph.ir import Graph, Node, replace
from .fuse_activation import fuse_activation
from .layers import LAYERS
from .rewrite import Rewriter, rewrite

Allowed = Callable[[Rewriter, Node, str], bool]


def fuse_residual(graph: Graph, allowed: Allowed = lambda r, layer, other: True) -> Graph:
    """Make an add of equal shapes the residual input of the layer before it, with the clip that follows.

    before: conv2d(x, w, b) -> add(y) -> clip(0)
    after:  conv2d(x, w, b, residual y; activation_min 0)

    The layer must have no other reader and no activation, and be `allowed` to take the other operand. Where both
    operands qualify, the later one takes the add.
    """
    return fuse_activation(rewrite(graph, lambda r, node: _fuse(r, node, allowed)))


def _fuse(r: Rewriter, node: Node, allowed: Allowed) -> Node:
    if node.op != "add" or node.inputs[0] == node.inputs[1]:
        return node
    shapes = [r.values[name].shape for name in (*node.inputs, *node.outputs)]
    if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
        return node
    candidates = [place for place in (0, 1) if _is_open(r, node.inputs[place], node.inputs[1 - place], allowed)]
    if not candidates:
        return node
    order = {name: index for index, earlier in enumerate(r.graph) for name in earlier.outputs}
    position = max(candidates, key=lambda place: order[node.inputs[place]])
    layer, other = r.producer(node.inputs[position]), node.inputs[1 - position]
    assert layer is not None
    if other in r.constants:
        return node
    r.take(layer)
    bias = layer.inputs[2] if len(layer.inputs) > 2 else ""
    return replace(layer, inputs=(*layer.inputs[:2], bias, other), outputs=node.outputs)


def _is_open(r: Rewriter, value: str, other: str, allowed: Allowed) -> bool:
    layer = r.producer(value)
    if layer is None or layer.op not in LAYERS or not r.is_private(value):
        return False
    has_room = len(layer.inputs) < 4 and not {"activation_min", "activation_max"} & set(layer.attrs)
    return has_room and allowed(r, layer, other)
