"""Recognizes attention written out, and heads that are repeated before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..graph import dims
from ..graph.ir import Dim, Graph, Node, replace
from .rewrite import Rewriter, rewrite


def fuse_attention(graph: Graph) -> Graph:
    """Make softmax(q k^T * scale + mask) v one node, which never holds all scores at once.

    before: matmul(q, k; transpose_b) -> mul(scale) -> add(mask) -> softmax -> matmul(v)
    after:  attention(q, k, v, mask; scale)

    Scale and mask may be missing; several may be added; a mask may also be a where() between the scores and -inf.
    """
    return rewrite(graph, _fuse)


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """What goes into softmax, taken apart: the product, its factor, what is added, or the condition of a where()."""

    product: Node
    scale: float
    added: tuple[str, ...] = ()
    condition: str = ""
    drops: bool = False
    """Whether the condition says what to drop, instead of what to keep."""
    others: tuple[Node, ...] = ()
    """The nodes between the product and softmax."""


def _fuse(r: Rewriter, node: Node) -> Node:
    is_product = node.op == "matmul" and not node.attrs.get("transpose_b")
    softmax = _private(r, node.inputs[0], "softmax") if is_product else None
    if softmax is None:
        return node
    axis: Any = softmax.attrs["axis"]
    rank = len(r.values[softmax.outputs[0]].shape)
    scores = _scores(r, softmax.inputs[0]) if axis % rank == rank - 1 else None
    if scores is None:
        return node
    inputs = (*scores.product.inputs, node.inputs[1])
    if not _fits(r, inputs, (*scores.added, *filter(None, (scores.condition,)))):
        return node
    for item in (softmax, *scores.others, scores.product):
        r.take(item)
    mask = scores.condition
    if scores.drops:
        mask = r.insert("logical_not", mask, like=node)
    for name in scores.added:
        mask = r.insert("add", mask, name, like=node) if mask else name
    attrs = {"scale": scores.scale, "nan_if_empty": 1, "divides_last": 1}
    return replace(node, op="attention", inputs=(*inputs, mask) if mask else inputs, attrs=attrs)


def _private(r: Rewriter, value: str, *ops: str) -> Node | None:
    """The node that makes `value` for one reader alone, if it is such an operator."""
    node = r.producer(value)
    return node if node is not None and node.op in ops and r.is_private(value) else None


def _scores(r: Rewriter, value: str) -> _Scores | None:
    node = _private(r, value, "add", "where")
    if node is None:
        return _scaled_product(r, value)
    for position in (1, 2) if node.op == "where" else (0, 1):
        inner = node.inputs[position]
        same = r.values[inner].shape == r.values[value].shape
        found = _scores(r, inner) if same else None
        if found is None or found.condition:
            continue
        if node.op == "add":
            return replace(found, added=(*found.added, node.inputs[1 - position]), others=(*found.others, node))
        if r.scalar(node.inputs[3 - position]) == -math.inf and not found.added:
            return replace(found, condition=node.inputs[0], drops=position == 2, others=(*found.others, node))
    return None


def _scaled_product(r: Rewriter, value: str) -> _Scores | None:
    taken: list[Node] = []
    inner, scale = _unscaled(r, value, taken)
    product = _private(r, inner, "matmul")
    if product is None or not product.attrs.get("transpose_b"):
        return None
    return _Scores(product=product, scale=scale, others=tuple(taken))


def _unscaled(r: Rewriter, value: str, taken: list[Node]) -> tuple[str, float]:
    """The product before a constant factor or divisor, and the factor."""
    node = _private(r, value, "mul", "div")
    if node is None:
        return value, 1.0
    for position in (1, 0) if node.op == "mul" else (1,):
        number = r.scalar(node.inputs[position])
        if number is not None and math.isfinite(number) and (node.op == "mul" or number != 0):
            if r.values[node.inputs[1 - position]].shape != r.values[value].shape:
                continue
            taken.append(node)
            return node.inputs[1 - position], number if node.op == "mul" else 1 / number
    return value, 1.0


def _fits(r: Rewriter, inputs: tuple[str, ...], masks: tuple[str, ...]) -> bool:
    """Whether the attention operator takes them: q, k and v alike but for lengths and features, masks that spread."""
    q, k, v = (r.values[name].shape for name in inputs)
    if len(q) not in (3, 4) or not len(q) == len(k) == len(v):
        return False
    if not (_same(r, q[:-2], k[:-2]) and _same(r, q[:-2], v[:-2])):
        return False
    full = (*q[:-1], k[-2])
    return all(r.values[name].dtype in ("f32", "bool") and _spreads(r, r.values[name].shape, full) for name in masks)


def _spreads(r: Rewriter, mask: tuple[Dim, ...], full: tuple[Dim, ...]) -> bool:
    pairs = zip(mask[::-1], full[::-1], strict=False)
    return len(mask) <= len(full) and all(
        size == 1 or dims.equal(size, whole, r.graph.symbols) for size, whole in pairs
    )


def _same(r: Rewriter, a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    return all(dims.equal(x, y, r.graph.symbols) for x, y in zip(a, b, strict=True))


def share_heads(graph: Graph) -> Graph:
    """Let attention read key and value heads that were repeated for its query heads from where they were.

    before: k [B, H, S, D] -> reshape [B, H, 1, S, D] -> expand [B, H, n, S, D] -> reshape [B, H n, S, D] -> attention
    after:  k -> attention
    """
    return rewrite(graph, _share)


def _share(r: Rewriter, node: Node) -> Node:
    if node.op != "attention" or len(r.values[node.inputs[0]].shape) != 4:
        return node
    k, v = (_unrepeated(r, name) for name in node.inputs[1:3])
    if k is None or v is None or r.values[k].shape[1] != r.values[v].shape[1]:
        return node
    return replace(node, inputs=(node.inputs[0], k, v, *node.inputs[3:]))


def _unrepeated(r: Rewriter, value: str) -> str | None:
    """[B, H, S, D] before each of its heads was repeated; None if it was not."""
    chain: list[Any] = []
    for op in ("reshape", "expand", "reshape"):
        node = r.producer(chain[-1].inputs[0] if chain else value)
        if node is None or node.op != op:
            return None
        chain.append(node)
    source = chain[-1].inputs[0]
    before, shape = r.values[source].shape, r.values[chain[1].outputs[0]].shape
    after = r.values[value].shape
    if len(before) != 4 or len(shape) != 5 or len(after) != 4 or not isinstance(before[1], int):
        return None
    if r.values[chain[2].outputs[0]].shape != (*before[:2], 1, *before[2:]) or not isinstance(shape[2], int):
        return None
    same = _same(r, shape, (*before[:2], shape[2], *before[2:]))
    return source if same and _same(r, after, (before[0], before[1] * shape[2], *before[2:])) else None
