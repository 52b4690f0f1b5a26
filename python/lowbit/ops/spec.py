"""How an operator is described: its inputs, its attributes, its shape rule and its reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import GraphError
from ..graph import dims
from ..graph.ir import Array, Attribute, Graph, Node, Symbol, Value, Weight, replace
from .call import Assume, Call

MAX_RANK = 8
MAX_ELEMENTS = 2**40
"""Of one value at its smallest sizes; a graph that asks for more is a mistake or an attack."""
SIZE = 2**31 - 1
FLOAT_MAX = float(np.finfo(np.float32).max)
FLOAT_TINY = float(np.finfo(np.float32).tiny)

Infer = Callable[[Call], Sequence[Value]]
Reference = Callable[[Call], Sequence[Array]]


@dataclass(frozen=True, kw_only=True)
class Attr:
    """One attribute: its kind, range and default. Without a default it is required, unless `optional`."""

    kind: str
    """int, float, text, ints, floats, texts, dim or dims"""
    default: Attribute | None = None
    optional: bool = False
    minimum: float = -SIZE
    maximum: float = SIZE
    choices: tuple[str, ...] = ()
    count: int | None = None
    longest: int = 2 * MAX_RANK

    def problem(self, value: object) -> str:
        """Check a value.

        Args:
            value: Of the attribute.

        Returns:
            Why it is not allowed, or "".

        Raises:
            GraphError: A size that is no expression.
        """
        if self.kind == "text":
            return (
                "" if value in self.choices and isinstance(value, str) else f"must be one of {', '.join(self.choices)}"
            )
        if self.kind in ("int", "float", "dim"):
            return self._item_problem(value)
        if not isinstance(value, (tuple, list)):
            return f"must be a sequence of {self.kind[:-1]}s"
        if self.count is not None and len(value) != self.count:
            return f"must have {self.count} items, has {len(value)}"
        if len(value) > self.longest:
            return f"has {len(value)} items, more than any operator takes"
        return next(filter(None, map(self._item_problem, value)), "")

    def _item_problem(self, value: object) -> str:
        kind = self.kind.removesuffix("s")
        if kind == "dim" and isinstance(value, str):
            dims.simplify(value)  # GraphError says why
            return ""
        if kind == "text":
            return "" if isinstance(value, str) and value in self.choices else f"holds {str(value)[:40]!r}"
        number = float if kind == "float" else int
        if not isinstance(value, (int, number)) or (isinstance(value, bool) and (self.minimum, self.maximum) != (0, 1)):
            return f"must be {'a number' if kind == 'float' else 'an integer'}, is {str(value)[:40]!r}"
        if not math.isfinite(value) or not self.minimum <= value <= self.maximum:
            return f"must be in [{self.minimum:g}, {self.maximum:g}], is {value}"
        return ""


def integer(minimum: int = -SIZE, maximum: int = SIZE, default: int | None = None) -> Attr:
    """An integer."""
    return Attr(kind="int", minimum=minimum, maximum=maximum, default=default)


def integers(count: int | None, minimum: int, maximum: int = SIZE, default: tuple[int, ...] | None = None) -> Attr:
    """A list of integers."""
    return Attr(kind="ints", count=count, minimum=minimum, maximum=maximum, default=default)


def number(
    minimum: float = -FLOAT_MAX, maximum: float = FLOAT_MAX, default: float | None = None, optional: bool = False
) -> Attr:
    """A finite float32."""
    return Attr(kind="float", minimum=minimum, maximum=maximum, default=default, optional=optional)


def choice(*choices: str, default: str | None = None) -> Attr:
    """One of some words."""
    return Attr(kind="text", choices=choices, default=default)


def dim_list(count: int | None = None, minimum: int = -SIZE) -> Attr:
    """A list of sizes, each an integer or an expression."""
    return Attr(kind="dims", count=count, minimum=minimum)


SIZE_OR_NUMBER = Attr(kind="dim", minimum=-dims.LIMIT + 1, maximum=dims.LIMIT - 1)
"""One integer, or an expression; it may be negative."""
SCALE = number(minimum=FLOAT_TINY)
CODE = integer(0, 255)
FLAG = integer(0, 1, default=0)
OPTIONAL_NUMBER = number(optional=True)
"""Absent: no bound (an infinity is not JSON)."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input: which dtypes, whether it may be absent (""), must be a constant, or a quantized `Weight`.

    Other float inputs may be a `Weight`, too, and mean its numbers.
    """

    name: str
    dtypes: tuple[str, ...] = ("f32",)
    optional: bool = False
    constant: bool = False
    weight: bool = False


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operator: its shape rule and its NumPy reference are the specification; a session must agree."""

    name: str
    inputs: tuple[Input, ...]
    infer_rule: Infer
    reference_rule: Reference
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    variadic: bool = False
    """The last input may be repeated."""
    outputs: int = 1
    """0: as many as the shape rule gives."""
    note: str = ""
    """What its inputs, attributes and outputs do not say by themselves, for docs/file-format.md."""

    def input(self, position: int) -> Input:
        """The description of an input.

        Args:
            position: Its place among the node's inputs; the last input of a variadic operator may be repeated.

        Returns:
            The description.
        """
        return self.inputs[min(position, len(self.inputs) - 1)] if self.variadic else self.inputs[position]

    def infer(
        self, node: Node, inputs: Sequence[Value | None], graph: Graph | None = None, assume: Assume | None = None
    ) -> tuple[Value, ...]:
        """The outputs' types, symbolic sizes kept.

        Args:
            node: The node.
            inputs: The types of its inputs; None for one that is absent.
            graph: Lends the limits of its symbols.
            assume: What the operator needs of free sizes is asked of it, not refused.

        Returns:
            A type for each output.

        Raises:
            GraphError: Attributes, types or shapes that do not fit.
        """
        problems = attribute_problems(self, node) + arity_problems(self, node)
        if not problems:
            problems = dtype_problems(self, node, inputs)
        if problems:
            raise GraphError(f"{describe(node)}: {'; '.join(problems)}")
        symbols = graph.symbols if graph is not None else {}
        try:
            call = Call(
                node=node,
                attrs=attributes(self, node),
                values=tuple(inputs),
                symbols=symbols,
                conditions=graph.conditions if graph is not None else (),
                assume=assume,
            )
            return tuple(self._checked(value, symbols) for value in self.infer_rule(call))
        except GraphError as error:
            raise GraphError(f"{describe(node)}: {error}") from None

    def _checked(self, value: Value, symbols: Mapping[str, Symbol]) -> Value:
        shape = tuple(dims.simplify(size, symbols) for size in value.shape)
        if len(shape) > MAX_RANK:
            raise GraphError(f"the output would have rank {len(shape)}, more than {MAX_RANK}")
        if any(isinstance(size, int) and size < 0 for size in shape):
            raise GraphError(f"the output would have shape {list(shape)}")
        return replace(value, shape=shape)

    def reference(self, node: Node, inputs: Sequence[Array | Weight | None]) -> tuple[Array, ...]:
        """The outputs by the NumPy reference.

        Args:
            node: The node. Sizes in its attributes must be numbers by now.
            inputs: Its inputs; None for one that is absent.

        Returns:
            An array for each output.

        Raises:
            InputError: Values that the operator cannot take, such as an index out of range.
        """
        with np.errstate(all="ignore"):
            outputs = self.reference_rule(Call(node=node, attrs=attributes(self, node), arrays=tuple(inputs)))
        return tuple(np.ascontiguousarray(output) if output.ndim else output for output in outputs)


def describe(node: Node) -> str:
    """How messages name a node.

    Args:
        node: The node.

    Returns:
        Its name, operator and source line.

    Examples:
        >>> from lowbit.graph.ir import Node
        >>> from lowbit.ops import describe
        >>> describe(Node(op="add", name="sum", inputs=("a", "b"), outputs=("y",), source="net.py:3"))
        "node 'sum' (add, net.py:3)"
    """
    return f"node {node.name!r} ({node.op}{', ' + node.source if node.source else ''})"


def attributes(op: Op, node: Node) -> dict[str, Any]:
    """A node's attributes with defaults filled in.

    Args:
        op: The operator.
        node: The node.

    Returns:
        Values by name; optional ones that are absent stay absent.

    Examples:
        >>> from lowbit.graph.ir import Node
        >>> from lowbit.ops import OPS, attributes
        >>> attributes(OPS["matmul"], Node(op="matmul", name="m", inputs=("a", "b"), outputs=("y",)))
        {'transpose_b': 0}
    """
    defaults = {name: attr.default for name, attr in op.attrs.items() if attr.default is not None}
    return {**defaults, **node.attrs}


def attribute_problems(op: Op, node: Node) -> list[str]:
    """What is wrong with the node's attributes."""
    problems = [f"unknown attribute {name!r}" for name in node.attrs if name not in op.attrs]
    for name, attr in op.attrs.items():
        if name not in node.attrs:
            if attr.default is None and not attr.optional:
                problems.append(f"attribute {name!r} is missing")
            continue
        try:
            reason = attr.problem(node.attrs[name])
        except GraphError as error:
            reason = str(error)
        if reason:
            problems.append(f"attribute {name!r} {reason}")
    return problems


def arity_problems(op: Op, node: Node) -> list[str]:
    """What is wrong with the number of inputs and outputs."""
    problems = []
    least = sum(not item.optional for item in op.inputs)
    most = len(op.inputs)
    count = len(node.inputs)
    if count < least or (count > most and not op.variadic):
        expected = f"at least {least}" if op.variadic else str(least) if least == most else f"{least} to {most}"
        problems.append(f"takes {expected} inputs, has {count}")
    for position, name in enumerate(node.inputs[: None if op.variadic else most]):
        if not name and not op.input(position).optional:
            problems.append(f"input {position} ({op.input(position).name}) is required")
    if op.outputs and len(node.outputs) != op.outputs:
        problems.append(f"makes {op.outputs} outputs, names {len(node.outputs)}")
    return problems


def dtype_problems(op: Op, node: Node, values: Sequence[Value | None]) -> list[str]:
    """What is wrong with the inputs' dtypes."""
    problems = []
    for position, value in enumerate(values):
        allowed = op.input(position).dtypes
        if value is not None and value.dtype not in allowed:
            problems.append(
                f"input {position} ({op.input(position).name}) is {value.dtype}, must be {' or '.join(allowed)}"
            )
    return problems


_DTYPE_NAMES = {
    np.dtype(np.float32): "f32",
    np.dtype(np.float16): "f16",
    np.dtype(np.int64): "i64",
    np.dtype(np.int32): "i32",
    np.dtype(np.bool_): "bool",
    np.dtype(np.uint8): "u8",
    np.dtype(np.int8): "s8",
}


def constant_value(constant: Array | Weight) -> Value:
    """The type of a constant; a `Weight` is a tensor of floats.

    Args:
        constant: An array or a weight.

    Returns:
        Its dtype and shape.

    Raises:
        GraphError: A dtype that graphs do not have.

    Examples:
        >>> import numpy as np
        >>> from lowbit.ops import constant_value
        >>> constant_value(np.zeros((2, 3), np.float32))
        Value(dtype='f32', shape=(2, 3), quant=None)
    """
    if isinstance(constant, Weight):
        return Value(dtype="f32", shape=constant.shape)
    name = _DTYPE_NAMES.get(constant.dtype)
    if name is None:
        raise GraphError(
            f"a constant has dtype {constant.dtype}, which is not one of {', '.join(_DTYPE_NAMES.values())}"
        )
    return Value(dtype=name, shape=tuple(int(size) for size in constant.shape))
