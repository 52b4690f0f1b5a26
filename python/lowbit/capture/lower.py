"""From torch's exported program to an `ir.Graph`: one small function for each aten operation.

A lowering takes the `Lowering` at work and the operation's arguments in the order of its aten schema: tensors as
`Ref`s, sizes as `Dim`s, everything else as it is. It returns the result's `Ref`. To add an operation, write such a
function in `operators/` and register it with `@lowers`. What has none, or is used in a way that has none, is
collected: one error lists it all.

Whatever depends on constants alone is computed here, by torch, and becomes a constant. In-place operations have their
functional meaning: later readers of the tensor read the result (and torch functionalizes the program first where views
of the tensor would see it too).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch.fx import Node as TorchNode

from ..errors import GraphError, UnsupportedError
from ..graph import dims
from ..graph.dims import evaluate, symbols_of
from ..graph.ir import Coded, Graph, Node, State, Value
from ..graph.limits import Limits, sentence, smallest
from ..graph.limits import describe as describe_limit
from ..ops import infer
from ..ops.interpreter import with_sizes
from .builder import REMEDY, Complex, Ref
from .export import RESULTS, Program
from .places import Problem, source_of
from .sizes import Need, user_inputs
from .walk import Walk
from .writes import drop_writes, has_hidden_writes, has_writes, writes_state, written_state

_NONE: Mapping[str, int] = MappingProxyType({})
MAX_NEEDS = 10_000
"""Of sizes, after which nothing more is learned."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A float32 graph; for each of the model's result tensors its position in the outputs.

    notes: what runs in torch. writes, unkept: the inputs and the buffers that forward() writes to, and the graph does
    not. codes: the weights that came quantized. marks: the values that `lowbit::mark` named, by its index.
    """

    graph: Graph
    positions: tuple[int, ...]
    notes: tuple[str, ...]
    writes: tuple[str, ...]
    unkept: tuple[str, ...] = ()
    codes: tuple[Coded, ...]
    marks: Mapping[int, str]


def lower(
    program: Program, *, fallback: bool = False, codes: Sequence[Coded] = (), states: Mapping[str, int] = _NONE
) -> Made:
    """The program as a graph. fallback: what has no lowering becomes segments that torch runs.

    states: inputs that are results of the last call, counted as the program's output does.

    torch looks at free sizes of 2 and more alone; 1 is taken for possible, too, as long as all operations fit it.
    Raises UnsupportedError that lists every operation without a lowering.
    """
    try:
        return _lower(program, False, codes, states)
    except UnsupportedError as error:
        ones = [name for name in error.sizes if program.symbols[name].minimum == 1 < program.symbols[name].maximum]
        for names in subsets(ones):
            with suppress(UnsupportedError):
                made = _lower(_at_least_2(program, names), False, codes, states)
                notes = [_AT_LEAST_2.format(name.replace("_", " "), error.sizes[name]) for name in names]
                return replace(made, notes=(*notes, *made.notes))
        if not fallback:
            raise
    return _lower(program, True, codes, states)


def subsets(names: Sequence[str]) -> list[list[str]]:
    """Each name by itself, then all together."""
    return [*([name] for name in names), *([[*names]] if len(names) > 1 else [])]


_AT_LEAST_2 = "the {} is at least 2: the code at {} fits no size of 1"


def _at_least_2(program: Program, names: Sequence[str]) -> Program:
    """The program with these sizes from 2 on."""
    grown = {name: replace(program.symbols[name], minimum=2) for name in names}
    return replace(program, limits=replace(program.limits, symbols={**program.symbols, **grown}))


def _lower(program: Program, fallback: bool, codes: Sequence[Coded], states: Mapping[str, int]) -> Made:
    exported, unkept = program.exported, dict[str, str]()
    if writes_state(exported):
        exported, unkept = _without_unread(exported)
    elif has_hidden_writes(exported.graph_module):
        exported = _functional(exported)
    in_torch: dict[TorchNode, Problem] = {}
    limits, needs = program.limits, list(program.needs)
    while True:
        lowering = _Whole(program, exported, in_torch, limits, codes)
        lowering.pairs = states
        try:
            made: Made | UnsupportedError = lowering.run()
        except UnsupportedError as error:
            made = error
        if lowering.needs and len(needs) < MAX_NEEDS:  # once more: sizes are written by what is known of them
            limits, needs = lowering.limits, needs + lowering.needs
            continue
        if isinstance(made, Made):
            notes = (*unkept.values(), *_told(program, limits, needs), *made.notes)
            return replace(made, notes=notes, unkept=tuple(unkept))
        refused = lowering.joining or lowering.refused
        found = {node: problem for node, problem in refused.items() if node not in in_torch}
        if not fallback or not found:
            raise made
        if has_writes(exported.graph_module):
            exported, in_torch = _functional(exported), {}
        else:
            in_torch |= found


def _address(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() if tensor.layout == torch.strided and tensor.device.type == "cpu" else 0


def _told(program: Program, limits: Limits, needs: list[Need]) -> Iterator[str]:
    """What sizes must be beyond what torch says, each with the first line that needs it."""
    for name, symbol in limits.symbols.items():
        if symbol.multiple > 1 or symbol.minimum > program.symbols[name].minimum:
            places = [place for condition, place in needs if name in dims.symbols_of(condition.size) and place]
            told = f"the {name.replace('_', ' ')} is {describe_limit(symbol)}"
            yield told + (f": needed at {places[0]}" if places else "")
    for condition in limits.conditions:
        place = next((place for need, place in needs if need == condition), "")
        yield sentence(condition) + (f": needed at {place}" if place else "")


def _functional(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without in-place operations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cast(torch.export.ExportedProgram, exported.run_decompositions({}))


def _without_unread(
    exported: torch.export.ExportedProgram,
) -> tuple[torch.export.ExportedProgram, dict[str, str]]:
    """The program without in-place operations, and what it writes to buffers and does not read; of these a note each.

    What a later call would see becomes a state.
    """
    if has_writes(exported.graph_module):
        exported = _functional(exported)
    notes: dict[str, str] = {}
    for name, (made, reader) in written_state(exported).items():
        if reader is None:
            place = source_of(made)
            notes[name] = f"the module writes to its buffer {name!r} ({place}); calls of the model leave it as it is"
    drop_writes(exported, notes)
    return exported, notes


class _Whole(Walk):
    """The walk over a whole program, from its inputs to its outputs."""

    pairs: Mapping[str, int] = _NONE
    """Inputs that are results of the last call."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.buffers: dict[str, Ref] = {}
        """Those that forward() writes to, as they are before the call."""

    def run(self) -> Made:
        """Lower everything. Raises UnsupportedError."""
        inputs = self.declare_inputs()
        results = self.lower_graph(self.exported.graph_module)
        self.raise_problems()
        outputs, positions = self.declare_outputs(results)
        states = self.declare_states(results, outputs)
        outputs = (*outputs, *(state.output for state in states))
        inputs = (*(name for name in inputs if name not in self.states), *(state.input for state in states))
        used = {name for node in self.nodes for name in node.inputs} | set(outputs)
        used |= {state.initial for state in states}
        # Copies: training goes on in the module's own tensors, the graph does not change with them.
        constants = {name: np.array(array, order="C") for name, array in self.constants.items() if name in used}
        values = {name: value for name, value in self.values.items() if name not in self.constants or name in constants}
        graph = Graph(
            inputs=inputs,
            outputs=outputs,
            values=values,
            nodes=tuple(self.nodes),
            constants=constants,
            symbols=self.limits.symbols,
            conditions=self.limits.conditions,
            states=states,
            origins={name: origin for name, origin in self.origins.items() if name in used},
        )
        self.check_smallest(graph)
        return Made(
            graph=graph,
            positions=positions,
            notes=tuple(self.notes),
            writes=self.written_inputs(),
            codes=tuple(self.codes),
            marks=self.marks,
        )

    def check_smallest(self, graph: Graph) -> None:
        """Raises UnsupportedError if a node fits sizes of 2 and more, and none of 1."""
        for least in (1, 2):
            symbols = {
                name: replace(symbol, minimum=min(max(symbol.minimum, least), symbol.maximum))
                for name, symbol in graph.symbols.items()
            }
            sizes = smallest(symbols, graph.conditions)
            node = None if sizes is None else _unfit(graph, sizes)
            if node is None:
                break
            self.problems += [_too_small(graph, node)] if least == 1 else []
        else:
            self.problems.clear()
        self.raise_problems()

    def declare_inputs(self) -> tuple[str, ...]:
        """Tensors of the caller become inputs, parameters and buffers constants, other arguments their values."""
        users = {node.name for node in user_inputs(self.program.exported)}
        inputs: list[str] = []
        tensors: dict[str, torch.Tensor] = {**self.exported.state_dict, **self.exported.constants}
        specs = {spec.arg.name: spec for spec in self.exported.graph_signature.input_specs}
        placeholders = [node for node in self.exported.graph.nodes if node.op == "placeholder"]
        written = {str(spec.target) for spec in self.exported.graph_signature.output_specs if _is_write(spec)}
        for node in sorted(placeholders, key=lambda node: node.name not in users):
            value = node.meta.get("val")
            if node.name not in users:
                target = specs[node.name].target or node.name
                self.env[node] = self.stored(tensors[target], target) if node.users else None
                if target in written:
                    self.env[node] = self.written(self.env[node], target)
            elif isinstance(value, torch.Tensor):
                declared = self.declared(value)
                self.values[node.name] = declared
                if node.name in self.pairs:
                    self.states[node.name] = State(input=node.name, output="")
                given = Ref(node.name, declared.dtype, declared.shape)
                self.env[node] = self.paired(given) if value.is_complex() and node.users else given
                inputs.append(node.name)
            else:
                self.env[node] = value
        return tuple(inputs)

    def stored(self, tensor: torch.Tensor, name: str) -> Ref | Complex:
        """A parameter or buffer, with the codes that it came with."""
        ref = self.held(tensor, name)
        if isinstance(ref, Ref) and tensor.numel():
            same = [each for each in self.codes if each.numbers.ctypes.data == _address(tensor)]
            self.origins |= {ref.name: tuple(same)} if same else {}
        return ref

    def written(self, held: Any, name: str) -> Ref:
        """A buffer that forward() reads and writes: a state, which begins as the buffer is now."""
        if not isinstance(held, Ref):
            raise UnsupportedError(f"forward() writes to {name!r}, which is complex: a state is of real numbers")
        self.buffers[name] = self.add_state(f"{name}.state", self.values[held.name], held)
        self.notes.append(_KEPT.format(name))
        return self.buffers[name]

    def declare_outputs(self, results: list[Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Distinct values of nodes; an input or constant that is returned as it is gets a node of its own.

        For each tensor that the program returns, its position; of a state, that of nothing (-1).
        """
        kept = set(self.pairs.values())
        made = {name for node in self.nodes for name in node.outputs}
        names: list[str] = []
        positions: list[int] = []
        copies: dict[str, str] = {}
        for index, result in enumerate(self.results(results)):
            if index in kept:
                positions.append(-1)
                continue
            name = self.returned(result).name
            if name not in made:
                if name not in copies:
                    copies[name] = self.copy(name)
                name = copies[name]
            if name not in names:
                names.append(name)
            positions.append(names.index(name))
        return tuple(names), tuple(positions)

    def declare_states(self, results: list[Any], outputs: tuple[str, ...]) -> tuple[State, ...]:
        """The states, each with an output of its own. Raises UnsupportedError for what no next call could take."""
        returned = self.results(results)
        for name, index in self.pairs.items():
            self.keep(self.typed_ref(name), self.returned(returned[index]))
        for spec, result in zip(self.exported.graph_signature.output_specs, results, strict=True):
            if _is_write(spec):
                self.keep(self.buffers[str(spec.target)], self.returned(result))
        taken = {*outputs, *self.values.keys() - {name for node in self.nodes for name in node.outputs}}
        states = []
        for name, state in self.states.items():
            before, after = self.values[name], self.values[state.output]
            if (before.dtype, before.shape) != (after.dtype, after.shape):
                raise UnsupportedError(_GROWS.format(name, _type(before), _type(after)))
            output = self.copy(state.output) if state.output in taken else state.output
            taken.add(output)
            is_counted = state.count in self.states
            count, axis = (state.count, state.axis) if is_counted else ("", 0)
            states.append(replace(state, output=output, count=count, axis=axis))
        return tuple(states)

    def results(self, results: list[Any]) -> list[Any]:
        """What a call returns, of all that the program gives."""
        pairs = zip(self.exported.graph_signature.output_specs, results, strict=True)
        return [
            result for spec, result in pairs if spec.kind.name == "USER_OUTPUT" and type(spec.arg).__name__ in RESULTS
        ]

    def typed_ref(self, name: str) -> Ref:
        """A value by its name."""
        return Ref(name, self.values[name].dtype, self.values[name].shape)

    def copy(self, name: str) -> str:
        """A node that gives a value as it is."""
        return self.emit("reshape", self.typed_ref(name), shape=self.values[name].shape).name

    def returned(self, result: Any) -> Ref:
        """What a call returns, as one value."""
        if isinstance(result, Complex):
            return self.unpaired(result)
        if isinstance(result, Ref) and result.name in self.foreign:
            raise UnsupportedError(f"{self.why_foreign(result)}, and the model returns it; return it in another type")
        return result if isinstance(result, Ref) else self.emit("dim_value", value=result)

    def written_inputs(self) -> tuple[str, ...]:
        """The caller's tensors that in-place operations write to."""
        roots = {node.name for node in self.same.values()} | set(
            self.exported.graph_signature.user_inputs_to_mutate.values()
        )
        return tuple(node.name for node in user_inputs(self.program.exported) if node.name in roots)


_KEPT = (
    "the module reads and writes its buffer {!r}: calls of the model begin with it as it is now, and "
    "model.session.run(..., state=model.session.state()) keeps it from one to the next"
)
_GROWS = (
    "state {!r} is {}, and {} after a call: a state has one type and size. Write into a tensor of the largest size, at "
    "a position that is a state, too; for language models of transformers there is lowbit.transformers.causal_lm"
)


def _type(value: Value) -> str:
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"


def _is_write(spec: Any) -> bool:
    """Whether a result of the program is the new value of a buffer or parameter."""
    return spec.kind.name in ("BUFFER_MUTATION", "PARAMETER_MUTATION")


def _unfit(graph: Graph, sizes: Mapping[str, int]) -> Node | None:
    """The first node that cannot be with these sizes."""

    def sized(value: Value) -> Value:
        return replace(value, shape=tuple(evaluate(size, sizes) for size in value.shape))

    values = {name: sized(graph.values[name]) for name in graph.inputs}
    plain = replace(graph, values=values, symbols={}, conditions=())
    for node in graph.nodes:
        try:
            values.update(zip(node.outputs, infer(with_sizes(node, sizes), plain), strict=True))
        except GraphError:
            return node
    return None


def _too_small(graph: Graph, node: Node) -> Problem:
    shapes = [graph.values[name].shape for name in (*node.inputs, *node.outputs) if name]
    names = frozenset(name for shape in shapes for size in shape for name in symbols_of(size))
    return Problem(node.op, "it fits no size of 1", REMEDY, node.source, names or frozenset(graph.symbols))
