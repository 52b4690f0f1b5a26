"""Lets a matrix product read the rows of its right-hand side where a transpose would only turn them into columns."""

from __future__ import annotations

from typing import Any

from ..graph.ir import Graph, Node, replace
from .rewrite import Rewriter, rewrite


def fold_transpose(graph: Graph) -> Graph:
    """Take the exchange of the last two axes out of a transpose and into the matmul that reads it.

    before: k -> transpose(0, 2, 3, 1) -> t, matmul(q, t)
    after:  k -> transpose(0, 2, 1, 3) -> t, matmul(q, t; transpose_b)
    """
    return rewrite(graph, _fold)


def _fold(r: Rewriter, node: Node) -> Node:
    before = r.producer(node.inputs[1]) if node.op == "matmul" else None
    if before is None or before.op != "transpose":
        return node
    perm: Any = before.attrs["perm"]
    swapped = (*perm[:-2], perm[-1], perm[-2])
    whole = swapped == tuple(range(len(perm)))
    # Only where the transpose goes, or its last axis then lies as in memory: else nothing is gained.
    if not whole and (perm[-2] != len(perm) - 1 or not r.is_private(before.outputs[0])):
        return node
    right = before.inputs[0] if whole else r.insert("transpose", before.inputs[0], like=node, perm=swapped)
    return replace(
        node,
        inputs=(node.inputs[0], right),
        attrs={"transpose_b": 1 - node.integer("transpose_b")},
    )
