"""Moves reshapes from images of height 1 to sequences behind what works element by element.

Layers over one axis are lowered to layers over images of height 1. Between two of them stand a reshape to [N, C, L]
and one back; where only arithmetic, activations, joins and cuts lie between, these can meet and vanish.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..graph.ir import Array, Graph, Node, replace
from ..ops import OPS, attributes, infer
from .rewrite import Rewriter, rewrite

ELEMENTWISE = ("unary", "clip", "add", "sub", "mul", "div")
MOVES = ("concat", "slice", "pad")
HEIGHT = 2
"""The axis that sequences lack."""


def sink_reshapes(graph: Graph) -> Graph:
    """Let elementwise operators, concat, slice, pad and the mean over time work on images of height 1.

    before: conv2d [N, C, 1, L] -> reshape [N, C, L] -> mul(c [C, 1]) -> y
    after:  conv2d [N, C, 1, L] -> mul(c [C, 1, 1]) -> reshape [N, C, L] -> y
    """
    return rewrite(graph, _sink)


def _sink(r: Rewriter, node: Node) -> Node:
    images = [name if r.array(name) is not None else _image(r, name) for name in node.inputs]
    if not node.inputs or any(image is None for image in images) or all(name in r.constants for name in node.inputs):
        return node
    made = _on_images(r, node, [image for image in images if image is not None])
    if made is None:
        return node
    name, out = _free(r, f"{node.outputs[0]}.image"), r.values[node.outputs[0]]
    made = replace(made, outputs=(name,))
    (r.values[name],) = infer(made, replace(r.graph, values=r.values, constants=r.constants))
    r.put(made)
    attrs = {"shape": out.shape}
    return Node(op="reshape", name=f"{node.name}.reshape", inputs=(name,), outputs=node.outputs, attrs=attrs)


def _image(r: Rewriter, value: str) -> str | None:
    """The image that a reshape has made the sequence `value` of."""
    made = r.producer(value)
    if made is None or made.op != "reshape" or r.values[value].dtype != "f32":
        return None
    before, after = r.values[made.inputs[0]].shape, r.values[value].shape
    return made.inputs[0] if len(before) == 4 and before == (*after[:HEIGHT], 1, *after[HEIGHT:]) else None


def _on_images(r: Rewriter, node: Node, images: Sequence[str]) -> Node | None:
    attrs: dict[str, Any] = attributes(OPS[node.op], node)
    rank = len(r.values[node.outputs[0]].shape) if node.outputs else 0
    if node.op == "mean":
        is_time = len(r.values[node.inputs[0]].shape) == 3 and tuple(axis % 3 for axis in attrs["axes"]) == (2,)
        pool = {"output_size": (1, 1)}
        return replace(node, op="adaptive_avg_pool2d", inputs=tuple(images), attrs=pool) if is_time else None
    if rank != 3 or node.op not in (*ELEMENTWISE, *MOVES) or (node.op in MOVES and set(images) & set(r.constants)):
        return None
    if node.op in ("concat", "slice"):
        axis = attrs["axis"] % 3
        attrs["axis"] = axis + (axis >= HEIGHT)
    if node.op == "pad":
        attrs["padding"] = (*attrs["padding"][: 2 * HEIGHT], 0, 0, *attrs["padding"][2 * HEIGHT :])
    inputs = [_widened(r, name, array) if (array := r.array(name)) is not None else name for name in images]
    return replace(node, inputs=tuple(inputs), attrs=attrs)


def _widened(r: Rewriter, name: str, array: Array) -> str:
    """A constant operand for images instead of sequences."""
    if array.ndim < 2:
        return name
    shape = (*array.shape[:-1], 1, array.shape[-1])
    return r.constant(array.reshape(shape), f"{name}.image")


def _free(r: Rewriter, preferred: str) -> str:
    while preferred in r.values:
        preferred += "_"
    return preferred
