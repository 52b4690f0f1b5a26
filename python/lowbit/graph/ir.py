"""The graph that everything between capture and file speaks in: frozen values, nodes and weights.

A `Graph` is a list of `Node`s in topological order over named values. A value is an input, a constant or one node's
output; `Graph.values` gives its `Value` (dtype, shape, quantization). Shapes are in torch's own layout (NCHW);
memory layout is the session's business. Nothing here knows torch, a file or an ISA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Dim = int | str
"""A size: a number, or an expression over the graph's symbols such as `"batch"` or `"2*s1 + 1"` (see `dims.py`)."""
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
"""Element types with a NumPy twin. `bf16` is reserved: a name the file format knows."""


@dataclass(frozen=True, kw_only=True)
class Quant:
    """How codes mean numbers: real = (code - zero_point) * scale. A text names the value that holds the number."""

    scale: float | str
    zero_point: int | str


@dataclass(frozen=True, kw_only=True)
class Value:
    """The type of one value."""

    dtype: str
    shape: tuple[Dim, ...]
    quant: Quant | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight:
    """A quantized constant: real = (codes - zero_points) * scales, per channel of `axis` or per group of the last axis.

    codes: int8, row-major, the logical shape of the float weight. 8 bits: scales float32 [channels], symmetric. 4 bits:
    codes -8 .. 7, or 0 .. 15 with zero_points; scales float16 [channels, groups] of `group_size` weights each, and
    zero_points uint8 of that shape. packing: of the codes in a file, "plain", or "nibbles" (two a byte). sparsity: the
    pattern of blocks (`blocks.PATTERNS`) in which the codes' zeros lie, None for a dense weight; a note for files and
    people, which changes no result. g_idx is reserved.
    """

    codes: Array
    scales: Array
    bits: int = 8
    axis: int = 0
    group_size: int = 0
    zero_points: Array | None = None
    packing: str = "plain"
    g_idx: Array | None = None
    sparsity: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape."""
        return tuple(self.codes.shape)


Coded = tuple[Array, Weight, str]
"""A weight that came quantized: its float32 numbers, its codes, and where it came from, for people."""


@dataclass(frozen=True, kw_only=True)
class Symbol:
    """A size unknown until run time: inclusive bounds, and `remainder` more than a multiple of `multiple`."""

    minimum: int = 1
    maximum: int = 2**31 - 1
    multiple: int = 1
    remainder: int = 0


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What sizes must fulfil beyond the limits of each by itself: the expression is "zero", "nonzero" or "natural".

    natural: 0 or more.
    """

    kind: str
    size: Dim


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation. `inputs`: "" for an absent optional one. `source`: the module path and line it came from."""

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
    """A whole model. `states` are (input, output) pairs that a session keeps between calls (reserved)."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, Value]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array | Weight]
    symbols: Mapping[str, Symbol] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    states: tuple[tuple[str, str], ...] = ()

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
