"""Hands a graph to the C++ core, which validates and compiles it for this CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UnsupportedError
from ..graph import dims, limits
from ..graph.ir import Dim, Graph, Node, Weight
from ..graph.packings import PACKINGS
from ..ops import OPS, attributes
from . import segments

if TYPE_CHECKING:
    from .. import _core


def compiled(graph: Graph, threads: int | None, isa: str | None) -> _core.Session | segments.Chain:
    """A valid graph, compiled; with segments that torch runs where it has such."""
    if segments.has_segments(graph):
        return segments.Chain(graph, lambda piece: finish(fill(piece), threads, isa))
    return finish(fill(graph), threads, isa)


def finish(builder: _core.GraphBuilder, threads: int | None, isa: str | None) -> _core.Session:
    if threads is not None and (type(threads) is not int or not 1 <= threads < 2**31):
        raise InputError(f"threads must be a positive integer or None, is {threads!r}")
    return builder.finish(isa=isa or "", threads=threads or 0)


def fill(graph: Graph) -> _core.GraphBuilder:
    """A builder that holds the graph, with a copy of every constant that a node reads."""
    from .. import _core

    if graph.states:
        raise UnsupportedError("graphs that keep states between calls are not available yet")
    builder = _core.GraphBuilder()
    trial = limits.smallest(graph.symbols, graph.conditions) or {}
    index = {
        name: builder.symbol(name, s.minimum, s.maximum, s.multiple, s.remainder, trial.get(name, 0))
        for name, s in limits.of_calls(graph).items()
    }
    for condition in graph.conditions:
        builder.condition(condition.kind, dims.to_rpn(condition.size, index))
    for name in graph.inputs:
        value = graph.values[name]
        builder.input(name, value.dtype, [_dim(dim, index) for dim in value.shape])
    read = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs)
    parts: dict[str, list[str]] = {}
    for name, constant in graph.constants.items():
        if name not in read:
            continue
        if isinstance(constant, Weight) and constant.packing in PACKINGS:
            parts[name] = _put_parts(builder, graph, name, constant)
        else:
            builder.constant(name, constant.codes if isinstance(constant, Weight) else constant)
    for node in graph.nodes:
        inputs, more = _with_parts(graph, node, parts)
        builder.node(node.op, node.name, inputs, list(node.outputs), {**_attributes(node, index), **more})
    for name in graph.outputs:
        builder.output(name)
    return builder


def _put_parts(builder: _core.GraphBuilder, graph: Graph, name: str, weight: Weight) -> list[str]:
    """A weight in groups: its packed codes under its own name; the names of its scales and zero points."""
    builder.constant(name, PACKINGS[weight.packing].pack(weight))
    names = []
    for part, array in (("scales", weight.scales), ("zero_points", weight.zero_points)):
        names.append(_unused(graph, f"{name}/{part}") if array is not None else "")
        if array is not None:
            builder.constant(names[-1], array)
    return names


def _unused(graph: Graph, name: str) -> str:
    while name in graph.values:
        name += "_"
    return name


def _with_parts(graph: Graph, node: Node, parts: Mapping[str, list[str]]) -> tuple[list[str], dict[str, Any]]:
    """A node's inputs and, of one with a weight in groups, the weight's parts behind them and its sizes."""
    inputs = list(node.inputs)
    weight = graph.constants.get(inputs[1]) if len(inputs) > 1 and inputs[1] in parts else None
    if not isinstance(weight, Weight):
        return inputs, {}
    inputs += [""] * (len(OPS[node.op].inputs) - len(inputs)) + parts[node.inputs[1]]
    sizes: dict[str, Any] = {"depth": math.prod(weight.shape[1:]), "group_size": weight.group_size}
    return inputs, sizes | ({"kernel": list(weight.shape[1:3])} if len(weight.shape) == 4 else {})


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
