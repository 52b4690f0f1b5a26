"""Merges reshapes with reshapes and transposes with transposes, and removes what changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..graph import dims
from ..graph.ir import Graph, Node, replace
from ..ops import OPS, attributes
from .rewrite import Rewriter, rewrite


def merge_views(graph: Graph) -> Graph:
    """Merge consecutive reshapes, and consecutive transposes, into one.

    before: x -> reshape -> reshape -> y, x -> transpose(1, 0, 2) -> transpose(1, 0, 2) -> z
    after:  x -> reshape -> y, x -> z
    """
    return rewrite(graph, _merge)


def _merge(r: Rewriter, node: Node) -> Node:
    before = r.producer(node.inputs[0]) if node.op in ("reshape", "transpose") else None
    if before is None or before.op != node.op:
        return node
    if node.op == "reshape":
        return replace(node, inputs=before.inputs)
    first: Any = before.attrs["perm"]
    second: Any = node.attrs["perm"]
    return replace(node, inputs=before.inputs, attrs={"perm": tuple(first[axis] for axis in second)})


def remove_identities(graph: Graph) -> Graph:
    """Remove nodes that return their input: reshapes to the same shape, + 0, * 1, empty pads, and the like.

    before: x -> mul(1) -> y -> relu
    after:  x -> relu

    What the model returns keeps its node, so that outputs stay distinct from inputs.
    """
    return rewrite(graph, _remove)


def _remove(r: Rewriter, node: Node) -> Node | None:
    source = _same_as(r, node)
    if source is None or node.outputs[0] in r.graph.outputs:
        return node
    r.alias(node.outputs[0], source)
    return None


def _same_as(r: Rewriter, node: Node) -> str | None:
    """The input that the node returns, if it does."""
    if len(node.outputs) != 1 or not node.inputs:
        return None
    value, result = r.values[node.inputs[0]], r.values[node.outputs[0]]
    attrs = attributes(OPS[node.op], node)
    if node.op in ("add", "sub", "mul", "div"):
        return _neutral_operand(r, node)
    if value.dtype != result.dtype or len(value.shape) != len(result.shape):
        return None
    same_shape = all(dims.equal(a, b, r.graph.symbols) for a, b in zip(value.shape, result.shape, strict=True))
    if node.op == "concat":
        return node.inputs[0] if len(node.inputs) == 1 else None
    unchanged = node.op in _UNCHANGED and _UNCHANGED[node.op](attrs, same_shape)
    return node.inputs[0] if unchanged else None


_UNCHANGED: dict[str, Callable[[Mapping[str, Any], bool], bool]] = {
    "reshape": lambda attrs, same_shape: same_shape,
    "expand": lambda attrs, same_shape: same_shape,
    "cast": lambda attrs, same_shape: True,
    "transpose": lambda attrs, same_shape: list(attrs["perm"]) == sorted(attrs["perm"]),
    "slice": lambda attrs, same_shape: same_shape and attrs["step"] == 1,
    "pad": lambda attrs, same_shape: not any(attrs["padding"]),
    "clip": lambda attrs, same_shape: "min" not in attrs and "max" not in attrs,
}
"""Whether a node whose input has the result's dtype and rank returns it, by its attributes and whether shapes agree."""


def _neutral_operand(r: Rewriter, node: Node) -> str | None:
    """The other operand of + 0, - 0, * 1 and / 1, if the result has its shape."""
    neutral = 1 if node.op in ("mul", "div") else 0
    for position in (1, 0) if node.op in ("add", "mul") else (1,):
        array, other = r.array(node.inputs[position]), node.inputs[1 - position]
        if array is not None and np.all(array == neutral) and r.values[other].shape == r.values[node.outputs[0]].shape:
            return other
    return None
