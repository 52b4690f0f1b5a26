"""Removes what no output depends on."""

from __future__ import annotations

from ..graph.ir import Graph, Node, replace


def remove_dead(graph: Graph) -> Graph:
    """Remove nodes, constants and values that no output depends on; the inputs stay.

    before: x -> a -> y (returned), x -> b
    after:  x -> a -> y (returned)
    """
    needed = {*graph.outputs, *(state.initial for state in graph.states)}
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            nodes.append(node)
    nodes.reverse()
    constants = {name: constant for name, constant in graph.constants.items() if name in needed}
    kept = {*graph.inputs, *constants, *(name for node in nodes for name in node.outputs)}
    values = {name: value for name, value in graph.values.items() if name in kept}
    origins = {name: origin for name, origin in graph.origins.items() if name in constants}
    return replace(graph, nodes=tuple(nodes), constants=constants, values=values, origins=origins)
