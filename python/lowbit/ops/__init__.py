"""Every operator of the IR, by name: attributes, shape rule and NumPy reference. `OPS` is the specification."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..errors import GraphError
from ..graph.ir import Graph, Node, Value
from . import arithmetic, caches, indexing, ordering, reduction, sizes
from . import float as float_ops
from . import integer as integer_ops
from . import quantized as quantized_ops
from . import recurrent as recurrent_ops
from . import resize as resize_ops
from . import sampling as sampling_ops
from . import segment as segment_ops
from . import sequence as sequence_ops
from . import shape as shape_ops
from . import signs as sign_ops
from . import unpool as unpool_ops
from .call import Assume, Call
from .spec import Attr, Input, Op, attributes, constant_value, describe

__all__ = ["OPS", "Attr", "Call", "Input", "Op", "attributes", "constant_value", "describe", "infer"]

FAMILIES = (
    float_ops,
    unpool_ops,
    sequence_ops,
    caches,
    recurrent_ops,
    resize_ops,
    sampling_ops,
    arithmetic,
    reduction,
    ordering,
    integer_ops,
    quantized_ops,
    sign_ops,
    shape_ops,
    indexing,
    sizes,
    segment_ops,
)
"""The modules that hold operators: each has a tuple `OPS`."""
OPS: Mapping[str, Op] = MappingProxyType({op.name: op for family in FAMILIES for op in family.OPS})


def infer(node: Node, graph: Graph, assume: Assume | None = None) -> tuple[Value, ...]:
    """The types of a node's outputs.

    Args:
        node: The node.
        graph: Where its inputs are defined, and the limits of free sizes.
        assume: While a graph is made: takes what the operator needs of free sizes for given, and says whether it can.

    Returns:
        A type for each output; free sizes stay symbols.

    Raises:
        GraphError: An unknown operator, an input that is not defined, attributes, types or shapes that do not fit.

    Examples:
        >>> from lowbit.graph.ir import Graph, Node, Value
        >>> from lowbit.ops import infer
        >>> x = Value(dtype="f32", shape=("batch", 3))
        >>> graph = Graph(inputs=("x",), outputs=(), values={"x": x}, nodes=(), constants={})
        >>> infer(Node(op="transpose", name="t", inputs=("x",), outputs=("y",), attrs={"perm": (1, 0)}), graph)
        (Value(dtype='f32', shape=(3, 'batch'), quant=None),)
    """
    if node.op not in OPS:
        raise GraphError(f"{describe(node)}: there is no such operator")
    values: list[Value | None] = []
    for name in node.inputs:
        if name and name not in graph.values and name not in graph.constants:
            raise GraphError(f"{describe(node)}: input {name!r} is not defined")
        values.append((graph.values.get(name) or constant_value(graph.constants[name])) if name else None)
    return OPS[node.op].infer(node, values, graph, assume)
