"""One node as its operator sees it: what shape rules and references ask, and how they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import GraphError
from ..graph import dims
from ..graph.ir import Array, Condition, Dim, Node, Symbol, Value, Weight

Assume = Callable[[Condition], bool]
"""While a graph is made: takes a condition for given if its sizes can be such, and says whether it did."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One node as its operator sees it: attributes with defaults, and inputs as types (to infer) or arrays (to run)."""

    node: Node
    attrs: Mapping[str, Any]
    values: tuple[Value | None, ...] = ()
    arrays: tuple[Array | Weight | None, ...] = ()
    symbols: Mapping[str, Symbol] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    assume: Assume | None = None

    def value(self, position: int) -> Value:
        """The type of a required input.

        Args:
            position: Of the input.

        Returns:
            Its type.

        Raises:
            GraphError: It is absent.
        """
        value = self.values[position] if position < len(self.values) else None
        if value is None:
            raise GraphError(f"input {position} is required")
        return value

    def array(self, position: int) -> Array:
        """A required input.

        Args:
            position: Of the input.

        Returns:
            Its array; of a quantized weight the numbers.

        Raises:
            GraphError: It is absent.
        """
        array = self.arrays[position]
        if array is None:
            raise GraphError(f"input {position} must be an array")
        return array.numbers if isinstance(array, Weight) else array

    def weight(self, position: int) -> Weight:
        """A quantized weight.

        Args:
            position: Of the input.

        Returns:
            The weight.

        Raises:
            GraphError: It is none.
        """
        weight = self.arrays[position]
        if not isinstance(weight, Weight):
            raise GraphError(f"input {position} must be a quantized weight")
        return weight

    def optional(self, position: int) -> Array | None:
        """An input that may be absent.

        Args:
            position: Of the input.

        Returns:
            Its array, or None.
        """
        return self.array(position) if position < len(self.arrays) and self.arrays[position] is not None else None

    def is_present(self, position: int) -> bool:
        """Whether an optional input is given.

        Args:
            position: Of the input.

        Returns:
            Whether the node names one.
        """
        inputs = self.node.inputs
        return position < len(inputs) and inputs[position] != ""

    def need(self, condition: bool, reason: str) -> None:
        """Refuse a node unless a condition holds.

        Args:
            condition: What must hold.
            reason: What the error says.

        Raises:
            GraphError: It does not hold.
        """
        if not condition:
            raise GraphError(reason)

    def same(self, a: Dim, b: Dim, what: str) -> None:
        """Refuse a node unless two sizes are equal.

        Args:
            a: A size.
            b: Another.
            what: What the error says before the sizes.

        Raises:
            GraphError: They differ.
        """
        self.need(self.equal(a, b), f"{what}: {a} is not {b}")

    def equal(self, a: Dim, b: Dim) -> bool:
        """Whether two sizes are the same at all sizes that are possible.

        Args:
            a: A size.
            b: Another.

        Returns:
            Whether they are, or could be taken to be.
        """
        if dims.equal(a, b, self.symbols, self.conditions):
            return True
        return self.assume is not None and self.assume(Condition(kind="zero", size=dims.sub(a, b)))

    def at_least(self, size: Dim, least: int, reason: str) -> None:
        """Refuse a node where a size cannot be so large.

        Args:
            size: The size.
            least: What it must be at least.
            reason: What the error says.

        Raises:
            GraphError: No possible size is so large.
        """
        low, high = dims.bounds(size, self.symbols)
        self.need(high >= least, reason)
        if low < least and self.assume is not None:
            self.need(self.assume(Condition(kind="natural", size=dims.sub(size, least))), reason)

    def fixed_shape(self, position: int, rank: int | None = None) -> tuple[int, ...]:
        """The shape of an input that has no symbols in it, such as a weight.

        Args:
            position: Of the input.
            rank: What its rank must be; None: any.

        Returns:
            Sizes.

        Raises:
            GraphError: It has free sizes, or another rank.
        """
        shape = self.value(position).shape
        sizes = tuple(size for size in shape if isinstance(size, int))
        self.need(len(sizes) == len(shape), f"input {position} must have a fixed shape, has {list(shape)}")
        self.need(
            rank is None or len(sizes) == rank, f"input {position} must have rank {rank}, has shape {list(shape)}"
        )
        return sizes

    def shape(self, position: int, rank: int | None = None) -> tuple[Dim, ...]:
        """The shape of an input.

        Args:
            position: Of the input.
            rank: What its rank must be; None: any.

        Returns:
            Sizes, or expressions of them.

        Raises:
            GraphError: It has another rank.
        """
        shape = self.value(position).shape
        self.need(
            rank is None or len(shape) == rank, f"input {position} must have rank {rank}, has shape {list(shape)}"
        )
        return shape

    def match(self, position: int, shape: Sequence[Dim]) -> None:
        """Refuse a node whose input has another shape than this; an optional input may be absent.

        Args:
            position: Of the input.
            shape: What it must be.

        Raises:
            GraphError: It has another shape.
        """
        value = self.values[position] if position < len(self.values) else None
        if value is None:
            return
        ok = len(value.shape) == len(shape) and all(self.equal(a, b) for a, b in zip(value.shape, shape, strict=True))
        self.need(ok, f"input {position} must have shape {list(shape)}, has {list(value.shape)}")

    def axis(self, rank: int) -> int:
        """The attribute `axis`, counted from the front.

        Args:
            rank: Of the value that it is an axis of.

        Returns:
            From 0 to rank - 1.

        Raises:
            GraphError: It is out of range.
        """
        axis = int(self.attrs["axis"])
        self.need(-rank <= axis < rank, f"axis {axis} is out of range for rank {rank}")
        return axis % rank


def broadcast(call: Call, a: tuple[Dim, ...], b: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """NumPy's rule; a symbolic size fits 1 or itself."""
    rank = max(len(a), len(b))
    out: list[Dim] = []
    for x, y in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        fits = x == 1 or y == 1 or call.equal(x, y)
        call.need(fits, f"shapes {list(a)} and {list(b)} do not broadcast")
        out.append(y if x == 1 else x)
    return tuple(out)


def reduced_axes(call: Call, rank: int) -> tuple[int, ...]:
    """The attribute `axes`, counted from the front."""
    axes: tuple[int, ...] = call.attrs["axes"]
    call.need(all(-rank <= axis < rank for axis in axes), f"axes {list(axes)} are out of range for rank {rank}")
    found = tuple(axis % rank for axis in axes)
    call.need(len(set(found)) == len(found), f"axes {list(axes)} repeat")
    return found
