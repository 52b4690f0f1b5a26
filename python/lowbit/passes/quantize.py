"""Decides which layers run on 8-bit codes and rewrites the graph so.

With calibration data (static): residual additions move into their layers, channels are equalized, the cost model picks
the layers for int8, pools and activations between them follow, each value that is stored as codes gets its range, and
weights are rounded against what the layers really see. Without (dynamic): each int8 layer finds its input's range
at run time, and all between the layers stays float32.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import schemes
from ..errors import CalibrationError, InputError
from ..interpreter import bind, validate
from ..ir import Array, Graph, Node, Quant, Weight, replace
from ..ops.segment import operations
from . import fuse_requantize as emit_
from .calibrate import Feeds, Histogram, Progress, batches, choose, observe
from .correct_bias import correct_bias
from .cost import Cost, Costs, MeasuredCosts
from .equalize import equalize
from .fuse_requantize import AVERAGES, CARRIERS, Emitter, Layer, function_of
from .fuse_residual import fuse_residual
from .layer_inputs import Seen, layer_inputs
from .layers import LAYERS
from .round_weights import Codes, round_compensated, round_flat, round_nearest

FUNCTIONS = ("clip", "unary")
FOLLOWERS = (*CARRIERS, *AVERAGES, *FUNCTIONS, "add")
"""Ops that work on codes where both sides of them do."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of one node, and why; costs in microseconds are known for layers."""

    node: str
    op: str
    scheme: str
    reason: str
    cost_int8_us: float | None = None
    cost_float_us: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantized:
    """The integer graph; the float graph that its values stand for; and a decision for each of that graph's nodes."""

    graph: Graph
    reference: Graph
    decisions: tuple[Decision, ...]


def quantize(
    graph: Graph,
    *,
    scheme: str | schemes.Scheme | Mapping[str, str | schemes.Scheme] | schemes.Rules = "int8",
    calibration: Iterable[Feeds] | None = None,
    tune: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """The graph with its layers on 8-bit codes where that is faster.

    graph: optimized float32. scheme: of all nodes, or of those that a pattern matches. calibration: batches of {input
    name: array}, read several times; None: dynamic. tune: measure the layers instead of estimating them. Raises
    CalibrationError for data that are empty, not finite or unfit.

    before: x -> conv2d(clip 0..6) -> conv2d -> y
    after:  x -> quantize -> conv2d_i8(codes) -> conv2d_i8(float) -> y
    """
    rules = schemes.rules(scheme)
    if rules.is_float:
        return Quantized(graph=graph, reference=graph, decisions=all_float(graph, rules))
    return Quantizer(graph, rules, calibration, tune=tune, threads=threads, progress=progress).make()


class Quantizer:
    """What one float graph's quantization needs to know, learnt once and kept: integer graphs of it are then cheap.

    graph: the float graph that integer values stand for (residuals fused, channels equalized).
    """

    def __init__(
        self,
        graph: Graph,
        rules: schemes.Rules,
        calibration: Iterable[Feeds] | None,
        *,
        tune: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.rules, self._calibration = rules, calibration
        self._options: dict[str, Any] = {"threads": threads, "progress": progress}
        sizes: dict[str, int] = {}
        if calibration is not None:
            graph = fuse_residual(graph)
            sizes = _first_sizes(graph, calibration)
            fixed = {node.name for node in graph if node.op in LAYERS and not self._may_equalize(node)}
            graph = equalize(graph, calibration, fixed=fixed, **self._options)
        self.graph = graph
        self._costs = MeasuredCosts(graph, sizes, threads) if tune else Costs(graph, sizes)
        self._histograms: dict[str, Histogram] = {}
        self._ranges: dict[object, Quant] = {}
        self._rounded: dict[str, Codes] = {}
        self._layers: dict[tuple[str, Quant | None], Layer] = {}

    def _may_equalize(self, node: Node) -> bool:
        scheme = self.rules.of(node)
        return scheme.equalize or scheme.is_float

    def make(self, floats: Mapping[str, str] | None = None) -> Quantized:
        """The integer graph in which the nodes named in `floats` stay float32, for the reasons given there."""
        static = self._calibration is not None
        kept = {node.name: self.rules.reason(node) for node in self.graph if self.rules.of(node).is_float}
        plan = decide(self.graph, self._costs, static=static, floats={**kept, **(floats or {})})
        made = self._static(plan) if static else self._dynamic(plan)
        return Quantized(graph=validate(made), reference=self.graph, decisions=plan.decisions)

    def alone(self, layer: str) -> Graph:
        """The graph in which one layer works on codes and all else in float32; it may be slower than any other."""
        plan = Plan(graph=self.graph, int8=frozenset({layer}))
        return validate(self._static(plan) if self._calibration is not None else self._dynamic(plan))

    def _static(self, plan: Plan) -> Graph:
        assert self._calibration is not None
        sites = _Sites(plan)
        missing = [name for name in sites.observed if name not in self._histograms]
        if missing or not self._histograms:  # data without use are checked all the same
            self._histograms |= observe(plan.graph, self._calibration, missing, **self._options)
        quants = sites.quants(self._histograms, self.rules, self._ranges)
        nodes = [node for node in plan.graph if node.op in LAYERS and node.name in plan.int8]
        self._learn([node for node in nodes if (node.name, quants[node.inputs[0]]) not in self._layers], quants)
        return _emit(plan, quants, {node.name: self._layers[node.name, quants[node.inputs[0]]] for node in nodes})

    def _dynamic(self, plan: Plan) -> Graph:
        emit = Emitter(plan.graph, {})
        for node in plan.graph:
            if node.name in plan.int8:
                if (node.name, None) not in self._layers:
                    self._layers[node.name, None] = self._layer(node, None)
                emit_.put_dynamic_layer(emit, node, self._layers[node.name, None])
            else:
                emit.put_floats(_with_floats(emit, node))
        return emit.finish()

    def _learn(self, nodes: Sequence[Node], quants: Mapping[str, Quant]) -> None:
        """Round the weights of layers and correct their biases, with as few passes over the data as it takes."""
        assert self._calibration is not None
        schemes_of = {node.name: self.rules.of(node) for node in nodes}
        heavy = [node for node in nodes if schemes_of[node.name].compensate and node.name not in self._rounded]
        light = [node for node in nodes if node not in heavy and schemes_of[node.name].correct_bias]
        for part, moments in ((heavy, True), (light, False)):
            if part:
                seen = layer_inputs(self.graph, self._calibration, part, quants, moments=moments, **self._options)
                self._layers |= {(node.name, quants[node.inputs[0]]): self._layer(node, found) for node, found in seen}
        for node in nodes:
            key = (node.name, quants[node.inputs[0]])
            if key not in self._layers:
                self._layers[key] = self._layer(node, None)

    def _layer(self, node: Node, seen: Seen | None) -> Layer:
        """A layer's integer constants, with what is known about its inputs."""
        scheme, weight = self.rules.of(node), _array(self.graph, node.inputs[1])
        has_bias = len(node.inputs) > 2 and node.inputs[2] != ""
        bias = _array(self.graph, node.inputs[2]).astype(np.float64) if has_bias else np.zeros(weight.shape[0])
        if node.name not in self._rounded:
            moments = seen.moments if seen is not None else None
            self._rounded[node.name] = _rounded(node, weight, moments) if scheme.compensate else round_nearest(weight)
        codes = self._rounded[node.name]
        if seen is not None and scheme.correct_bias:
            bias = correct_bias(bias, weight, codes.weight, seen)
        return Layer(codes=codes, bias=bias)


def _first_sizes(graph: Graph, calibration: Iterable[Feeds]) -> dict[str, int]:
    first = next(iter(batches(graph, calibration)))
    try:
        return bind(graph, first.feeds)
    except InputError as error:
        raise CalibrationError(f"calibration batch {first.number}: {error}") from None


def all_float(graph: Graph, rules: schemes.Rules) -> tuple[Decision, ...]:
    """The decisions about a graph that stays as it is."""
    return tuple(
        _in_torch(graph, node)
        if node.op == "torch"
        else Decision(node=node.name, op=node.op, scheme="float32", reason=rules.reason(node))
        for node in graph
    )


def _in_torch(graph: Graph, node: Node) -> Decision:
    reason = f"runs in torch: {', '.join(operations(graph, node))}"
    return Decision(node=node.name, op=node.op, scheme="torch", reason=reason)


# ----------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Which nodes work on codes, and which activation each takes with it as bounds or a table."""

    graph: Graph
    int8: frozenset[str]
    activations: Mapping[str, Node] = field(default_factory=dict)
    """By the name of the layer or add before it."""
    decisions: tuple[Decision, ...] = ()

    def output(self, node: Node) -> str:
        """The value that is stored when the node has run."""
        return self.activations[node.name].outputs[0] if node.name in self.activations else node.outputs[0]

    def wants_codes(self, value: str) -> bool:
        """Whether some node reads the value's codes."""
        return any(node.name in self.int8 for node in self.graph.consumers(value))


def decide(graph: Graph, costs: Costs, *, static: bool, floats: Mapping[str, str]) -> Plan:
    """Int8 for each layer that is faster so, conversions at its borders included; then for what lies between such.

    floats: nodes that stay float32 in any case, and why.
    """
    problems = {node.name: _problem(graph, node, static) for node in graph if node.op in LAYERS} | dict(floats)
    priced = {node.name: costs.layer(node, dynamic=not static) for node in graph if problems.get(node.name) == ""}
    layers = set(priced)
    while True:
        int8 = layers | (_followers(graph, layers, floats) if static else set())
        # Fewer int8 layers make more borders, so what loses among many also loses among few: the order does not matter.
        totals = {name: _with_borders(graph, name, cost, int8, static) for name, cost in priced.items()}
        slower = {name for name in layers if totals[name] > priced[name].float32}
        if not slower:
            break
        layers -= slower
    plan = Plan(graph=graph, int8=frozenset(int8), activations=_activations(graph, int8) if static else {})
    decisions = []
    for node in graph:
        if node.name in priced:
            decisions.append(_priced(node, priced[node.name], totals[node.name], node.name in int8, costs.verb))
        else:
            decisions.append(_unpriced(node, problems.get(node.name, ""), int8, plan, static))
    return Plan(graph=graph, int8=plan.int8, activations=plan.activations, decisions=tuple(decisions))


def _problem(graph: Graph, node: Node, static: bool) -> str:
    """Why a layer cannot run on codes, or ""."""
    weight = graph.constants.get(node.inputs[1])
    bias = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(0)
    if not isinstance(weight, np.ndarray) or not isinstance(bias, np.ndarray):
        return "its weight or bias is computed at run time"
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return "its weight or bias holds NaN or infinity"
    if not static and len(node.inputs) > 3 and node.inputs[3]:
        return "its residual input has no scale that is known before it runs"
    depth = int(np.prod(weight.shape[1:], dtype=np.int64))
    if 255 * 127 * depth >= 2**31:
        codes = np.abs(round_nearest(weight).codes.astype(np.int64)).reshape(weight.shape[0], -1)
        if 255 * int(codes.sum(axis=1).max()) >= 2**31:
            return f"its sums of {depth} products could pass 32 bits"
    return ""


def _with_borders(graph: Graph, name: str, cost: Cost, int8: set[str], static: bool) -> float:
    """Microseconds of a layer in int8 with the conversions that its neighbours make necessary."""
    node = next(node for node in graph if node.name == name)
    total = cost.int8
    for place in (0, 3):
        value = node.inputs[place] if len(node.inputs) > place else ""
        producer = graph.producer(value) if value else None
        if value and (not static or producer is None or producer.name not in int8):
            total += cost.to_codes if place == 0 else cost.to_float
    readers = [reader.name in int8 for reader in graph.consumers(node.outputs[0])]
    if static and any(readers) and not (all(readers) and node.outputs[0] not in graph.outputs):
        total += cost.to_float
    return total


def _followers(graph: Graph, layers: set[str], floats: Container[str]) -> set[str]:
    """The nodes, layers and `floats` aside, whose inputs all come as codes and whose output somebody wants as codes."""
    available: set[str] = set()
    candidates: list[Node] = []
    for node in graph:
        if node.name in layers:
            available.update(node.outputs)
        elif node.name not in floats and _can_follow(graph, node) and all(name in available for name in node.inputs):
            available.update(node.outputs)
            candidates.append(node)
    wanted = {name for node in graph if node.name in layers for name in (node.inputs[0], *node.inputs[3:4])}
    chosen: set[str] = set()
    for node in reversed(candidates):
        if node.outputs[0] in wanted:
            chosen.add(node.name)
            wanted.update(node.inputs)
    return chosen


def _can_follow(graph: Graph, node: Node) -> bool:
    if node.op not in FOLLOWERS or any(graph.values[name].dtype != "f32" for name in node.inputs):
        return False
    if node.op == "pad":
        return node.attrs.get("value", 0.0) == 0.0
    if node.op == "add":
        return graph.values[node.inputs[0]].shape == graph.values[node.inputs[1]].shape
    return True


def _activations(graph: Graph, int8: set[str]) -> dict[str, Node]:
    """The clip or unary node that each int8 layer or add can take with it."""
    uses, found = graph.uses(), {}
    for node in graph:
        before = graph.producer(node.inputs[0]) if node.op in FUNCTIONS and node.name in int8 else None
        if before is not None and before.name in int8 and before.op in (*LAYERS, "add") and uses[node.inputs[0]] == 1:
            found[before.name] = node
    return found


def _priced(node: Node, cost: Cost, total: float, is_int8: bool, verb: str) -> Decision:
    faster, slower = sorted((total, cost.float32))
    borders = "" if total == cost.int8 else ", conversions included"
    times = f"{total:.1f} us in int8{borders}, {cost.float32:.1f} us in float32"
    verdict = f"{slower / faster:.1f} times faster" if is_int8 else "int8 would be slower"
    reason = f"{verdict} {verb}: {times}"
    return Decision(
        node=node.name,
        op=node.op,
        scheme="int8" if is_int8 else "float32",
        reason=reason,
        cost_int8_us=total,
        cost_float_us=cost.float32,
    )


def _unpriced(node: Node, problem: str, int8: set[str], plan: Plan, static: bool) -> Decision:
    if node.op == "torch":
        return _in_torch(plan.graph, node)
    if node.name in int8:
        taken = next((name for name, other in plan.activations.items() if other.name == node.name), None)
        reason = f"part of {taken}" if taken is not None else "between int8 nodes, works on their codes"
        return Decision(node=node.name, op=node.op, scheme="int8", reason=reason)
    reason = problem
    if not reason and node.op in FOLLOWERS:
        reason = "not between int8 nodes" if static else "between layers, values are float32 without calibration"
    return Decision(node=node.name, op=node.op, scheme="float32", reason=reason or "has no int8 form")


# --------------------------------------------------------------------------------------------------------------- static


def _rounded(node: Node, weight: Array, moments: Array | None) -> Codes:
    """Codes by what is known: the layer's inputs, or that images are mostly flat, or nothing."""
    if moments is not None:
        return round_compensated(weight, moments)
    is_window = node.op in ("conv2d", "conv3d") and weight[0, 0].size > 1
    return round_flat(weight) if is_window else round_nearest(weight)


def _array(graph: Graph, name: str) -> Array:
    constant = graph.constants[name]
    assert not isinstance(constant, Weight)
    return constant


def _emit(plan: Plan, quants: Mapping[str, Quant], layers: Mapping[str, Layer]) -> Graph:
    """The integer graph with these ranges and weights."""
    emit = Emitter(plan.graph, quants)
    taken = {node.name for node in plan.activations.values()}
    for node in plan.graph:
        if node.name in taken:
            continue
        if node.name in plan.int8:
            _emit_int8(emit, plan, node, layers)
        else:
            emit.put_floats(_with_floats(emit, node))
    return emit.finish()


def _emit_int8(emit: Emitter, plan: Plan, node: Node, layers: Mapping[str, Layer]) -> None:
    activation = plan.activations.get(node.name)
    if node.op in LAYERS:
        as_codes = plan.wants_codes(plan.output(node))
        emit_.put_layer(emit, node, layers[node.name], as_codes=as_codes, activation=activation)
    elif node.op == "add":
        emit_.put_add(emit, node, activation)
    elif node.op in AVERAGES:
        emit_.put_average(emit, node)
    elif node.op in FUNCTIONS:
        emit_.put_function(emit, node)
    else:
        emit_.put_carrier(emit, node)


def _with_floats(emit: Emitter, node: Node) -> Node:
    return replace(node, inputs=tuple(emit.floats(name) if name else "" for name in node.inputs))


class _Sites:
    """Where codes are stored: sets of values that share a scale, because ops between them only move codes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._parent: dict[str, str] = {}
        self._functions: dict[str, Node] = {}
        graph, uses = plan.graph, plan.graph.uses()
        stored: dict[str, None] = {}
        for node in graph:
            if node.name not in plan.int8:
                continue
            inputs = (node.inputs[0], *node.inputs[3:4]) if node.op in LAYERS else node.inputs
            stored.update(dict.fromkeys(name for name in inputs if name))
            if node.op not in LAYERS or plan.wants_codes(plan.output(node)):
                stored.update(dict.fromkeys(node.outputs))
            if node.op in CARRIERS:
                for name in node.inputs:
                    if node.op != "concat" or uses[name] == 1:
                        self._join(name, node.outputs[0])
        for name, activation in plan.activations.items():
            before = next(node for node in graph if node.name == name)
            if activation.op == "clip" and before.op == "add":
                stored.pop(before.outputs[0])
            else:
                self._functions[before.outputs[0]] = activation
        self._stored = list(stored)
        self.observed = self._stored
        """The float values whose distribution decides about ranges."""

    def quants(
        self, histograms: Mapping[str, Histogram], rules: schemes.Rules, known: dict[object, Quant]
    ) -> dict[str, Quant]:
        """Scale and zero point of each value that is stored as codes; `known` keeps them by what they depend on."""
        groups: dict[str, list[str]] = {}
        for name in self._stored:
            groups.setdefault(self._root(name), []).append(name)
        found: dict[str, Quant] = {}
        for names in groups.values():
            read = tuple(name for name in names if self._is_read(name)) or tuple(names)
            activation, scheme = self._functions.get(names[0]), self._scheme(names, rules)
            key = (read, scheme, None if activation is None else activation.name)
            if key not in known:
                seen = Histogram()
                for name in read:
                    seen.merge(histograms[name])
                known[key] = choose(seen, scheme, None if activation is None else function_of(activation))
            found.update(dict.fromkeys(names, known[key]))
        return found

    def _scheme(self, names: Sequence[str], rules: schemes.Rules) -> schemes.Scheme:
        """That of the first node that reads one of the values as codes, else of the first that makes one."""
        graph, int8 = self._plan.graph, self._plan.int8
        nodes = [node for node in graph if any(name in node.inputs for name in names)]
        nodes += [node for node in graph if any(name in node.outputs for name in names)]
        return next(rules.of(node) for node in nodes if node.name in int8)

    def _is_read(self, value: str) -> bool:
        """Whether more is done with the value than moving it: what a maximum drops need not be represented."""
        readers = self._plan.graph.consumers(value)
        moved = [node.op in CARRIERS and node.name in self._plan.int8 for node in readers]
        return not (moved and all(moved)) or value in self._plan.graph.outputs

    def _root(self, name: str) -> str:
        while name in self._parent:
            name = self._parent[name]
        return name

    def _join(self, a: str, b: str) -> None:
        a, b = self._root(a), self._root(b)
        if a != b:
            self._parent[a] = b
