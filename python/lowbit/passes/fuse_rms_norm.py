"""Recognizes RMS normalization written out, as Llama and T5 do."""

from __future__ import annotations

from typing import Any

from ..graph import dims
from ..graph.ir import Graph, Node, replace
from .rewrite import Rewriter, rewrite


def fuse_rms_norm(graph: Graph) -> Graph:
    """Make x / sqrt(mean(x^2) + eps), over the last axis, one node; a factor for each feature becomes its weight.

    before: x -> mul(x) -> mean(-1) -> add(eps) -> rsqrt -> mul(x) -> mul(w)
    after:  x -> rms_norm(w; eps)
    """
    return rewrite(rewrite(graph, _fuse), _take_weight)


def _fuse(r: Rewriter, node: Node) -> Node:
    if node.op not in ("mul", "div"):
        return node
    for position in (0, 1) if node.op == "mul" else (0,):
        x, root = node.inputs[position], node.inputs[1 - position]
        eps = _eps(r, x, root, "rsqrt" if node.op == "mul" else "sqrt")
        if eps is not None:
            return replace(node, op="rms_norm", inputs=(x,), attrs={"axes": 1, "eps": eps})
    return node


def _eps(r: Rewriter, x: str, root: str, kind: str) -> float | None:
    """eps where `root` is kind(mean(x^2) + eps) over the last axis, else None."""
    function = r.producer(root)
    if function is None or function.op != "unary" or function.attrs["kind"] != kind or not r.values[x].shape:
        return None
    total = r.producer(function.inputs[0])
    if total is None or total.op != "add":
        return None
    for position in (0, 1):
        eps, mean = r.scalar(total.inputs[position]), r.producer(total.inputs[1 - position])
        if eps is not None and eps >= 0 and mean is not None and _is_mean_square(r, x, mean):
            return eps
    return None


def _is_mean_square(r: Rewriter, x: str, mean: Node) -> bool:
    axes: Any = mean.attrs.get("axes", ())
    rank = len(r.values[x].shape)
    if mean.op != "mean" or not mean.attrs.get("keepdim") or [axis % rank for axis in axes] != [rank - 1]:
        return False
    square = r.producer(mean.inputs[0])
    if square is None or square.inputs[0] != x:
        return False
    if square.op == "mul":
        return square.inputs[1] == x
    if square.op == "pow":
        return r.scalar(square.inputs[1]) == 2
    return square.op == "unary" and square.attrs["kind"] == "square"


def _take_weight(r: Rewriter, node: Node) -> Node:
    if node.op != "mul":
        return node
    for position in (0, 1):
        norm, weight = r.producer(node.inputs[position]), r.array(node.inputs[1 - position])
        if norm is None or norm.op != "rms_norm" or len(norm.inputs) > 1 or not r.is_private(norm.outputs[0]):
            continue
        shape = r.values[norm.outputs[0]].shape
        if weight is None or weight.ndim > len(shape) or not dims.equal(weight.size, shape[-1], r.graph.symbols):
            continue
        if weight.shape[-1:] != (weight.size,):
            continue
        flat = r.constant(weight.reshape(-1), f"{node.inputs[1 - position]}.row") if weight.ndim > 1 else None
        r.take(norm)
        return replace(norm, inputs=(norm.inputs[0], flat or node.inputs[1 - position]), outputs=node.outputs)
    return node
