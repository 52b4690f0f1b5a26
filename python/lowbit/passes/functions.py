"""Nodes that compute a function of one value, element by element, the same or one a channel: on codes, tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph.ir import Array, Graph, Node
from ..ops.float import unary
from ..ops.quantized import MAX_SLOPE

_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "prelu": lambda x, slope: np.where(x > 0, x, x * slope),
}


def operands(graph: Graph, node: Node) -> tuple[str, ...]:
    """The inputs that are computed."""
    return tuple(name for name in node.inputs if name and name not in graph.constants)


def is_function(graph: Graph, node: Node) -> bool:
    """Whether the node is clip, unary, or arithmetic with a number."""
    if node.op in ("clip", "unary"):
        return True
    number = _number(graph, node)
    return number is not None and number.size == 1


def is_channel_function(graph: Graph, node: Node) -> bool:
    """Whether the node is arithmetic with one number for each channel (axis 1)."""
    number, rank = _number(graph, node), len(graph.values[node.outputs[0]].shape)
    if number is None or number.size == 1 or rank < 2:
        return False
    return (1,) * (rank - number.ndim) + number.shape == (1, number.size, *(1,) * (rank - 2))


def slope_of(graph: Graph, node: Node) -> Array | None:
    """What a leaky ReLU or PReLU multiplies negative values by, float32 [1] or one a channel, if layers can do so."""
    if node.op == "unary" and node.attrs["kind"] == "leaky_relu":
        slope = np.array([unary("leaky_relu", np.array([-1.0]), node.attrs)[0] * -1], np.float32)
    elif node.op == "prelu" and node.inputs[0] not in graph.constants:
        number = _number(graph, node)
        if number is None or not (number.size == 1 or is_channel_function(graph, node)):
            return None
        slope = number.astype(np.float32).ravel()
    else:
        return None
    return slope if (np.abs(slope) <= MAX_SLOPE).all() else None


def _number(graph: Graph, node: Node) -> Array | None:
    """The constant of arithmetic between a value and a constant, whose result has the value's shape."""
    if node.op not in _ARITHMETIC or len(operands(graph, node)) != 1:
        return None
    constant = next((graph.constants[name] for name in node.inputs if name in graph.constants), None)
    same = graph.values[operands(graph, node)[0]].shape == graph.values[node.outputs[0]].shape
    return constant if same and isinstance(constant, np.ndarray) else None


def function_of(graph: Graph, node: Node) -> Callable[[Array], Array]:
    """What such a node computes, on float64; with numbers for channels from [256] to [C, 256]."""
    if node.op == "unary":
        return lambda x: np.asarray(unary(str(node.attrs["kind"]), x, node.attrs), np.float64)
    if node.op == "clip":
        low, high = (node.attrs.get(name, bound) for name, bound in (("min", -np.inf), ("max", np.inf)))
        return lambda x: np.asarray(np.clip(x, low, high))
    compute = _ARITHMETIC[node.op]
    constant = _number(graph, node)
    assert constant is not None
    number = constant.astype(np.float64).reshape(() if constant.size == 1 else (-1, 1))
    if node.inputs[0] in graph.constants:
        return lambda x: compute(number, x)
    return lambda x: compute(x, number)
