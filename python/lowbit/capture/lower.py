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
from typing import Any, cast

import numpy as np
import torch
from torch.fx import Node as TorchNode

from ..errors import GraphError, UnsupportedError
from ..graph import dims
from ..graph.dims import evaluate, symbols_of
from ..graph.ir import Coded, Graph, Node, Value
from ..graph.limits import Limits, sentence, smallest
from ..graph.limits import describe as describe_limit
from ..ops import infer
from ..ops.interpreter import with_sizes
from .builder import REMEDY, Complex, Ref
from .export import RESULTS, Program
from .places import Problem, describe, source_of
from .sizes import Need, user_inputs
from .walk import Walk
from .writes import has_hidden_writes, has_writes, without_written_state, writes_state, written_state

MAX_NEEDS = 10_000
"""Of sizes, after which nothing more is learned."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A float32 graph; for each of the model's result tensors its position in the outputs.

    notes: what runs in torch. writes, state: the inputs and the buffers that forward() writes to, and the graph does
    not. codes: the weights that came quantized. marks: the values that `lowbit::mark` named, by its index.
    """

    graph: Graph
    positions: tuple[int, ...]
    notes: tuple[str, ...]
    writes: tuple[str, ...]
    state: tuple[str, ...] = ()
    codes: tuple[Coded, ...]
    marks: Mapping[int, str]


def lower(program: Program, *, fallback: bool = False, codes: Sequence[Coded] = ()) -> Made:
    """The program as a graph. fallback: what has no lowering becomes segments that torch runs.

    torch looks at free sizes of 2 and more alone; 1 is taken for possible, too, as long as all operations fit it.
    Raises UnsupportedError that lists every operation without a lowering.
    """
    try:
        return _lower(program, fallback=False, codes=codes)
    except UnsupportedError as error:
        ones = [name for name in error.sizes if program.symbols[name].minimum == 1 < program.symbols[name].maximum]
        for names in subsets(ones):
            with suppress(UnsupportedError):
                made = _lower(_at_least_2(program, names), fallback=False, codes=codes)
                notes = [_AT_LEAST_2.format(name.replace("_", " "), error.sizes[name]) for name in names]
                return replace(made, notes=(*notes, *made.notes))
        if not fallback:
            raise
    return _lower(program, fallback=True, codes=codes)


def subsets(names: Sequence[str]) -> list[list[str]]:
    """Each name by itself, then all together."""
    return [*([name] for name in names), *([[*names]] if len(names) > 1 else [])]


_AT_LEAST_2 = "the {} is at least 2: the code at {} fits no size of 1"


def _at_least_2(program: Program, names: Sequence[str]) -> Program:
    """The program with these sizes from 2 on."""
    grown = {name: replace(program.symbols[name], minimum=2) for name in names}
    return replace(program, limits=replace(program.limits, symbols={**program.symbols, **grown}))


def _lower(program: Program, *, fallback: bool, codes: Sequence[Coded]) -> Made:
    exported, state = program.exported, dict[str, str]()
    if writes_state(exported):
        exported, state = _stateless(exported)
    elif has_hidden_writes(exported.graph_module):
        exported = _functional(exported)
    in_torch: dict[TorchNode, Problem] = {}
    limits, needs = program.limits, list(program.needs)
    while True:
        lowering = _Whole(program, exported, in_torch, limits, codes)
        try:
            made: Made | UnsupportedError = lowering.run()
        except UnsupportedError as error:
            made = error
        if lowering.needs and len(needs) < MAX_NEEDS:  # once more: sizes are written by what is known of them
            limits, needs = lowering.limits, needs + lowering.needs
            continue
        if isinstance(made, Made):
            notes = (*state.values(), *_told(program, limits, needs), *made.notes)
            return replace(made, notes=notes, state=tuple(state))
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


def _stateless(exported: torch.export.ExportedProgram) -> tuple[torch.export.ExportedProgram, dict[str, str]]:
    """The program without what it writes to buffers; their names, each with a note.

    Raises UnsupportedError if the next call would see what is written.
    """
    if has_writes(exported.graph_module):
        exported = _functional(exported)
    problems: list[Problem] = []
    notes: dict[str, str] = {}
    for name, (made, reader) in written_state(exported).items():
        place = source_of(made) or (source_of(reader) if reader is not None else "")
        if reader is None:
            notes[name] = f"the module writes to its buffer {name!r} ({place}); calls of the model leave it as it is"
        else:
            reason = "forward() writes to this buffer, and a result depends on what the last call left there"
            problems.append(Problem(f"buffer {name!r}", f"{reason}; a converted model keeps no state", _STATE, place))
    if problems:
        raise UnsupportedError(describe(problems))
    without_written_state(exported)
    return exported, notes


_STATE = "take the state as an input of forward() and return its new value as an output"


class _Whole(Walk):
    """The walk over a whole program, from its inputs to its outputs."""

    def run(self) -> Made:
        """Lower everything. Raises UnsupportedError."""
        inputs = self.declare_inputs()
        results = self.lower_graph(self.exported.graph_module)
        self.raise_problems()
        outputs, positions = self.declare_outputs(results)
        used = {name for node in self.nodes for name in node.inputs} | set(outputs)
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
        for node in sorted(placeholders, key=lambda node: node.name not in users):
            value = node.meta.get("val")
            if node.name not in users:
                target = specs[node.name].target or node.name
                self.env[node] = self.stored(tensors[target], target) if node.users else None
            elif isinstance(value, torch.Tensor):
                declared = self.declared(value)
                self.values[node.name] = declared
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

    def declare_outputs(self, results: list[Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Distinct values of nodes; an input or constant that is returned as it is gets a node of its own."""
        returned = [
            self.returned(result)
            for spec, result in zip(self.exported.graph_signature.output_specs, results, strict=True)
            if spec.kind.name == "USER_OUTPUT" and type(spec.arg).__name__ in RESULTS
        ]
        made = {name for node in self.nodes for name in node.outputs}
        names: list[str] = []
        positions: list[int] = []
        copies: dict[str, str] = {}
        for ref in returned:
            name = ref.name
            if name not in made:
                if name not in copies:
                    copies[name] = self.emit("reshape", ref, shape=ref.shape).name
                name = copies[name]
            if name not in names:
                names.append(name)
            positions.append(names.index(name))
        return tuple(names), tuple(positions)

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
