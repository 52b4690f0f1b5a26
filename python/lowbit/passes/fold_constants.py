"""Computes at conversion what depends on constants alone."""

from __future__ import annotations

import math

import numpy as np

from ..errors import InputError
from ..graph.ir import Graph, Node
from ..ops import OPS
from .rewrite import Rewriter, rewrite

LIMIT = 2**24
"""Elements: a larger result is only stored if it is no larger than what it is computed from."""


def fold_constants(graph: Graph) -> Graph:
    """Replace nodes whose inputs are all constants, and whose sizes are fixed, by their results.

    before: c -> reshape -> y, arange(4) -> compare(c2) -> m, x -> add(y) -> where(m)
    after:  x -> add(c reshaped) -> where(m computed)
    """
    return rewrite(graph, _fold)


def _fold(r: Rewriter, node: Node) -> Node | None:
    arrays = [r.array(name) for name in node.inputs if name]
    values = [r.values[name] for name in node.outputs]
    if any(array is None for array in arrays) or any(name in r.graph.outputs for name in node.outputs):
        return node
    if _has_free_size(node) or any(isinstance(size, str) for value in values for size in value.shape):
        return node
    size = sum(math.prod(int(n) for n in value.shape) for value in values)
    if size > max(LIMIT, sum(array.size for array in arrays if array is not None)):
        return node
    try:
        results = OPS[node.op].reference(node, [r.array(name) if name else None for name in node.inputs])
    except InputError:  # such as an index out of range: it is the caller's to meet
        return node
    for name, result in zip(node.outputs, results, strict=True):
        r.define(name, np.asarray(result))
    return None


def _has_free_size(node: Node) -> bool:
    """Whether an attribute is an expression over symbols."""
    names = [name for name, attr in OPS[node.op].attrs.items() if attr.kind in ("dim", "dims")]
    attributes = (node.attrs.get(name, ()) for name in names)
    sizes = (size for item in attributes for size in (item if isinstance(item, tuple) else (item,)))
    return any(isinstance(size, str) for size in sizes)
