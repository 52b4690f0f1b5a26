"""Decides what bookkeeping on positions and masks can only give, so that its tensors need not be made."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import dims
from ..graph.ir import Dim, Graph, Node, replace
from ..ops import OPS, attributes
from .rewrite import Rewriter, rewrite

Range = tuple[int, int]
MOVES = ("reshape", "expand", "transpose", "slice")
"""Their results hold no other values than their input does."""
LARGEST = 2**16
"""Elements of a constant that is looked through."""


def simplify_masks(graph: Graph) -> Graph:
    """Replace comparisons of positions that are always true, logic with them, and indices that leave all in place.

    before: m -> index(arange(batch)[:, None, None, None], arange(n)) -> and(arange(n)[:, None] >= 0)
    after:  m -> reshape(batch, 1, 1, n) -> expand(batch, 1, n, n)

    Masks of transformers arrive like that; `drop_expands` then takes the expand away.
    """
    return rewrite(graph, _simplify)


def _simplify(r: Rewriter, node: Node) -> Node:
    rule = {"compare": _compare, "logical": _logical, "where": _where, "index": _index}.get(node.op)
    return node if rule is None else rule(r, node) or node


def _expanded(r: Rewriter, node: Node, value: str) -> Node:
    """A node that broadcasts `value` to the shape of the node's result."""
    return replace(node, op="expand", inputs=(value,), attrs={"shape": r.values[node.outputs[0]].shape})


def _filled(r: Rewriter, node: Node, truth: bool) -> Node:
    return _expanded(r, node, r.constant(np.asarray(truth), f"{node.name}.{str(truth).lower()}"))


def _compare(r: Rewriter, node: Node) -> Node | None:
    a, b = (_range(r, name) for name in node.inputs)
    if a is None or b is None:
        return None
    kind = node.attrs["kind"]
    if kind in ("gt", "ge"):
        a, b, kind = b, a, "lt" if kind == "gt" else "le"
    if kind not in ("lt", "le"):
        return None
    always = a[1] < b[0] if kind == "lt" else a[1] <= b[0]
    never = a[0] >= b[1] if kind == "lt" else a[0] > b[1]
    return _filled(r, node, always) if always or never else None


def _range(r: Rewriter, value: str) -> Range | None:
    """Bounds of an integer value's elements."""
    array = r.array(value)
    if array is not None:
        known = array.dtype.kind == "i" and 0 < array.size <= LARGEST
        return (int(array.min()), int(array.max())) if known else None
    node = r.producer(value)
    if node is None:
        return None
    if node.op in MOVES:
        return _range(r, node.inputs[0])
    attrs: dict[str, Any] = dict(node.attrs)
    if node.op == "dim_value":
        return dims.bounds(attrs["value"], r.graph.symbols)
    if node.op == "arange" and node.attrs["dtype"] == "i64":
        last = dims.add(attrs["start"], dims.mul(dims.sub(attrs["length"], 1), attrs.get("step", 1)))
        ends = [dims.bounds(end, r.graph.symbols) for end in (attrs["start"], last)]
        return (min(ends[0][0], ends[1][0]), max(ends[0][1], ends[1][1]))
    return None


def _truth(r: Rewriter, value: str) -> bool | None:
    """What all elements of a bool value are, if that is known."""
    array = r.array(value)
    if array is not None:
        same = array.dtype == np.bool_ and array.size > 0 and bool(array.all() or not array.any())
        return bool(array.flat[0]) if same else None
    node = r.producer(value)
    return _truth(r, node.inputs[0]) if node is not None and node.op in MOVES else None


def _logical(r: Rewriter, node: Node) -> Node | None:
    for position in (0, 1):
        truth, other = _truth(r, node.inputs[position]), node.inputs[1 - position]
        if truth is None or node.attrs["kind"] == "xor":
            continue
        decides = truth == (node.attrs["kind"] == "or")
        return _filled(r, node, truth) if decides else _expanded(r, node, other)
    return None


def _where(r: Rewriter, node: Node) -> Node | None:
    truth = _truth(r, node.inputs[0])
    return None if truth is None else _expanded(r, node, node.inputs[1 if truth else 2])


# --------------------------------------------------------------------------------------------- indices in their order


def _index(r: Rewriter, node: Node) -> Node | None:
    """x[arange(n)[:, None], arange(m)] is x in another shape."""
    shape = r.values[node.inputs[0]].shape
    axis = int(attributes(OPS["index"], node)["axis"]) % len(shape)
    taken = -1
    rank = max(len(r.values[name].shape) for name in node.inputs[1:])
    for position, name in enumerate(node.inputs[1:]):
        along = _counting_axis(r, name, shape[axis + position])
        if along is None or (along >= 0 and along + rank - len(r.values[name].shape) <= taken):
            return None
        taken = along + rank - len(r.values[name].shape) if along >= 0 else taken
    return replace(node, op="reshape", inputs=node.inputs[:1], attrs={"shape": r.values[node.outputs[0]].shape})


def _counting_axis(r: Rewriter, value: str, size: Dim) -> int | None:
    """The axis along which the indices are 0, 1, ... size - 1, all others being of size 1; -1: size is 1."""
    shape = r.values[value].shape
    wide = [axis for axis, length in enumerate(shape) if length != 1]
    if len(wide) > 1 or (wide and not dims.equal(shape[wide[0]], size, r.graph.symbols)):
        return None
    if not wide and size != 1:
        return None
    return (wide[0] if wide else -1) if _counts(r, value) else None


def _counts(r: Rewriter, value: str) -> bool:
    array = r.array(value)
    if array is not None:
        return bool(np.array_equal(array.reshape(-1), np.arange(array.size)))
    node = r.producer(value)
    if node is not None and node.op == "reshape":
        return _counts(r, node.inputs[0])
    return node is not None and node.op == "arange" and node.attrs["start"] == 0 and node.attrs.get("step", 1) == 1
