"""What the passes share: a graph taken apart node by node and put together again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph.ir import Array, Attribute, Coded, Graph, Node, Weight, replace
from ..ops import constant_value, infer
from .remove_dead import remove_dead

Rule = Callable[["Rewriter", Node], Node | None]


class Rewriter:
    """Rebuilds a graph in order. A rule may take earlier nodes away, add constants, let a value stand for another."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values = dict(graph.values)
        self.constants = dict(graph.constants)
        self._nodes: list[Node | None] = []
        self._made_at: dict[str, int] = {}
        self._uses = graph.uses()
        self._renamed: dict[str, str] = {}
        self._names = {node.name for node in graph}
        self._origins = dict(graph.origins)
        self._seen: dict[Coded, None] = {}
        """Whose numbers the rule at hand has looked at: what it makes is made of them."""

    def producer(self, value: str) -> Node | None:
        """The node, as rewritten so far, that makes `value`."""
        return self._nodes[self._made_at[value]] if value in self._made_at else None

    def is_private(self, value: str) -> bool:
        """Whether one node alone reads `value`, and the model does not return it."""
        return self._uses[value] == 1 and value not in self.graph.outputs

    def array(self, value: str) -> Array | None:
        """The content of a plain constant, else None."""
        constant = self.constants.get(value)
        self._seen.update(dict.fromkeys(self._origins.get(value, ())))
        return constant if isinstance(constant, np.ndarray) else None

    def constant(self, array: Array | Weight, preferred: str) -> str:
        """Add a constant; its name."""
        name = self._unique(preferred)
        self.values[name] = constant_value(array)
        self.define(name, array)
        return name

    def define(self, value: str, array: Array | Weight) -> None:
        """Let a value be a constant."""
        self.constants[value] = array
        if self._seen:
            self._origins[value] = tuple(self._seen)

    def scalar(self, value: str) -> float | None:
        """The number in a constant of one element, else None."""
        array = self.array(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def insert(self, op: str, *inputs: str, like: Node, **attrs: Attribute) -> str:
        """Put a new node with one output, named after the node that it serves; its output's name."""
        name = self._unique(f"{like.name}.{op}")
        node = Node(op=op, name=name, inputs=inputs, outputs=(name,), attrs=attrs, source=like.source)
        self.values[name] = infer(node, replace(self.graph, values=self.values, constants=self.constants))[0]
        self.put(node)
        return name

    def _unique(self, preferred: str) -> str:
        name, count = preferred, 1
        while name in self.values or name in self._names:
            count += 1
            name = f"{preferred}_{count}"
        self._names.add(name)
        return name

    def take(self, node: Node) -> None:
        """Remove an earlier node, whose outputs nobody needs any more."""
        for name in node.outputs:
            self._nodes[self._made_at.pop(name)] = None

    def put(self, node: Node) -> None:
        """Append a node."""
        self._made_at.update(dict.fromkeys(node.outputs, len(self._nodes)))
        self._nodes.append(node)

    def alias(self, value: str, other: str) -> None:
        """Let later nodes read `other` where they read `value`; for values that the model does not return."""
        self._renamed[value] = other

    def current(self, node: Node) -> Node:
        """The node with its inputs renamed; the next that a rule looks at."""
        self._seen.clear()
        if not any(name in self._renamed for name in node.inputs):
            return node
        return replace(node, inputs=tuple(self._renamed.get(name, name) for name in node.inputs))

    def finish(self) -> Graph:
        """The new graph, without what is not used any more."""
        nodes = tuple(node for node in self._nodes if node is not None)
        made = replace(self.graph, nodes=nodes, values=self.values, constants=self.constants, origins=self._origins)
        return remove_dead(made)


def rewrite(graph: Graph, rule: Rule) -> Graph:
    """Apply a rule to each node in order: it returns what to put instead: perhaps the node itself, None for nothing."""
    rewriter = Rewriter(graph)
    for node in graph:
        made = rule(rewriter, rewriter.current(node))
        if made is not None:
            rewriter.put(made)
    return rewriter.finish()
