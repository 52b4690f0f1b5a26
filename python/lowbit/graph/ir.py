"""The graph that everything between capture and file speaks in: frozen values, nodes and weights.

A `Graph` is a list of nodes in topological order over named values. A value is an input, a constant or one node's
output; `Graph.values` gives its `Value` (dtype, shape, quantization). Shapes are in torch's own layout (NCHW);
memory layout is the session's business. Nothing here knows torch, a file or an ISA.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .blocks import AT_ONCE

Array = npt.NDArray[Any]
Dim = int | str
"""A size, as a number or an expression over the graph's symbols such as `"batch"` or `"2*s1 + 1"` (see `dims.py`)."""
Attribute = int | float | str | bool | tuple["Attribute", ...]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "bool": np.dtype(np.bool_),
    "u8": np.dtype(np.uint8),
    "s8": np.dtype(np.int8),
}
"""Element types with a NumPy twin."""
RESERVED = {"bf16": "floats of 16 bits with float32's exponents", "sign": "-1 or 1, eight to a byte"}
"""Element types that files may name and no operator takes yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quant:
    """How codes mean numbers: real = (code - zero_point) * scale.

    Args:
        scale: The number, or the name of the value that holds it.
        zero_point: The code of zero, or the name of the value that holds it.
    """

    scale: float | str
    zero_point: int | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """The type of one value.

    Args:
        dtype: One of `DTYPES`.
        shape: Sizes in torch's order (NCHW).
        quant: What its codes mean, if it holds codes.
    """

    dtype: str
    shape: tuple[Dim, ...]
    quant: Quant | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight:
    """Real numbers in few bits, a constant.

    real = (code - zero point) * scale, or code * scale + offset, or values[code] * scale. At most one of `zero_points`,
    `offsets` and `values` is given. With one of these codes are 0 .. 2^bits - 1, else as many below zero as from zero
    on; of 8 bits -128 .. 127 always, and without zero points.

    Args:
        codes: int8 `[channels, inputs, *window]`, the shape of the real weight.
        scales: float16 or float32 [channels, groups], or [channels] without groups.
        bits: 1, 2, 3, 4 or 8, enough for each code.
        group_size: So many adjacent weights of a channel, its inputs innermost (`[*window, inputs]`), have one scale;
            0: all of a channel.
        zero_points: uint8 of the scales' shape.
        offsets: float16 or float32 of the scales' shape.
        values: float32 [2^bits].
        sparsity: The pattern of blocks (`blocks.PATTERNS`) in which the codes' zeros lie, None for a dense weight; a
            note for files and people, which changes no result.
    """

    codes: Array
    scales: Array
    bits: int = 8
    group_size: int = 0
    zero_points: Array | None = None
    offsets: Array | None = None
    values: Array | None = None
    sparsity: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the real weight."""
        return tuple(self.codes.shape)

    @property
    def rows(self) -> Array:
        """The codes [channels, depth], the inputs of a channel innermost, as groups lie; a view where it can be."""
        ordered = np.moveaxis(self.codes, 1, -1) if self.codes.ndim > 2 else self.codes
        return ordered.reshape(len(ordered), math.prod(self.shape[1:]))

    @property
    def numbers(self) -> Array:
        """The real weight in float32, with each operation rounded once."""
        return self.write_numbers(np.empty(self.shape, np.float32))

    def write_numbers(self, real: Array) -> Array:
        """`numbers`, into a float32 array of the weight's shape, C-contiguous; the array."""
        step = max(1, AT_ONCE // max(1, math.prod(self.shape[1:])))
        for at in range(0, len(real), step):  # what is between codes and numbers stays small
            self._compute(slice(at, at + step), real[at : at + step])
        return real

    def _compute(self, channels: slice, real: Array) -> None:
        rows = replace(self, codes=self.codes[channels]).rows
        size = self.group_size or rows.shape[1]
        groups = rows.reshape(len(rows), rows.shape[1] // size if self.group_size else 1, size)
        parts = {
            name: np.asarray(part[channels], np.float32).reshape(*groups.shape[:2], 1)
            for name in ("scales", "zero_points", "offsets")
            if (part := getattr(self, name)) is not None
        }
        made = real.reshape(groups.shape) if real.ndim < 3 else np.empty(groups.shape, np.float32)
        codes = groups if self.values is None else self.values[groups]
        if "zero_points" in parts:
            codes = np.subtract(codes, parts["zero_points"], out=made)
        np.multiply(codes, parts["scales"], out=made)
        if "offsets" in parts:
            np.add(made, parts["offsets"], out=made)
        if real.ndim >= 3:
            real[:] = np.moveaxis(made.reshape(len(rows), *self.shape[2:], self.shape[1]), -1, 1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """For NumPy, a weight is its real numbers."""
        return self.numbers if dtype is None else self.numbers.astype(dtype, copy=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """A weight that came quantized.

    Args:
        numbers: Its float32 numbers, as the model computes them.
        weight: Its codes.
        source: Where it came from, for people.
        rows: Whether its layer rounds each row of its input by the row's own range.
    """

    numbers: Array
    weight: Weight
    source: str
    rows: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbol:
    """A size unknown until run time.

    Args:
        minimum: The least it can be.
        maximum: The most it can be.
        multiple: It is `remainder` more than a multiple of this.
        remainder: From 0 to `multiple` - 1.
    """

    minimum: int = 1
    maximum: int = 2**31 - 1
    multiple: int = 1
    remainder: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What sizes must fulfil beyond the limits of each by itself.

    Args:
        kind: What the expression must be: "zero", "nonzero" or "natural" (0 or more).
        size: The expression.
    """

    kind: str
    size: Dim


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What a caller keeps from one call to the next: an output that is an input of the next call.

    Args:
        input: The graph input that takes it, of no free sizes but those of the batch.
        output: The graph output that gives it, of the input's type.
        initial: The constant that it begins with, repeated along axes of one; "": zeros.
        count: The input of another state, i64 [batch], that says how many positions of it are used; "": all of it.
        axis: With `count`, the axis along which its positions lie, in blocks of 16.
    """

    input: str
    output: str
    initial: str = ""
    count: str = ""
    axis: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One operation.

    Args:
        op: The operator's name.
        name: Its own, for messages.
        inputs: Names of values; "" for an absent optional one.
        outputs: Names of the values that it makes.
        attrs: The operator's attributes that are not its defaults.
        source: The module path and line that it came from.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Attribute] = field(default_factory=dict)
    source: str = ""

    def integer(self, name: str, default: int = 0) -> int:
        """An attribute that is a whole number; `default` where it is not given."""
        value = self.attrs.get(name, default)
        assert isinstance(value, int | np.integer), f"{name} of {self.name} is {value!r}"
        return int(value)

    def number(self, name: str, default: float = 0.0) -> float:
        """An attribute that is a number; `default` where it is not given."""
        value = self.attrs.get(name, default)
        assert isinstance(value, int | float | np.number), f"{name} of {self.name} is {value!r}"
        return float(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A whole model: nodes in topological order over named values.

    Args:
        inputs: Names of values, in the order of a call.
        outputs: Names of values, in the order of the result.
        values: The type of every input, constant and output of a node.
        nodes: The operations, in order.
        constants: Arrays and quantized weights.
        symbols: The sizes that are free, with their limits.
        conditions: What they must fulfil together.
        states: What callers keep between calls.
        origins: In a float graph, the weights that came quantized of which constants were computed; passes hand them
            on.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array | Weight]
    symbols: Mapping[str, Symbol] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    states: tuple[State, ...] = ()
    origins: Mapping[str, tuple[Coded, ...]] = field(default_factory=dict)

    def producer(self, value: str) -> Node | None:
        """The node that makes `value`, or None for an input or a constant."""
        return next((node for node in self.nodes if value in node.outputs), None)

    def consumers(self, value: str) -> tuple[Node, ...]:
        """The nodes that read `value`, in order."""
        return tuple(node for node in self.nodes if value in node.inputs)

    def uses(self) -> dict[str, int]:
        """How often each value is read by nodes or returned as an output."""
        count = dict.fromkeys(self.values, 0)
        for name in (*self.outputs, *(i for node in self.nodes for i in node.inputs if i)):
            count[name] += 1
        return count

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)
