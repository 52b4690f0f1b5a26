"""The graph that is being made: what lowerings append to it, and the types that they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
import torch
from torch.fx import Node as TorchNode

from ..errors import GraphError
from ..graph import dims
from ..graph.ir import Array, Attribute, Coded, Condition, Dim, Graph, Node, Value
from ..graph.limits import Limits
from ..ops import OPS, infer
from .export import FLOAT_NAMES, not_plain
from .places import node_name, source_of
from .sizes import Need, dim_of

REMEDY = "rewrite this part of forward() with supported operations, or keep it outside of the converted module"


@dataclass(frozen=True)
class Ref:
    """A tensor of the graph that is being made."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)


@dataclass(frozen=True)
class Complex:
    """A tensor of complex numbers, which graphs lack: its two parts, of one shape."""

    real: Ref
    imag: Ref

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape of both."""
        return self.real.shape

    @property
    def rank(self) -> int:
        """The number of axes."""
        return self.real.rank


class Unlowerable(Exception):
    """Raised by a lowering for what it cannot express; always: whatever the sizes are."""

    def __init__(self, reason: str, remedy: str = REMEDY, *, always: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.always = reason, remedy, always


_NUMPY = {"f32": np.float32, "i64": np.int64, "i32": np.int32, "bool": np.bool_, "u8": np.uint8, "s8": np.int8}
_DTYPES = {np.dtype(item): name for name, item in _NUMPY.items()}
_TORCH_DTYPES = {
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "bool",
    torch.uint8: "u8",
    torch.int8: "s8",
    **dict.fromkeys(FLOAT_NAMES, "f32"),
}


class Builder:
    """A graph that grows node by node, for the exported `node` at hand. names: of torch's symbols.

    limits: which sizes are possible; they become narrower with what the nodes need. needs: what was learned so, and
    from which line.
    """

    def __init__(self, limits: Limits, names: Mapping[sympy.Symbol, str], node: TorchNode) -> None:
        self.limits, self.names, self.node = limits, names, node
        self.needs: list[Need] = []
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Array] = {}
        self.origins: dict[str, tuple[Coded, ...]] = {}
        self.nodes: list[Node] = []
        self.node_names: set[str] = set()

    def emit(self, op: str, *inputs: Ref | None, **attrs: Attribute | None) -> Ref:
        """Append a node with one output; attributes that are None are left out."""
        return self.emit_all(op, *inputs, **attrs)[0]

    def emit_all(self, op: str, *inputs: Ref | None, **attrs: Attribute | None) -> tuple[Ref, ...]:
        """Append a node with all the outputs that its operator has."""
        names = [item.name if item else "" for item in inputs]
        while names and not names[-1]:
            names.pop()
        name = node_name(self.node, op)
        name = self.unique(f"{name}.{op}" if self.is_taken(name) else name)
        self.node_names.add(name)
        count = OPS[op].outputs
        outputs = (name,) if count == 1 else tuple(self.unique(f"{name}.{place}") for place in range(count))
        given = {key: value for key, value in attrs.items() if value is not None}
        node = Node(op=op, name=name, inputs=tuple(names), outputs=outputs, attrs=given, source=source_of(self.node))
        try:
            values = infer(node, self.typed(), self.assume)
        except GraphError as error:
            raise Unlowerable(str(error)) from None
        self.values.update(zip(outputs, values, strict=True))
        self.nodes.append(node)
        return tuple(Ref(item, value.dtype, value.shape) for item, value in zip(outputs, values, strict=True))

    def typed(self) -> Graph:
        """What is known so far, for the operators' shape rules."""
        return Graph(
            inputs=(),
            outputs=(),
            values=self.values,
            nodes=(),
            constants=self.constants,
            symbols=self.limits.symbols,
            conditions=self.limits.conditions,
        )

    def assume(self, condition: Condition) -> bool:
        """Take for given what a node needs of free sizes, if the example's sizes are such."""
        if self.limits.certain(condition):
            return True
        if not dims.holds(condition, self.limits.example):
            return False
        self.limits = self.limits.learn(condition)
        self.needs.append((condition, source_of(self.node)))
        return True

    def require(self, kind: str, size: Dim, what: str) -> None:
        """Raises Unlowerable with `what` where a size cannot be "zero", or "natural": 0 or more; else it must be."""
        if not self.assume(Condition(kind=kind, size=dims.simplify(size))):
            raise Unlowerable(f"{what} ({size})")

    def constant(self, data: Array | torch.Tensor | float, name: str = "") -> Ref:
        """A constant; any float becomes float32, and a Python number a float32 scalar. Raises Unlowerable."""
        if isinstance(data, torch.Tensor):
            _require_plain(data)
            data = _to_array(data)
        array = np.asarray(data, dtype=np.float32 if isinstance(data, int | float) else None)
        dtype = _DTYPES.get(array.dtype)
        if dtype is None:
            raise Unlowerable(f"a constant of dtype {array.dtype} is not supported")
        name = self.unique(name or f"{node_name(self.node, 'value')}.constant")
        shape = tuple(int(size) for size in array.shape)
        self.constants[name], self.values[name] = array, Value(dtype=dtype, shape=shape)
        found = self.parents()
        if found:
            self.origins[name] = found
        return Ref(name, dtype, shape)

    def parents(self) -> tuple[Coded, ...]:
        """The weights that came quantized of which the node at hand computes."""
        return ()

    def paired(self, x: Ref) -> Complex:
        """[..., 2] as complex numbers."""
        last, shape = x.rank - 1, x.shape[:-1]
        parts = (self.emit("slice", x, axis=last, start=place, stop=place + 1) for place in (0, 1))
        return Complex(*(self.reshape(item, shape) for item in parts))

    def unpaired(self, x: Complex) -> Ref:
        """Complex numbers as [..., 2]."""
        return self.emit("concat", *(self.reshape(item, (*x.shape, 1)) for item in (x.real, x.imag)), axis=x.rank)

    def known(self, tensor: torch.Tensor, name: str = "") -> Ref | Complex:
        """`constant` for any tensor; of complex numbers, both parts. Raises Unlowerable."""
        _require_plain(tensor)
        if not tensor.is_complex():
            return self.constant(tensor, name)
        name = name or f"{node_name(self.node, 'value')}.constant"
        parts = torch.view_as_real(tensor.detach().resolve_conj())
        return Complex(self.constant(parts[..., 0], f"{name}.real"), self.constant(parts[..., 1], f"{name}.imag"))

    def array(self, ref: Ref, what: str) -> Array:
        """The content of a constant; `what` says what it is if it is none."""
        if ref.name not in self.constants:
            raise Unlowerable(f"{what} must be a constant (a parameter or buffer), here it is computed from the inputs")
        return self.constants[ref.name]

    def out_shape(self, position: int | None = None) -> tuple[Dim, ...]:
        """The shape torch gives the result (of several: that at `position`)."""
        value = self.node.meta["val"]
        return self.shape_of(value if position is None else value[position])

    def shape_of(self, tensor: torch.Tensor) -> tuple[Dim, ...]:
        """The shape of one of torch's tensors."""
        return tuple(dims.simplify(dim_of(size, self.names), self.limits.symbols) for size in tensor.shape)

    def out_dtype(self) -> str:
        """The dtype of the result in the graph; of complex numbers, of each part."""
        dtype = self.node.meta["val"].dtype
        return "f32" if dtype.is_complex else ir_dtype(dtype)

    def reshape(self, x: Ref, shape: tuple[Dim, ...] | None = None) -> Ref:
        """`x` in another shape; without `shape`, that of torch's result."""
        shape = self.out_shape() if shape is None else shape
        return x if shape == x.shape else self.emit("reshape", x, shape=shape)

    def cast(self, x: Ref, dtype: str) -> Ref:
        """`x` as another dtype."""
        return x if x.dtype == dtype else self.emit("cast", x, dtype=dtype)

    def operand(self, x: Ref | Dim | float, dtype: str) -> Ref:
        """A tensor, a Python number or a size as an operand of that dtype."""
        if isinstance(x, Ref):
            return self.cast(x, dtype)
        if isinstance(x, str):
            return self.cast(self.emit("dim_value", value=x), dtype)
        return self.constant(np.asarray(x, dtype=_NUMPY[dtype]))

    def axis(self, x: Ref, axis: int) -> int:
        """The axis counted from the front."""
        return axis % max(x.rank, 1)

    def declared(self, value: Any) -> Value:
        """The type of one of torch's results; of complex numbers, with an axis of parts at the end.

        Raises Unlowerable or UnsupportedError for what a graph cannot hold.
        """
        if not isinstance(value, torch.Tensor):
            raise Unlowerable(f"it gives a {type(value).__name__} that depends on the inputs' values")
        self.check_size(value)
        if value.is_complex():
            return Value(dtype="f32", shape=(*self.shape_of(value), 2))
        return Value(dtype=ir_dtype(value.dtype), shape=self.shape_of(value))

    def check_size(self, value: Any) -> None:
        """Raises Unlowerable for a result whose size depends on values."""
        sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
        for size in sizes:
            if isinstance(size, torch.SymInt) and not size.node.expr.free_symbols <= self.names.keys():
                raise Unlowerable(
                    "the size of its result depends on the inputs' values",
                    "keep the full size and mask with torch.where, or keep this part outside of the converted module",
                    always=True,
                )

    def unique(self, preferred: str) -> str:
        """`preferred`, or with a number after it if that name is taken."""
        name, count = preferred, 1
        while self.is_taken(name):
            count += 1
            name = f"{preferred}_{count}"
        return name

    def is_taken(self, name: str) -> bool:
        """Whether a value or a node has that name."""
        return name in self.values or name in self.node_names


WIDER = {torch.int16: torch.int32, torch.uint16: torch.int32, torch.uint32: torch.int64}
"""Of constants: the whole numbers that a graph has not, and what holds them."""


def _require_plain(tensor: torch.Tensor) -> None:
    if not_plain(tensor) is not None:
        raise Unlowerable(f"a constant of {tensor.dtype}, {tensor.layout} on {tensor.device} is not supported")


def _to_array(tensor: torch.Tensor) -> Array:
    """A tensor's numbers, all floats as float32, and whole numbers that a graph has not as wider ones.

    Raises Unlowerable for types of which torch itself can say no numbers, such as packed bits.
    """
    plain = tensor.detach().cpu()
    wanted = torch.float32 if plain.dtype.is_floating_point else WIDER.get(plain.dtype, plain.dtype)
    try:
        array: Array = plain.to(wanted).resolve_conj().resolve_neg().contiguous().numpy()
    except (TypeError, NotImplementedError):
        raise Unlowerable(f"a constant of {tensor.dtype} is not supported") from None
    return array


def ir_dtype(dtype: torch.dtype) -> str:
    """All floats are computed as float32."""
    if dtype not in _TORCH_DTYPES:
        remedy = "convert it to a type that lowbit has, such as torch.int32"
        raise Unlowerable(f"dtype {dtype} is not supported", remedy, always=True)
    return _TORCH_DTYPES[dtype]


def is_held(dtype: torch.dtype) -> bool:
    """Whether graphs hold such numbers, complex ones as pairs."""
    return dtype in _TORCH_DTYPES or dtype.is_complex
