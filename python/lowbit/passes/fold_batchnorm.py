"""Folds what scales and shifts each channel, such as batch normalization, into the layer before it."""

from __future__ import annotations

import numpy as np

from ..graph.ir import Array, Graph, Node, replace
from .layers import CONVOLUTIONS, LAYERS
from .rewrite import Rewriter, rewrite


def fold_batchnorm(graph: Graph) -> Graph:
    """Fold mul, add, sub and div by one constant a channel into the weight and bias of a layer before them.

    before: conv2d(w, b) -> mul(s) -> add(t)
    after:  conv2d(w * s, b * s + t)

    Batch normalization arrives as mul and add. The layer must have no other reader, activation or residual.
    """
    return rewrite(graph, _fold)


def _fold(r: Rewriter, node: Node) -> Node:
    if node.op not in ("mul", "add", "sub", "div"):
        return node
    for position in (0, 1):
        layer, constant = r.producer(node.inputs[position]), r.array(node.inputs[1 - position])
        if layer is None or constant is None or not _is_open(r, layer) or (node.op == "div" and position == 1):
            continue
        channel = _per_channel(r, node, layer, constant)
        if channel is not None:
            return _merge(r, layer, node, channel, constant_first=position == 1)
    return node


def _is_open(r: Rewriter, layer: Node) -> bool:
    """Whether what follows the layer may move into it."""
    plain = len(layer.inputs) < 4 and not {"activation_min", "activation_max"} & set(layer.attrs)
    weights = all(r.array(name) is not None for name in layer.inputs[1:] if name)
    return layer.op in LAYERS and plain and weights and r.is_private(layer.outputs[0])


def _per_channel(r: Rewriter, node: Node, layer: Node, constant: Array) -> Array | None:
    """The constant as one number a channel, if that is what it is."""
    value = r.values[layer.outputs[0]]
    rank, axis = len(value.shape), 1 if layer.op in CONVOLUTIONS else len(value.shape) - 1
    if constant.ndim > rank or len(r.values[node.outputs[0]].shape) != rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    channels = int(value.shape[axis])
    if any(size != 1 for other, size in enumerate(shape) if other != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,)).astype(np.float64)


def _merge(r: Rewriter, layer: Node, node: Node, channel: Array, *, constant_first: bool) -> Node:
    """The layer with y * scale + shift inside."""
    scale = {"mul": channel, "div": 1 / channel}.get(node.op) if node.op in ("mul", "div") else None
    shift = {"add": channel, "sub": -channel}.get(node.op)
    if node.op == "sub" and constant_first:
        scale, shift = np.full_like(channel, -1.0), channel
    weight, bias = r.array(layer.inputs[1]), r.array(layer.inputs[2]) if len(layer.inputs) > 2 else None
    assert weight is not None
    names = [layer.inputs[0], layer.inputs[1], layer.inputs[2] if bias is not None else ""]
    if scale is not None:
        folded = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
        names[1] = r.constant(folded.astype(np.float32), f"{layer.name}.weight.folded")
    if bias is not None or shift is not None:
        total = np.zeros_like(channel) if bias is None else bias * (1.0 if scale is None else scale)
        total = total if shift is None else total + shift
        names[2] = r.constant(total.astype(np.float32), f"{layer.name}.bias.folded")
    r.take(layer)
    inputs = tuple(names if names[2] else names[:2])
    return replace(layer, inputs=inputs, outputs=node.outputs)
