"""Nodes that compute a function of one value, element by element: on codes they are tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ir import Array, Graph, Node
from ..ops.float import unary

_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "minimum": np.minimum,
    "maximum": np.maximum,
}


def operands(graph: Graph, node: Node) -> tuple[str, ...]:
    """The inputs that are computed."""
    return tuple(name for name in node.inputs if name and name not in graph.constants)


def is_function(graph: Graph, node: Node) -> bool:
    """Whether the node is clip, unary, or arithmetic with a number."""
    if node.op in ("clip", "unary"):
        return True
    if node.op not in _ARITHMETIC or len(operands(graph, node)) != 1:
        return False
    numbers = [graph.constants[name] for name in node.inputs if name in graph.constants]
    plain = all(isinstance(number, np.ndarray) and number.size == 1 for number in numbers)
    return plain and graph.values[operands(graph, node)[0]].shape == graph.values[node.outputs[0]].shape


def function_of(graph: Graph, node: Node) -> Callable[[Array], Array]:
    """What such a node computes, on float64."""
    if node.op == "unary":
        return lambda x: np.asarray(unary(str(node.attrs["kind"]), x, node.attrs), np.float64)
    if node.op == "clip":
        low, high = (node.attrs.get(name, bound) for name, bound in (("min", -np.inf), ("max", np.inf)))
        return lambda x: np.asarray(np.clip(x, low, high))
    compute = _ARITHMETIC[node.op]
    number = next(
        float(np.asarray(graph.constants[name]).reshape(())) for name in node.inputs if name in graph.constants
    )
    if node.inputs[0] in graph.constants:
        return lambda x: compute(np.float64(number), x)
    return lambda x: compute(x, np.float64(number))
