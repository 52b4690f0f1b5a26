"""Computes at conversion what depends on constants alone."""

from __future__ import annotations

import math

import numpy as np

from ..ir import Graph, Node
from ..ops import OPS
from .rewrite import Rewriter, rewrite

LIMIT = 2**24
"""Elements: a larger result is only stored if it is no larger than what it is computed from."""


def fold_constants(graph: Graph) -> Graph:
    """Replace nodes whose inputs are all constants by their results.

    before: c -> reshape -> y, x -> add(y)
    after:  x -> add(c reshaped)
    """
    return rewrite(graph, _fold)


def _fold(r: Rewriter, node: Node) -> Node | None:
    arrays = [r.array(name) for name in node.inputs if name]
    values = [r.values[name] for name in node.outputs]
    if not arrays or any(array is None for array in arrays) or any(name in r.graph.outputs for name in node.outputs):
        return node
    if any(isinstance(size, str) for value in values for size in value.shape):
        return node
    size = sum(math.prod(int(n) for n in value.shape) for value in values)
    if size > max(LIMIT, sum(array.size for array in arrays if array is not None)):
        return node
    results = OPS[node.op].reference(node, [r.array(name) if name else None for name in node.inputs])
    r.constants.update(zip(node.outputs, map(np.asarray, results), strict=True))
    return None
