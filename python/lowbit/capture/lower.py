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

import inspect
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch.fx import GraphModule
from torch.fx import Node as TorchNode
from torch.utils import _pytree as pytree

from .. import dims
from ..dims import evaluate, symbols_of
from ..errors import GraphError, LowbitError, UnsupportedError
from ..interpreter import with_sizes
from ..ir import Coded, Condition, Dim, Graph, Node, Value, Weight
from ..limits import Limits, sentence, smallest
from ..limits import describe as describe_limit
from ..ops import infer
from .builder import REMEDY, WIDER, Builder, Complex, Ref, Unlowerable, is_held
from .export import RESULTS, Program, not_plain
from .fallback import Unit, Writer, between, units
from .places import Problem, describe, node_name, source_of
from .sizes import Need, dim_of, user_inputs
from .writes import (
    has_hidden_writes,
    has_writes,
    live_nodes,
    without_written_state,
    writes,
    writes_state,
    written_state,
)

__all__ = [
    "COMPLEX_LOWERINGS",
    "FOLD_LIMIT",
    "LOWERINGS",
    "Complex",
    "Lowered",
    "Lowering",
    "Made",
    "Ref",
    "Unlowerable",
    "lower",
    "lowers",
    "lowers_complex",
]

FOLD_LIMIT = 2**24
"""Elements: a constant larger than this, and larger than what it is computed from, is not computed at capture."""

MAX_NEEDS = 10_000
"""Of sizes, after which nothing more is learned."""

Lowered = Ref | tuple[Ref | None, ...]
LowerFunction = Callable[..., Any]
AnyLowering = TypeVar("AnyLowering", bound=LowerFunction)

LOWERINGS: dict[str, tuple[LowerFunction, int]] = {}
"""By aten name, `sum.default` (one overload) or `conv2d` (all others): the function and how many arguments it takes."""

COMPLEX_LOWERINGS: dict[str, tuple[LowerFunction, int]] = {}
"""The same for operations that take or give complex numbers: as `Complex`, what is real as `Ref`."""


def lowers(*names: str) -> Callable[[AnyLowering], AnyLowering]:
    """Registers a lowering. An in-place variant (`relu_`) is found under the plain name."""
    return _register(LOWERINGS, names)


def lowers_complex(*names: str) -> Callable[[AnyLowering], AnyLowering]:
    """Registers a lowering for where a tensor or number is complex."""
    return _register(COMPLEX_LOWERINGS, names)


def _register(
    table: dict[str, tuple[LowerFunction, int]], names: tuple[str, ...]
) -> Callable[[AnyLowering], AnyLowering]:
    def register(function: AnyLowering) -> AnyLowering:
        count = len(inspect.signature(function).parameters) - 1
        table.update(dict.fromkeys(names, (function, count)))
        return function

    return register


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A float32 graph; for each of the model's result tensors its position in the outputs.

    notes: what runs in torch. writes, state: the inputs and the buffers that forward() writes to, and the graph does
    not. codes: the weights that came quantized.
    """

    graph: Graph
    positions: tuple[int, ...]
    notes: tuple[str, ...]
    writes: tuple[str, ...]
    state: tuple[str, ...] = ()
    codes: tuple[Coded, ...]


def lower(program: Program, *, fallback: bool = False) -> Made:
    """The program as a graph. fallback: what has no lowering becomes segments that torch runs.

    torch looks at free sizes of 2 and more alone; 1 is taken for possible, too, as long as all operations fit it.
    Raises UnsupportedError that lists every operation without a lowering.
    """
    from . import operators  # noqa: F401  (fills the registry)

    try:
        return _lower(program, fallback=False)
    except UnsupportedError as error:
        ones = [name for name in error.sizes if program.symbols[name].minimum == 1 < program.symbols[name].maximum]
        for names in subsets(ones):
            with suppress(UnsupportedError):
                made = _lower(_at_least_2(program, names), fallback=False)
                notes = [_AT_LEAST_2.format(name.replace("_", " "), error.sizes[name]) for name in names]
                return replace(made, notes=(*notes, *made.notes))
        if not fallback:
            raise
    return _lower(program, fallback=True)


def subsets(names: Sequence[str]) -> list[list[str]]:
    """Each name by itself, then all together."""
    return [*([name] for name in names), *([[*names]] if len(names) > 1 else [])]


_AT_LEAST_2 = "the {} is at least 2: the code at {} fits no size of 1"


def _at_least_2(program: Program, names: Sequence[str]) -> Program:
    """The program with these sizes from 2 on."""
    grown = {name: replace(program.symbols[name], minimum=2) for name in names}
    return replace(program, limits=replace(program.limits, symbols={**program.symbols, **grown}))


def _lower(program: Program, *, fallback: bool) -> Made:
    exported, state = program.exported, dict[str, str]()
    if writes_state(exported):
        exported, state = _stateless(exported)
    elif has_hidden_writes(exported.graph_module):
        exported = _functional(exported)
    in_torch: dict[TorchNode, Problem] = {}
    limits, needs = program.limits, list(program.needs)
    while True:
        lowering = Lowering(program, exported, in_torch, limits)
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


class Lowering(Builder):
    """The graph that is being made, and the exported node that is being lowered."""

    def __init__(
        self,
        program: Program,
        exported: torch.export.ExportedProgram,
        in_torch: Mapping[TorchNode, Problem],
        limits: Limits,
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
        self.codes: list[Coded] = []

    # ------------------------------------------------------------------------------------------------ the program

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
        )
        self.check_smallest(graph)
        return Made(
            graph=graph,
            positions=positions,
            notes=tuple(self.notes),
            writes=self.written_inputs(),
            codes=tuple(self.codes),
        )

    def raise_problems(self) -> None:
        """Raises UnsupportedError if there are any."""
        if self.problems:
            error = UnsupportedError(describe(self.problems))
            if all(problem.sizes for problem in self.problems):
                error.sizes = {name: item.source or item.target for item in self.problems for name in item.sizes}
            raise error

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
                self.env[node] = self.held(tensors[target], target) if node.users else None
            elif isinstance(value, torch.Tensor):
                declared = self.declared(value)
                self.values[node.name] = declared
                given = Ref(node.name, declared.dtype, declared.shape)
                self.env[node] = self.paired(given) if value.is_complex() and node.users else given
                inputs.append(node.name)
            else:
                self.env[node] = value
        return tuple(inputs)

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

    def refuse_foreign(self, node: TorchNode) -> None:
        """Raises Unlowerable if the operation reads what no graph can hold."""
        for ref in pytree.tree_leaves([self.env.get(item) for item in node.all_input_nodes]):
            if isinstance(ref, Ref) and ref.name in self.foreign:
                tensor = self.foreign[ref.name]
                kind = not_plain(tensor) or f"of {tensor.dtype}, which lowbit has not"
                remedy = "keep it in another form (register_buffer of what is computed from it, as float32 or integers)"
                raise Unlowerable(f"the buffer {ref.name!r} is {kind}", remedy, always=True)

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
        return result if isinstance(result, Ref) else self.emit("dim_value", value=result)

    def argument(self, name: str, default: Any) -> Any:
        """One argument of the operation by its name in the schema."""
        target: Any = self.node.target
        names = [item.name for item in target._schema.arguments]
        given = {**dict(zip(names, self.node.args, strict=False)), **self.node.kwargs}
        return self.resolve(given.get(name, default))

    def lower_graph(self, module: GraphModule) -> list[Any]:
        """Lower one graph whose placeholders are in `env`; what it returns."""
        live = live_nodes(module)
        for unit in units(list(module.graph.nodes), self.in_torch.keys() & live):
            node = unit[0]
            if node.op == "output":
                results = list(self.resolve(node.args[0]))
            elif node.op == "get_attr":
                self.env[node] = operator.attrgetter(str(node.target))(module)
                if isinstance(self.env[node], torch.Tensor):
                    self.node = node
                    self.env[node] = self.known(self.env[node], str(node.target))
            elif node in self.in_torch:
                self.segment(unit, live)
            elif node.op == "call_function" and node in live:
                self.node = node
                self.env[node] = self.lower_node(node)
        return results

    def segment(self, unit: Unit, live: set[TorchNode]) -> None:
        """Append a node that runs operations in torch; `env` gets what others read of them."""
        self.node = unit[0]
        shown = [node for node in unit if any(user in live and user not in unit for user in node.users)]
        writer = Writer(self.env)
        try:
            values = [self.declared(node.meta.get("val")) for node in shown]
            for node in unit:
                self.refuse_foreign(node)
                writer.add(node)
        except (Unlowerable, LowbitError) as error:
            self.env.update({node: self.refuse(str(error), getattr(error, "remedy", REMEDY), node) for node in unit})
            self.join(unit, shown, live)
            return
        name = self.unique(node_name(unit[0], "torch") + (f"+{len(unit) - 1}" if len(unit) > 1 else ""))
        self.node_names.add(name)
        outputs = [name] if len(shown) == 1 else [self.unique(f"{name}.{place}") for place in range(len(shown))]
        program = self.constant(np.frombuffer(writer.finish(shown), np.uint8), f"{name}.program")
        sizes = [size for value in values for size in value.shape]
        self.nodes.append(
            Node(
                op="torch",
                name=name,
                inputs=(program.name, *(ref.name for ref in writer.inputs)),
                outputs=tuple(outputs),
                attrs={
                    "sizes": tuple(writer.sizes),
                    "dtypes": tuple(value.dtype for value in values),
                    "ranks": tuple(len(value.shape) for value in values),
                    "dims": tuple(sizes),
                },
                source=source_of(unit[0]),
            )
        )
        self.values.update(zip(outputs, values, strict=True))
        for node, item, value in zip(shown, outputs, values, strict=True):
            ref = Ref(item, value.dtype, value.shape)
            self.env[node] = self.paired(ref) if node.meta["val"].is_complex() else ref
        reasons = dict.fromkeys(f"{p.target}: {p.reason}" for node in unit if (p := self.in_torch.get(node)))
        self.notes.append(f"{name} ({source_of(unit[0])}) runs in torch ({'; '.join(reasons)})")

    def join(self, unit: Unit, shown: list[TorchNode], live: set[TorchNode]) -> None:
        """Have torch run, in the same segment, what reads values of a type that a graph cannot hold."""
        for node in shown:
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor) or is_held(value.dtype):
                continue
            readers = [user for user in node.users if user in live and user not in unit]
            if all(reader.op == "call_function" for reader in readers):
                reason = f"it reads {value.dtype}, which stays in torch"
                found = {inner for reader in readers for inner in between(unit, reader)} & live
                self.joining |= {
                    inner: Problem(str(inner.target), reason, REMEDY, source_of(inner))
                    for inner in found
                    if inner not in self.in_torch
                }

    def lower_node(self, node: TorchNode) -> Any:
        """What one operation yields: a Ref, a tuple of them, or a size."""
        value = node.meta.get("val")
        target = str(node.target)
        if self.reads_what_it_cannot(node):
            return self.refuse("it reads what torch runs", REMEDY, follows=True)
        if isinstance(value, torch.SymInt | int) and not isinstance(value, bool):
            return self.refuse(*_WHOLE_NUMBER) if _takes_number(node) else self.size(value)
        if any(word in target for word in _CHECKS):
            return None
        if isinstance(value, torch.SymFloat):
            return self.real(node)
        if node.target is operator.getitem:
            return self.item(node)
        if target in _WRAPPERS:
            return self.inline(node)
        try:
            self.check_size(value)
            folded = self.fold(node)
            if folded is not None and "quantized_decomposed.dequantize_per" in target:
                self.keep_codes(node, folded)
            if folded is None:
                self.refuse_foreign(node)
            result = folded if folded is not None else self.dispatch(node)
        except (Unlowerable, LowbitError) as error:
            return self.refuse(str(error), getattr(error, "remedy", REMEDY), sized=not getattr(error, "always", False))
        if writes(node) and isinstance(result, Ref | Complex):
            self.rebind(node, result)
        if self.limits.symbols:
            self.agree(value, result)
        return result

    def agree(self, value: Any, result: Any) -> None:
        """Where torch found a number for a size that is free here, as of x[:8], the rest of its trace rests on it."""
        if isinstance(value, tuple | list) and isinstance(result, tuple | list):
            for item, part in zip(value, result, strict=False):
                self.agree(item, part)
        elif isinstance(value, torch.Tensor) and isinstance(result, Ref) and result.rank == value.dim():
            for size, found in zip(value.shape, result.shape, strict=True):
                if isinstance(size, int) and isinstance(found, str):
                    self.assume(Condition(kind="zero", size=dims.sub(found, size)))

    def size(self, value: Any) -> Dim | None:
        """A size; None (and a problem) where it is not arithmetic of the input's sizes."""
        try:
            self.check_size(value)
            return dims.simplify(dim_of(value, self.names), self.limits.symbols)
        except (Unlowerable, LowbitError) as error:
            self.refuse(str(error), getattr(error, "remedy", REMEDY))
            return None

    def real(self, node: TorchNode) -> Any:
        """A number computed from sizes, such as 1 / length: a scalar tensor."""
        op = _REALS.get(getattr(node.target, "__name__", ""))
        try:
            if _takes_number(node):
                return self.cast(self.reshape(self.resolve(node.args[0]), ()), "f32")
            if op is None:
                raise Unlowerable("lowbit does not compute this from sizes")
            operands = [self.operand(self.resolve(item), "f32") for item in node.args]
            if op == "":
                return operands[0]
            return self.emit("unary", *operands, kind=op) if op in ("neg", "sqrt") else self.emit(op, *operands)
        except (Unlowerable, LowbitError) as error:
            return self.refuse(str(error), getattr(error, "remedy", REMEDY))

    def reads_what_it_cannot(self, node: TorchNode) -> bool:
        """Whether an input has a size that depends on values: then the operation that made it is the problem."""
        try:
            for source in node.all_input_nodes:
                self.check_size(source.meta.get("val"))
        except Unlowerable:
            return True
        return False

    def item(self, node: TorchNode) -> Any:
        """One of several results."""
        whole, position = self.resolve(node.args[0]), node.args[1]
        item = whole[position]
        if item is None:
            reason = "its secondary results are not supported"
            return self.refuse(reason, REMEDY, cast(TorchNode, node.args[0]))
        return item

    def inline(self, node: TorchNode) -> tuple[Any, ...]:
        """A block such as `with torch.no_grad():`, whose graph hangs off the module."""
        module, *args = node.args[_WRAPPERS[str(node.target)] :]
        return self.block(module, args)

    def block(self, module: Any, args: Any) -> tuple[Any, ...]:
        """What a graph that hangs off the module gives."""
        graph_module = self.env[module]
        placeholders = [inner for inner in graph_module.graph.nodes if inner.op == "placeholder"]
        self.env.update(zip(placeholders, self.resolve(args), strict=True))
        return tuple(self.lower_graph(graph_module))

    def choose(self, node: TorchNode) -> tuple[Any, ...]:
        """torch.cond: both branches, and of their results those that the condition picks."""
        condition, yes, no, *operands = node.args
        branches = [self.block(module, operands[0] if operands else ()) for module in (yes, no)]
        self.node = node
        picks = self.resolve(condition)
        if not isinstance(picks, Ref):
            raise Unlowerable("the condition of torch.cond is no tensor", _BLOCK_REMEDY, always=True)
        picks = self.cast(self.reshape(picks, ()), "bool")
        results: list[Any] = []
        for a, b in zip(*branches, strict=True):
            if not (isinstance(a, Ref) and isinstance(b, Ref)):
                raise Unlowerable("a branch of torch.cond gives what is no real tensor", _BLOCK_REMEDY, always=True)
            results.append(self.emit("where", picks, a, b))
        return tuple(results)

    def dispatch(self, node: TorchNode) -> Any:
        """Find the lowering and call it with the arguments in schema order."""
        schema = getattr(node.target, "_schema", None)
        if str(node.target) == "cond":
            return self.choose(node)
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise Unlowerable("lowbit runs no blocks that depend on values", _BLOCK_REMEDY, always=True)
        if _is_random(node):
            raise Unlowerable("it draws random numbers", "draw them outside, and pass them to forward()", always=True)
        is_complex = self.is_complex(node)
        found = _lowering(str(node.target).removeprefix("aten."), COMPLEX_LOWERINGS if is_complex else LOWERINGS)
        if found is None or schema is None:
            lacks = "lowbit has no operator for it" + (" on complex numbers" if is_complex else "")
            raise Unlowerable(lacks, always=True)
        function, count = found
        arguments: list[Any] = []
        for position, argument in enumerate(schema.arguments[:count]):
            if position < len(node.args):
                arguments.append(self.resolve(node.args[position]))
            else:
                arguments.append(self.resolve(node.kwargs.get(argument.name, argument.default_value)))
        return function(self, *arguments)

    def is_complex(self, node: TorchNode) -> bool:
        """Whether an operation takes or gives complex numbers."""
        value = node.meta.get("val")
        results = value if isinstance(value, tuple | list) else (value,)
        return (
            any(isinstance(item, torch.Tensor) and item.is_complex() for item in results)
            or any(isinstance(self.env[item], Complex) for item in node.all_input_nodes)
            or any(isinstance(item, complex) for item in node.args)
        )

    def is_constant(self, value: Any) -> bool:
        """Whether an argument is known now."""
        if isinstance(value, Complex):
            return value.real.name in self.constants and value.imag.name in self.constants
        known = isinstance(value, Ref) and (value.name in self.constants or value.name in self.foreign)
        return known or isinstance(value, int)

    def fold(self, node: TorchNode) -> Any:
        """The result as constants, if the operation depends on constants alone."""
        if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in node.target.tags:
            return None
        if "empty" in node.target._schema.name:  # what is in it would differ from time to time
            return None
        if node.target._schema.name == "lowbit::dequantize":  # its codes are kept
            return None
        inputs = [self.env[item] for item in node.all_input_nodes]
        if not all(map(self.is_constant, inputs)):
            return None
        value = node.meta.get("val")
        results = [item for item in (value if isinstance(value, tuple | list) else (value,)) if item is not None]
        if not all(isinstance(item, torch.Tensor) and all(isinstance(n, int) for n in item.shape) for item in results):
            return None
        parts = [part for item in inputs for part in ((item.real, item.imag) if isinstance(item, Complex) else (item,))]
        available = sum(math.prod(map(int, item.shape)) for item in parts if isinstance(item, Ref))
        if sum(item.numel() for item in results) > max(FOLD_LIMIT, available):
            return None
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda item: self.tensor(self.env[item]))
        with torch.no_grad():
            computed = node.target(*args, **kwargs)
        name = f"{node_name(node, 'value')}.constant"
        if isinstance(computed, torch.Tensor):
            return self.held(computed, name)
        return tuple(self.held(item, name) for item in computed)

    def keep_codes(self, node: TorchNode, numbers: Any) -> None:
        """Note the codes of a constant that the program dequantizes, if they are such as `Weight` can say."""
        codes, scales, zero_points, *rest = self.resolve(node.args)
        array = np.asarray(self.constants[codes.name])
        axis = int(rest[0]) if "per_channel" in str(node.target) else 0
        step, zero = (np.asarray(self.constants[v.name] if isinstance(v, Ref) else v) for v in (scales, zero_points))
        if array.dtype != np.int8 or array.ndim < 2 or axis != 0 or np.any(zero != 0):
            return
        weight = Weight(codes=array, scales=np.broadcast_to(step.reshape(-1), array.shape[:1]).astype(np.float32))
        self.codes.append((self.constants[numbers.name], weight, codes.name))

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

    # --------------------------------------------------------------------------------------------------- in place

    def rebind(self, node: TorchNode, result: Ref | Complex) -> None:
        """Let every name of the tensor that `node` writes to stand for `result`."""
        base = node.args[0]
        assert isinstance(base, TorchNode)
        root = self.same.get(base, base)
        self.same[node] = root
        for other in (root, *(item for item, its in self.same.items() if its is root)):
            self.env[other] = result

    def written_inputs(self) -> tuple[str, ...]:
        """The caller's tensors that in-place operations write to."""
        roots = {node.name for node in self.same.values()} | set(
            self.exported.graph_signature.user_inputs_to_mutate.values()
        )
        return tuple(node.name for node in user_inputs(self.program.exported) if node.name in roots)

    # --------------------------------------------------------------------------------------------------- the rest

    def resolve(self, argument: Any) -> Any:
        """torch's argument with its nodes replaced by what they stand for."""
        if isinstance(argument, TorchNode):
            return self.env[argument]
        if isinstance(argument, tuple | list):
            return type(argument)(self.resolve(item) for item in argument)
        return argument

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


_REALS = {
    "sym_float": "",
    "mul": "mul",
    "add": "add",
    "sub": "sub",
    "truediv": "div",
    "pow": "pow",
    "neg": "neg",
    "sqrt": "sqrt",
    "_sym_sqrt": "sqrt",
    "sym_sqrt": "sqrt",
}
"""Operators for functions of numbers that are computed from sizes."""
_WHOLE_NUMBER = (
    "it takes a whole number out of a tensor (.item(), int()), so that sizes or steps depend on the inputs' values",
    "pass the number as an argument of forward(), or keep the tensor and compute with it",
)
_CHECKS = ("_assert", "sym_constrain")
_BLOCK_REMEDY = "choose with torch.where between results, and take a fixed number of steps"
_WRAPPERS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Blocks to lower in place, and the number of their arguments before the block's graph."""


def _is_random(node: TorchNode) -> bool:
    """Whether it draws random numbers, and is nothing that draws none in eval mode."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    return _lowering(str(target).removeprefix("aten."), LOWERINGS) is None


def _takes_number(node: TorchNode) -> bool:
    """Whether it is .item(), which makes a Python number of a tensor."""
    return str(node.target) in ("aten.item.default", "aten._local_scalar_dense.default")


def _lowering(name: str, table: Mapping[str, tuple[LowerFunction, int]]) -> tuple[LowerFunction, int] | None:
    plain, _, overload = name.partition(".")
    stem = plain.removesuffix("_")
    for key in (name, plain, f"{stem}.{overload}", stem):
        if key in table:
            return table[key]
    return None
