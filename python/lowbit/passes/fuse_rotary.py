"""Lets attention over caches turn its queries and keys by itself, where a model writes rotary embedding out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..graph.ir import Graph, Node, replace
from .rewrite import Rewriter, rewrite

Q, K, COSINES = 0, 1, 6
"""Inputs of `cached_attention`."""


def fuse_rotary(graph: Graph) -> Graph:
    """Take what turns q and k into the attention that reads them.

    before: x -> mul(cos) -> add -> cached_attention(q, k, ...)
            x -> slices -> neg -> concat -> mul(sin) -^
    after:  x -> cached_attention(q, k, ..., cos, sin)

    The first features alone may be turned: then the others are joined to them by a concat.
    """
    return rewrite(graph, _fuse)


@dataclass(frozen=True, kw_only=True)
class _Turned:
    """What is turned, and the values [B, 1, S, R] by which."""

    x: str
    cosines: str
    sines: str


def _fuse(r: Rewriter, node: Node) -> Node:
    if node.op != "cached_attention" or len(node.inputs) > COSINES:
        return node
    q, k = _turned(r, node.inputs[Q]), _turned(r, node.inputs[K])
    if q is None or k is None or (q.cosines, q.sines) != (k.cosines, k.sines):
        return node
    turns = [_by_step(r, value, node) for value in (q.cosines, q.sines)]
    return replace(node, inputs=(q.x, k.x, *node.inputs[2:], *turns))


def _turned(r: Rewriter, value: str) -> _Turned | None:
    made = r.producer(value)
    if made is None or made.op != "concat" or len(made.inputs) != 2:
        return _turned_whole(r, value)
    found, rest = _turned_whole(r, made.inputs[0]), _part(r, made.inputs[1])
    part = None if found is None else _part(r, found.x)
    if found is None or part is None or rest is None or part[0] != rest[0]:
        return None
    size, width = r.values[part[0]].shape[-1], r.values[found.x].shape[-1]
    return replace(found, x=part[0]) if part[1:] == (0, width) and rest[1:] == (width, size) else None


def _turned_whole(r: Rewriter, value: str) -> _Turned | None:
    """x * cos + concat(-x's second half, x's first half) * sin, in any order of the operands."""
    total = r.producer(value)
    operands = [r.producer(name) for name in total.inputs] if total is not None and total.op == "add" else []
    products = [product for product in operands if product is not None and product.op == "mul"]
    for straight, crossed in (products, products[::-1]) if len(products) == 2 else ():
        for pairs, sines in (crossed.inputs, crossed.inputs[::-1]):
            x = _rotated(r, pairs)
            if x is not None and x in straight.inputs and _is_turn(r, sines, x):
                cosines = straight.inputs[straight.inputs[0] == x]
                return _Turned(x=x, cosines=cosines, sines=sines) if _is_turn(r, cosines, x) else None
    return None


def _rotated(r: Rewriter, value: str) -> str | None:
    """The x of concat(-x[..., half:], x[..., :half])."""
    joined = r.producer(value)
    if joined is None or joined.op != "concat" or len(joined.inputs) != 2 or not _is_last(r, joined, value):
        return None
    negated = r.producer(joined.inputs[0])
    if negated is None or negated.op != "unary" or negated.attrs.get("kind") != "neg":
        return None
    second, first = _part(r, negated.inputs[0]), _part(r, joined.inputs[1])
    size = r.values[value].shape[-1]
    if first is None or second is None or first[0] != second[0] or not isinstance(size, int):
        return None
    halves = first[1:] == (0, size // 2) and second[1:] == (size // 2, size)
    return first[0] if halves and r.values[first[0]].shape == r.values[value].shape else None


def _part(r: Rewriter, value: str) -> tuple[str, int, int] | None:
    """Of a slice of the last axis: what it is cut from, from where, to where."""
    made = r.producer(value)
    if made is None or made.op != "slice" or made.attrs.get("step", 1) != 1 or not _is_last(r, made, value):
        return None
    size: Any = r.values[made.inputs[0]].shape[-1]
    width, start = r.values[value].shape[-1], made.attrs.get("start", 0)
    if not isinstance(size, int) or not isinstance(width, int) or not isinstance(start, int):
        return None
    start = start % size if size else 0
    return made.inputs[0], start, start + width


def _is_last(r: Rewriter, node: Node, value: str) -> bool:
    rank = len(r.values[value].shape)
    return node.integer("axis") % rank == rank - 1


def _is_turn(r: Rewriter, value: str, x: str) -> bool:
    """Whether it is [B or 1, 1, S, R] for x [B, H, S, R]."""
    shape, of = r.values[value].shape, r.values[x].shape
    return len(shape) == len(of) == 4 and shape[0] in (1, of[0]) and shape[1] == 1 and shape[2:] == of[2:]


def _by_step(r: Rewriter, value: str, node: Node) -> str:
    """[B, S, R] of [B, 1, S, R]: what it was reshaped from, if that is it."""
    shape = r.values[value].shape
    wanted = (shape[0], *shape[2:])
    made = r.producer(value)
    if made is not None and made.op == "reshape" and r.values[made.inputs[0]].shape == wanted:
        return made.inputs[0]
    return r.insert("reshape", value, like=node, shape=wanted)
