"""Takes away expands before operators that broadcast by themselves."""

from __future__ import annotations

from ..errors import GraphError
from ..graph import dims
from ..graph.ir import Graph, Node, replace
from ..ops import OPS
from .rewrite import Rewriter, rewrite

BROADCASTING = {
    **dict.fromkeys(
        ("add", "sub", "mul", "div", "minimum", "maximum", "pow", "floor_div", "trunc_div", "remainder", "fmod"), (0, 1)
    ),
    **dict.fromkeys(("compare", "logical"), (0, 1)),
    "where": (0, 1, 2),
    "attention": (3,),
}
"""Operators that broadcast, and which of their inputs."""


def drop_expands(graph: Graph) -> Graph:
    """Let operators that broadcast read what an expand reads, where their result stays of the same shape.

    before: m -> expand(batch, 1, n, n) -> attention(q, k, v, .)
    after:  m -> attention(q, k, v, .)
    """
    return rewrite(graph, _drop)


def _drop(r: Rewriter, node: Node) -> Node:
    for position in BROADCASTING.get(node.op, ()):
        before = r.producer(node.inputs[position]) if position < len(node.inputs) else None
        if before is None or before.op != "expand":
            continue
        inputs = (*node.inputs[:position], before.inputs[0], *node.inputs[position + 1 :])
        shorter = replace(node, inputs=inputs)
        values = [r.values[name] if name else None for name in inputs]
        stated = r.values[node.outputs[0]].shape
        try:
            found = OPS[node.op].infer(shorter, values, r.graph)[0].shape
        except GraphError:
            continue
        if len(found) == len(stated) and all(
            dims.equal(a, b, r.graph.symbols) for a, b in zip(found, stated, strict=True)
        ):
            node = shorter
    return node
