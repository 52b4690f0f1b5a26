"""Cuts a float graph into blocks that one value enters and one leaves, such as the residual blocks of a network.

Source: Li et al. 2021, "BRECQ" (arXiv:2102.05426), section 3.2: blocks are large enough that layers make up for each
other, and small enough that little data say how.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..graph.ir import Graph, Node
from ..passes.layers import LAYERS

DEEPEST = 3
"""Layers that are learned together where no residual connection asks for more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Successive nodes; `inputs`: the values that they read of others, `output`: the one that others read."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    output: str

    @property
    def layers(self) -> tuple[Node, ...]:
        """Those of the nodes that have weights."""
        return tuple(node for node in self.nodes if node.op in LAYERS)


def blocks(graph: Graph) -> Iterator[Block]:
    """The blocks in order: as short as can be, then joined to at most `DEEPEST` layers."""
    part: list[Node] = []
    for piece in _pieces(graph):
        if part and _depth(part) + _depth(piece) > DEEPEST:
            yield _block(graph, part)
            part = []
        part += piece
    if part:
        yield _block(graph, part)


def _depth(nodes: list[Node]) -> int:
    return sum(node.op in LAYERS for node in nodes)


def _pieces(graph: Graph) -> Iterator[list[Node]]:
    """The nodes, cut where one computed value alone is still to be read."""
    last = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs if name}
    last |= dict.fromkeys(graph.outputs, len(graph.nodes))
    part: list[Node] = []
    live: set[str] = set()
    for place, node in enumerate(graph.nodes):
        part.append(node)
        live |= {name for name in node.outputs if name in last}
        live = {name for name in live if last[name] > place}
        if len(live) <= 1:
            yield part
            part = []
    if part:
        yield part


def _block(graph: Graph, nodes: list[Node]) -> Block:
    made = {name for node in nodes for name in node.outputs}
    read = dict.fromkeys(name for node in nodes for name in node.inputs if name)
    inputs = tuple(name for name in read if name not in made and name not in graph.constants)
    return Block(nodes=tuple(nodes), inputs=inputs, output=nodes[-1].outputs[0])
