"""Makes a batch normalization that no layer could take a layer of its own: a depthwise convolution of one pixel.

One pass over the data instead of two, with the activation after it inside; and int8 as any layer, where each weight,
being alone in its filter, is exact.
"""

from __future__ import annotations

import numpy as np

from ..graph.ir import Array, Graph, Node
from .rewrite import Rewriter, rewrite


def fuse_batchnorm(graph: Graph) -> Graph:
    """Make mul and add by constants a channel one convolution, for images and volumes.

    before: x [N, C, H, W] -> mul(s [C, 1, 1]) -> add(t [C, 1, 1])
    after:  x -> conv2d(w = s [C, 1, 1, 1], b = t, groups C)
    """
    return rewrite(graph, _fuse)


def _fuse(r: Rewriter, node: Node) -> Node:
    if node.op != "add":
        return node
    for position in (0, 1):
        mul = r.producer(node.inputs[position])
        if mul is None or mul.op != "mul" or not r.is_private(mul.outputs[0]):
            continue
        for place in (0, 1):
            x = mul.inputs[1 - place]
            scale, shift = _by_channel(r, x, mul.inputs[place]), _by_channel(r, x, node.inputs[1 - position])
            if scale is not None and shift is not None:
                return _convolution(r, mul, node, x, scale, shift)
    return node


def _by_channel(r: Rewriter, x: str, name: str) -> Array | None:
    """A constant with one number for each of several channels of the image or volume x."""
    array, shape = r.array(name), r.values[x].shape
    if array is None or x in r.constants or len(shape) not in (4, 5) or r.values[x].dtype != "f32":
        return None
    wide = (1,) * (len(shape) - array.ndim) + array.shape
    return array.reshape(-1) if array.size > 1 and wide == (1, shape[1], *(1,) * (len(shape) - 2)) else None


def _convolution(r: Rewriter, mul: Node, add: Node, x: str, scale: Array, shift: Array) -> Node:
    r.take(mul)
    axes = len(r.values[x].shape) - 2
    weight = r.constant(np.ascontiguousarray(scale.reshape(-1, 1, *(1,) * axes)), f"{mul.name}.weight")
    bias = r.constant(np.ascontiguousarray(shift), f"{mul.name}.bias")
    return Node(
        op=f"conv{axes}d",
        name=mul.name,
        inputs=(x, weight, bias),
        outputs=add.outputs,
        attrs={"groups": len(scale)},
        source=mul.source,
    )
