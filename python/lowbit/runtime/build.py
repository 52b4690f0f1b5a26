"""Hands a graph to the C++ core, which validates and compiles it for this CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UnsupportedError
from ..graph import dims
from ..graph import limits as possible
from ..graph.ir import Array, Dim, Graph, Node, Weight
from ..graph.weights import as_read, pack
from ..ops import OPS, attributes
from ..ops.quantized import SIGNS
from . import segments
from .limits import Limits

if TYPE_CHECKING:
    from .. import _core


def compiled(
    graph: Graph, threads: int | None, isa: str | None, limits: Limits, allow_torch: bool
) -> _core.Session | segments.Chain:
    """A valid graph, compiled; with segments that torch runs where it has such, and may. Raises UnsupportedError."""
    if segments.has_segments(graph):
        if not allow_torch:
            raise UnsupportedError(
                f"the graph holds segments that run in torch: {segments.describe(graph)}. If you trust where it comes "
                "from, pass allow_torch=True; torch must then be installed"
            )
        if graph.states:
            raise UnsupportedError("a graph that keeps states cannot hold segments that run in torch")
        return segments.Chain(graph, lambda piece: finish(fill(piece), threads, isa, limits), limits.seconds)
    return finish(fill(graph), threads, isa, limits)


def finish(
    builder: _core.GraphBuilder, threads: int | None, isa: str | None, limits: Limits, weights: int | None = None
) -> _core.Session:
    """weights: bytes that constants, and weights as this CPU reads them, may take if the limits say nothing."""
    if threads is not None and (type(threads) is not int or not 1 <= threads < 2**31):
        raise InputError(f"threads must be a positive integer or None, is {threads!r}")
    if isa is not None and not isinstance(isa, str):
        raise InputError(f"isa must be the name of an instruction set or None, is {isa!r}")
    return builder.finish(isa=isa or "", threads=threads or 0, **vars(limits), weights=limits.memory or weights)


def fill(graph: Graph, constants: dict[str, Array | Weight] | None = None) -> _core.GraphBuilder:
    """A builder that holds the graph, with one copy of every constant that a node reads.

    constants: the graph's, which has none then; each is taken out as it is copied.
    """
    from .. import _core

    with dims.bounded_steps(), _core.DefaultFloatEnvironment():  # codes that are read as floats are multiplied here
        return _filled(_core.GraphBuilder(), graph, dict(graph.constants) if constants is None else constants)


def _filled(builder: _core.GraphBuilder, graph: Graph, constants: dict[str, Array | Weight]) -> _core.GraphBuilder:
    trial = possible.smallest(graph.symbols, graph.conditions) or {}
    index = {
        name: builder.symbol(name, s.minimum, s.maximum, s.multiple, s.remainder, trial.get(name, 0))
        for name, s in possible.of_calls(graph).items()
    }
    for condition in graph.conditions:
        builder.condition(condition.kind, dims.to_rpn(condition.size, index))
    for name in graph.inputs:
        value = graph.values[name]
        builder.input(name, value.dtype, [_dim(dim, index) for dim in value.shape])
    names = _put_constants(builder, graph, constants)
    for node in graph.nodes:
        kinds = [OPS[node.op].input(place).weight for place in range(len(node.inputs))]
        inputs = [names.get((name, kind), name) for name, kind in zip(node.inputs, kinds, strict=True)]
        builder.node(node.op, node.name, inputs, list(node.outputs), _attributes(node, index))
    for name in graph.outputs:
        builder.output(names.get((name, False), name))
    for state in graph.states:
        initial = names.get((state.initial, False), state.initial)
        builder.state(state.input, state.output, initial, state.count, state.axis)
    return builder


def _put_constants(
    builder: _core.GraphBuilder, graph: Graph, constants: dict[str, Array | Weight]
) -> dict[tuple[str, bool], str]:
    """What the core calls each constant, read as a quantized weight or as an array: what is one object is held once."""
    coded, plain = (names & constants.keys() for names in _readers(graph))
    signs = {node.inputs[1] for node in graph if node.op.startswith(SIGNS)}
    names: dict[tuple[str, bool], str] = {}
    held: dict[tuple[int, str], str] = {}
    identities = {name: id(constant) for name, constant in constants.items()}
    for name, identity in identities.items():
        constant = constants.pop(name)
        if name in coded and isinstance(constant, Weight):
            names[name, True] = held.setdefault((identity, "signs" if name in signs else "codes"), name)
            if names[name, True] == name:
                _put_weight(builder, name, constant if name in signs else as_read(constant))
        if name in plain:
            own = _unused(graph, f"{name}/numbers") if name in coded else name
            names[name, False] = held.setdefault((identity, "numbers"), own)
            if names[name, False] != own:
                continue
            if isinstance(constant, Weight):
                constant.write_numbers(builder.numbers(own, constant.shape))
            else:
                builder.constant(own, constant)
    return names


def _readers(graph: Graph) -> tuple[set[str], set[str]]:
    """What nodes read as quantized weights, and what they, or the caller, read as arrays."""
    inputs = [(name, OPS[node.op].input(place).weight) for node in graph for place, name in enumerate(node.inputs)]
    coded, plain = ({name for name, kind in inputs if kind == wanted} for wanted in (True, False))
    return coded, plain.union(graph.outputs, (state.initial for state in graph.states))


def _put_weight(builder: _core.GraphBuilder, name: str, weight: Weight) -> None:
    """A quantized weight, whole: its codes as kernels read them, and what they mean."""
    builder.weight(
        name,
        shape=list(weight.shape),
        codes=pack(weight) if weight.bits < 8 else weight.codes,
        bits=weight.bits,
        group_size=weight.group_size,
        scales=weight.scales,
        zero_points=weight.zero_points,
        offsets=weight.offsets,
        values=weight.values,
        pattern=weight.sparsity or "",
    )


def _unused(graph: Graph, name: str) -> str:
    while name in graph.values:
        name += "_"
    return name


def _dim(dim: Dim, index: Mapping[str, int]) -> int | list[int]:
    return dims.to_rpn(dim, index) if isinstance(dim, str) else dim


def _attributes(node: Node, index: Mapping[str, int]) -> dict[str, Any]:
    """Every attribute with its default, in the types the runtime takes."""
    op = OPS[node.op]
    return {name: _attribute(op.attrs[name].kind, value, index) for name, value in attributes(op, node).items()}


def _attribute(kind: str, value: Any, index: Mapping[str, int]) -> Any:
    if kind == "dims":
        return [dims.to_rpn(dim, index) for dim in value]
    if kind == "dim":
        return [dims.to_rpn(value, index)]
    convert: Any = {"int": int, "ints": int, "float": float, "floats": float}.get(kind, str)
    return [convert(item) for item in value] if kind in ("ints", "floats") else convert(value)
