"""What a lowering has to work with: the graph that is being made, and what torch's nodes are in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch.fx import Node as TorchNode

from ..errors import LowbitError, UnsupportedError
from ..graph.dims import symbols_of
from ..graph.ir import Coded, State, Value, Weight
from ..graph.limits import Limits
from ..torch_internals import pytree, schema
from .builder import WIDER, Builder, Complex, Ref, Unlowerable
from .export import Program, not_plain
from .places import Problem, describe, source_of


class Lowering(Builder):
    """The graph that is being made, and the exported node that is being lowered.

    env: what each of torch's nodes is here. narrow, foreign: constants of which torch's type is another, and tensors
    that no graph can hold. codes: weights that came quantized. marks: the values that `lowbit::mark` named.
    """

    def __init__(
        self,
        program: Program,
        exported: torch.export.ExportedProgram,
        in_torch: Mapping[TorchNode, Problem],
        limits: Limits,
        codes: Sequence[Coded] = (),
    ) -> None:
        super().__init__(limits, program.names, next(iter(exported.graph.nodes)))
        self.program, self.exported, self.in_torch = program, exported, in_torch
        self.env: dict[TorchNode, Any] = {}
        self.same: dict[TorchNode, TorchNode] = {}
        self.problems: list[Problem] = []
        self.refused: dict[TorchNode, Problem] = {}
        self.joining: dict[TorchNode, Problem] = {}
        self.narrow: dict[str, torch.dtype] = {}
        self.foreign: dict[str, torch.Tensor] = {}
        self.notes: list[str] = []
        self.codes = list(codes)
        self.marks: dict[int, str] = {}
        self.states: dict[str, State] = {}
        """By their inputs; an output that is still "" is to come."""

    def resolve(self, argument: Any) -> Any:
        """torch's argument with its nodes replaced by what they stand for."""
        if isinstance(argument, TorchNode):
            return self.env[argument]
        if isinstance(argument, tuple | list):
            return type(argument)(self.resolve(item) for item in argument)
        return argument

    def argument(self, name: str, default: Any) -> Any:
        """One argument of the operation by its name in the schema."""
        names = [item.name for item in schema(self.node.target).arguments]
        given = {**dict(zip(names, self.node.args, strict=False)), **self.node.kwargs}
        return self.resolve(given.get(name, default))

    # Constants.

    def parents(self) -> tuple[Coded, ...]:
        """See `Builder.parents`."""
        refs = pytree.tree_leaves([self.env.get(item) for item in self.node.all_input_nodes])
        found = [each for ref in refs if isinstance(ref, Ref) for each in self.origins.get(ref.name, ())]
        return tuple(dict.fromkeys(found))

    def note_codes(self, numbers: Ref, weight: Weight, source: str, *, rows: bool = False) -> None:
        """Note that a constant came quantized; rows: see `Coded`."""
        coded = Coded(numbers=self.constants[numbers.name], weight=weight, source=source, rows=rows)
        self.codes.append(coded)
        self.origins[numbers.name] = (coded,)

    def held(self, tensor: torch.Tensor, name: str) -> Ref | Complex:
        """A constant, or what stands in for a tensor that no graph can hold; constants may be computed from that."""
        try:
            ref = self.known(tensor, name)
        except Unlowerable:
            name = self.unique(name)
            self.foreign[name] = tensor
            self.values[name] = Value(dtype=str(tensor.dtype), shape=tuple(tensor.shape))
            return Ref(name, str(tensor.dtype), tuple(tensor.shape))
        if isinstance(ref, Ref) and tensor.dtype in WIDER:
            self.narrow[ref.name] = tensor.dtype
        return ref

    def is_constant(self, value: Any) -> bool:
        """Whether an argument is known now."""
        if isinstance(value, Complex):
            return value.real.name in self.constants and value.imag.name in self.constants
        known = isinstance(value, Ref) and (value.name in self.constants or value.name in self.foreign)
        return known or isinstance(value, int)

    def tensor(self, value: Any) -> Any:
        """A constant as a tensor of its own."""
        if isinstance(value, Complex):
            return torch.complex(self.tensor(value.real), self.tensor(value.imag))
        if isinstance(value, Ref) and value.name in self.foreign:
            return self.foreign[value.name]
        if not isinstance(value, Ref):
            return value
        tensor = torch.from_numpy(self.constants[value.name].copy())
        return tensor.to(self.narrow.get(value.name, tensor.dtype))

    def refuse_foreign(self, node: TorchNode) -> None:
        """Raises Unlowerable if the operation reads what no graph can hold."""
        for ref in pytree.tree_leaves([self.env.get(item) for item in node.all_input_nodes]):
            if isinstance(ref, Ref) and ref.name in self.foreign:
                remedy = "keep it in another form (register_buffer of what is computed from it, as float32 or integers)"
                raise Unlowerable(self.why_foreign(ref), remedy, always=True)

    def why_foreign(self, ref: Ref) -> str:
        """What keeps a buffer out of the graph."""
        tensor = self.foreign[ref.name]
        return f"the buffer {ref.name!r} is {not_plain(tensor) or f'of {tensor.dtype}, which lowbit has not'}"

    # States: inputs that the caller does not pass, and outputs that are theirs in the next call.

    def add_state(self, name: str, value: Value, initial: Ref | None = None) -> Ref:
        """A state as it is before the call. initial: the constant that it begins with, instead of zeros."""
        name = self.unique(name)
        self.values[name] = value
        self.states[name] = State(input=name, output="", initial=initial.name if initial is not None else "")
        return Ref(name, value.dtype, value.shape)

    def keep(self, state: Ref, after: Ref, count: Ref | None = None, axis: int = 0) -> None:
        """What a state is after the call. count, axis: see `ir.State`."""
        name = "" if count is None else count.name
        self.states[state.name] = replace(self.states[state.name], output=after.name, count=name, axis=axis)

    # What has no place in the graph.

    def refuse(
        self, reason: str, remedy: str, node: TorchNode | None = None, follows: bool = False, sized: bool = False
    ) -> Any:
        """Note a problem; what stands in for the result, so that the rest can be looked at too.

        follows: the problem is a consequence of one noted before. sized: it might be none if sizes were fixed.
        """
        at = node or self.node
        sizes = self.free_sizes(at) if sized else frozenset()
        self.refused[at] = Problem(str(at.target), reason, remedy, source_of(self.node), sizes)
        if not follows:
            self.problems.append(self.refused[at])
        value = self.node.meta.get("val")
        if isinstance(value, tuple | list):
            return tuple(self.stand_in(item) for item in value)
        return self.stand_in(value)

    def free_sizes(self, node: TorchNode) -> frozenset[str]:
        """The names of the free sizes of what a node reads and makes."""
        found = pytree.tree_leaves([item.meta.get("val") for item in (*node.all_input_nodes, node)])
        sizes = [size for item in found for size in (item.shape if isinstance(item, torch.Tensor) else (item,))]
        symbols = {symbol for size in sizes if isinstance(size, torch.SymInt) for symbol in size.node.expr.free_symbols}
        refs = pytree.tree_leaves([self.env.get(item) for item in node.all_input_nodes])
        dims = [dim for ref in refs if isinstance(ref, Ref | Complex) for dim in ref.shape]
        names = {self.names[symbol] for symbol in symbols if symbol in self.names}
        return frozenset(names.union(*map(symbols_of, dims)))

    def stand_in(self, value: Any) -> Ref | Complex | None:
        """A value that no node makes."""
        if not isinstance(value, torch.Tensor):
            return None
        if value.is_complex():
            parts = [self.stand_in(value.real) for _ in range(2)]
            return Complex(cast(Ref, parts[0]), cast(Ref, parts[1]))
        try:
            declared = self.declared(value)
        except (Unlowerable, LowbitError):
            known = all(isinstance(size, int) for size in value.shape)
            declared = Value(dtype="f32", shape=self.shape_of(value) if known else (1,) * value.dim())
        name = self.unique("unsupported")
        self.values[name] = declared
        return Ref(name, declared.dtype, declared.shape)

    def raise_problems(self) -> None:
        """Raises UnsupportedError if there are any."""
        if self.problems:
            error = UnsupportedError(describe(self.problems))
            if all(problem.sizes for problem in self.problems):
                error.sizes = {name: item.source or item.target for item in self.problems for name in item.sizes}
            raise error
