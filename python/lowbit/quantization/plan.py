"""Decides which nodes of a float graph work on 8-bit codes: layers that are faster so, and what lies between them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..graph.ir import Array, Graph, Node
from ..ops.quantized import SIGNS
from ..ops.segment import operations
from ..passes.functions import is_channel_function, is_function, operands, slope_of
from ..passes.layers import LAYERS, SCANS, TABLES
from ..runtime.meta import Decision
from . import schemes
from .cost import Cost, Costs
from .few_bits import EIGHT, Width
from .fuse_requantize import AVERAGES, MOVES_CODES, PAIRS
from .round_weights import round_nearest
from .tables import settled, why_float

SMALL = 8
"""An operand so many times smaller than the result may be quantized for it."""


def all_float(graph: Graph, rules: schemes.Rules) -> tuple[Decision, ...]:
    """The decisions about a graph that stays as it is."""
    return tuple(
        in_torch(graph, node)
        if node.op == "torch"
        else Decision(node=node.name, op=node.op, scheme="float32", reason=rules.reason(node))
        for node in graph
    )


def in_torch(graph: Graph, node: Node) -> Decision:
    """The decision about a segment that torch runs."""
    reason = f"runs in torch: {', '.join(operations(graph, node))}"
    return Decision(node=node.name, op=node.op, scheme="torch", reason=reason)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Which nodes work on codes, and which activation each takes with it as bounds or a table."""

    graph: Graph
    int8: frozenset[str]
    dynamic: frozenset[str] = frozenset()
    """The int8 layers that find their inputs' ranges at run time, scans among them; they read and make floats."""
    activations: Mapping[str, Node] = field(default_factory=dict)
    """By the name of the layer or add before it."""
    widths: Mapping[str, Width] = field(default_factory=dict)
    """Of the weights of layers, by name; where there is none, eight bits."""
    tables: Mapping[str, Width] = field(default_factory=dict)
    """The embeddings whose tables have codes, by name; what they give is float32."""
    decisions: tuple[Decision, ...] = ()
    microseconds: float = 0.0
    """Of all layers that can be int8, and of what can follow them, by their costs."""

    def output(self, node: Node) -> str:
        """The value that is stored when the node has run."""
        return self.activations[node.name].outputs[0] if node.name in self.activations else node.outputs[0]

    def wants_codes(self, value: str) -> bool:
        """Whether some node reads the value's codes, as they are by the value's static range."""
        return any(node.name in self.int8 - self.dynamic for node in self.graph.consumers(value))


def decide(
    graph: Graph,
    costs: Costs,
    *,
    static: bool,
    floats: Mapping[str, str],
    dynamic: Mapping[str, str] | None = None,
    widths: Mapping[str, Width] | None = None,
    tables: Mapping[str, Width] | None = None,
    given: Mapping[str, str] | None = None,
) -> Plan:
    """Codes for each layer that is faster so, conversions at its borders included; then for what lies between such.

    floats: nodes that stay float32 in any case, and why. dynamic: layers whose input's range is found at run time, and
    why; without calibration data (not `static`) all are. widths: of the layers whose scheme has four-bit weights.
    tables: of such embeddings. given: the layers that have codes whatever they cost, and no others, and why.
    """
    wide = defaultdict(lambda: EIGHT, widths or {})
    by_row = dict(dynamic or {}) if static else {node.name: "" for node in graph if node.op in LAYERS}
    problems = {node.name: _problem(graph, node) for node in graph if node.op in LAYERS} | dict(floats)
    problems |= {node.name: _scan_problem(graph, node, floats) for node in graph if node.op in SCANS}
    priced = {
        node.name: costs.layer(
            node,
            dynamic=node.name in by_row,
            group_size=wide[node.name].group_size,
            bits=wide[node.name].bits,
        )
        for node in graph
        if node.op in LAYERS and problems[node.name] == ""
    }
    search = _Search(graph=graph, costs=costs, priced=priced, by_row=by_row, floats=floats)
    chosen = search.best() if given is None else search.of(frozenset(given) & frozenset(priced))
    int8, layers, totals, activations = chosen.int8, chosen.layers, chosen.totals, chosen.activations
    sound = [node for node in graph if node.op in SCANS and not problems[node.name]]
    scans = {node.name: costs.scan(node) for node in sound}
    coded_scans = frozenset(name for name, cost in scans.items() if cost.int8 * costs.margin <= cost.float32)
    by_row_coded = frozenset(layers & set(by_row)) | coded_scans
    coded = {name: wide[name] for name in layers}
    plan = Plan(
        graph=graph,
        int8=frozenset(int8) | coded_scans,
        dynamic=by_row_coded,
        activations=activations,
        widths=widths or {},
        tables=settled(graph, {name: width for name, width in (tables or {}).items() if name not in floats}, coded),
    )
    wide_tables = {node.name for node in graph if node.op in TABLES} - set(plan.tables) - set(floats)
    problems |= {node.name: why_float(graph, node, tables or {}) for node in graph if node.name in wide_tables}
    decisions = []
    for node in graph:
        if node.name in priced:
            scheme = f"int{wide[node.name].bits}"
            made = _priced(node, totals[node.name], plan, scheme, costs)
            verdict = (given or {}).get(node.name, made.reason)
            notes = (wide[node.name].note, verdict, by_row.get(node.name, ""))
            reason = "; ".join(filter(None, notes)) if node.name in int8 else made.reason
            decisions.append(replace(made, reason=reason))
        elif node.name in scans:
            cost = scans[node.name]
            total = _Total(alone=cost.int8, int8=cost.int8, float32=cost.float32)
            decisions.append(_priced(node, total, plan, "int8", costs))
        else:
            decisions.append(_unpriced(node, problems.get(node.name, ""), int8, plan, static))
    spent = sum(cost.int8 if name in coded_scans else cost.float32 for name, cost in scans.items())
    return replace(plan, decisions=tuple(decisions), microseconds=search.microseconds(chosen) + spent)


def _problem(graph: Graph, node: Node) -> str:
    """Why a layer cannot run on codes, or ""."""
    weight = graph.constants.get(node.inputs[1])
    bias = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(0)
    if not isinstance(weight, np.ndarray) or not isinstance(bias, np.ndarray):
        return "its weight or bias is computed at run time"
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return "its weight or bias holds NaN or infinity"
    depth = int(np.prod(weight.shape[1:], dtype=np.int64))
    if 255 * 127 * depth >= 2**31:
        codes = np.abs(round_nearest(weight).codes.astype(np.int64)).reshape(weight.shape[0], -1)
        if 255 * int(codes.sum(axis=1).max()) >= 2**31:
            return f"its sums of {depth} products could pass 32 bits"
    if _is_logarithm_next(graph, node.outputs[0]):
        return "a logarithm follows, which shows what noise codes would add to small values"
    return ""


def _scan_problem(graph: Graph, node: Node, floats: Mapping[str, str]) -> str:
    """Why a recurrent layer cannot have its weight in codes, or ""."""
    weight = graph.constants.get(node.inputs[1])
    if not isinstance(weight, np.ndarray):
        return "its weight is quantized already"
    is_sound = np.isfinite(weight).all() and weight.size > 0
    return floats.get(node.name, "" if is_sound else "its weight is empty, or holds NaN or infinity")


_KEEPS = ("clip", "maximum", "add", "mul", "reshape", "transpose", "slice")
"""What may stand between a layer and the logarithm of what it makes, such as a floor and an offset."""


def _is_logarithm_next(graph: Graph, value: str) -> bool:
    """Whether a value is read by a logarithm, as energies in bands of a spectrum are."""
    for reader in graph.consumers(value):
        if reader.op == "unary" and reader.attrs["kind"] in ("log", "log2", "log1p"):
            return True
        if reader.op in _KEEPS and len(operands(graph, reader)) == 1:
            return _is_logarithm_next(graph, reader.outputs[0])
    return False


@dataclass(frozen=True, kw_only=True)
class _Total:
    """Microseconds of a layer among its neighbours, with the function that it takes with it.

    int8: with the conversions that the neighbours make necessary; alone: without.
    """

    alone: float
    int8: float
    float32: float


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Layers on codes, all nodes on codes, what each layer takes with it, and what each layer takes of time."""

    layers: frozenset[str]
    int8: set[str]
    activations: dict[str, Node]
    totals: dict[str, _Total]


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Looks for the layers that are worth int8.

    What each layer must gain is one choice. But where one hardly gains, its neighbours pay conversions for it and lose
    their functions on codes. So where layers that hand each other codes gain by the margin all together, those of them
    stay that gain but a part of it; and what they spare their neighbours counts as theirs.
    """

    graph: Graph
    costs: Costs
    priced: Mapping[str, Cost]
    by_row: Mapping[str, str]
    floats: Mapping[str, str]

    @cached_property
    def _nodes(self) -> dict[str, Node]:
        return {node.name: node for node in self.graph}

    @cached_property
    def _behind(self) -> dict[str, Node]:
        """The function behind each layer that could take it with it, if both were on codes."""
        return _activations(self.graph, set(self._nodes))

    def best(self) -> _Choice:
        """The layers, from both choices."""
        margin = self.costs.margin
        strict = self._stable(lambda t: max(t.alone * margin, t.int8) > t.float32, frozenset(self.priced))
        wide = self._stable(lambda t: t.alone * math.sqrt(margin) > t.float32, frozenset(self.priced))
        layers = set(strict.layers)
        for region in self._regions(wide):
            if self._spent(wide, region) * margin < self._spent(strict, region):
                layers |= region
        return self._widened(self.of(frozenset(layers)))

    def _widened(self, choice: _Choice) -> _Choice:
        """With layers that hardly gain themselves, but spare their neighbours conversions that are worth the margin."""
        every, margin = set(self.priced), self.costs.margin
        for name, cost in self.priced.items():
            if name in choice.layers or cost.int8 > cost.float32:
                continue
            tried = self.of(choice.layers | {name})
            total = tried.totals[name]
            gain = self._spent(choice, every) - self._spent(tried, every)
            if total.alone <= total.float32 and gain > (1 - 1 / margin) * total.float32:
                choice = tried
        return choice

    def microseconds(self, choice: _Choice) -> float:
        """Of all layers that can be int8, those that must not be among them, and of what can follow them."""
        rest = [self._nodes[name] for name in self.floats if name in self._nodes]
        kept = [node for node in rest if node.op in LAYERS and _problem(self.graph, node) == ""]
        floats = (self.costs.layer(node, dynamic=False).float32 + self._floats(node) for node in kept)
        counted = {node.name for node in self._behind.values()}
        moves = (node for node in self.graph if node.op not in LAYERS and node.name not in counted)
        others = (self.costs.other(node, node.name in choice.int8) for node in moves if can_follow(self.graph, node))
        return self._spent(choice, set(self.priced)) + sum(floats) + sum(others)

    def _floats(self, layer: Node) -> float:
        """Microseconds of the function behind a layer, on float32."""
        return self._function(layer, self._behind.get(layer.name))[1]

    def _stable(self, is_slower: Callable[[_Total], bool], layers: frozenset[str]) -> _Choice:
        """What is left when slower layers go. Fewer int8 layers make more borders: the order does not matter."""
        while True:
            choice = self.of(layers)
            slower = {name for name in layers if is_slower(choice.totals[name])}
            if not slower:
                return choice
            layers -= slower

    def of(self, layers: frozenset[str]) -> _Choice:
        """What comes of these layers on codes."""
        static = set(layers - set(self.by_row))
        int8 = layers | _others(self.graph, self.costs, static, self.floats)
        activations = _activations(self.graph, set(int8) - set(self.by_row))
        totals = {name: self._total(name, set(int8), activations.get(name)) for name in self.priced}
        return _Choice(layers=layers, int8=set(int8), activations=activations, totals=totals)

    def _total(self, name: str, int8: set[str], activation: Node | None) -> _Total:
        cost, node = self.priced[name], self._nodes[name]
        coded, floats = self._function(node, activation)
        readers = self.graph.consumers(node.outputs[0])
        is_read = any(reader.name in int8 and reader.name not in self.by_row for reader in readers)
        alone = (cost.int8 if is_read else cost.int8_floats) + coded
        borders = _borders(self.graph, node, cost, int8, self.by_row)
        return _Total(alone=alone, int8=alone + borders, float32=cost.float32 + floats)

    def _function(self, layer: Node, activation: Node | None) -> tuple[float, float]:
        """Microseconds of a function behind a layer: in its epilogue, and on its own on float32."""
        if activation is None:
            return 0.0, 0.0
        return self.costs.function(activation, is_slope=layer_slope(self.graph, layer, activation) is not None)

    def _regions(self, choice: _Choice) -> list[set[str]]:
        """The layers that are joined by codes, set by set."""
        static, of = choice.int8 - set(self.by_row), dict[str, set[str]]()
        for node in self.graph:
            if node.name not in static:
                continue
            joined = {node.name}
            for value in node.inputs:
                maker = self.graph.producer(value) if value else None
                if maker is not None and maker.name in of:
                    joined |= of[maker.name]
            of.update(dict.fromkeys(joined, joined))
        regions = {id(region): region & choice.layers for region in of.values()}
        return [region for region in regions.values() if region]

    def _spent(self, choice: _Choice, region: set[str]) -> float:
        """Microseconds of these layers and of the functions behind them."""
        total = 0.0
        for name in sorted(region):
            node = self._nodes[name]
            total += choice.totals[name].int8 if name in choice.layers else self.priced[name].float32
            if name not in choice.activations or name not in choice.layers:
                total += self._floats(node)
        return total


def _borders(graph: Graph, node: Node, cost: Cost, int8: set[str], dynamic: Container[str]) -> float:
    """Microseconds of the conversions that a layer's neighbours make necessary."""
    if node.name in dynamic:  # layers that read a value so share its conversion
        sharers = [
            r for r in graph.consumers(node.inputs[0]) if r.name in int8 and r.name in dynamic and r.op == node.op
        ]
        return cost.to_codes / max(len(sharers), 1)
    total = 0.0
    for place in (0, 3):
        value = node.inputs[place] if len(node.inputs) > place else ""
        producer = graph.producer(value) if value else None
        if value and (producer is None or producer.name not in int8 or producer.name in dynamic):
            total += cost.to_codes if place == 0 else cost.to_float
    readers = [reader.name in int8 and reader.name not in dynamic for reader in graph.consumers(node.outputs[0])]
    if any(readers) and not (all(readers) and node.outputs[0] not in graph.outputs):
        total += cost.to_float
    return total


def _others(graph: Graph, costs: Costs, layers: set[str], floats: Container[str]) -> set[str]:
    """The nodes, layers and `floats` aside, whose inputs come as codes and whose output somebody wants as codes.

    layers: those that work on codes with static ranges.
    """
    available: set[str] = set()
    candidates: list[Node] = []
    for node in graph:
        if node.name in layers:
            available.update(node.outputs)
        elif node.name not in floats and can_follow(graph, node) and _has_codes(graph, costs, node, available):
            available.update(node.outputs)
            candidates.append(node)
    wanted = {name for node in graph if node.name in layers for name in (node.inputs[0], *node.inputs[3:4])}
    chosen: set[str] = set()
    for node in reversed(candidates):
        if node.outputs[0] in wanted:
            chosen.add(node.name)
            wanted.update(node.inputs)
    return chosen


def _has_codes(graph: Graph, costs: Costs, node: Node, available: set[str]) -> bool:
    """Whether all inputs come as codes; of a sum or product, a small one (a gate) may be float."""
    missing = [name for name in operands(graph, node) if name not in available]
    if not _is_pair(graph, node) or len(missing) != 1:
        return not missing
    return math.prod(costs.shape(missing[0])) * SMALL <= math.prod(costs.shape(node.outputs[0]))


def can_follow(graph: Graph, node: Node) -> bool:
    """Whether a node that is no layer can work on codes."""
    inputs = operands(graph, node)
    if not inputs or any(graph.values[name].dtype != "f32" for name in (*inputs, *node.outputs)):
        return False
    if is_function(graph, node) or is_channel_function(graph, node):
        return True
    if node.op == "pad" and (node.attrs.get("value", 0.0) != 0.0 and node.attrs.get("mode", "constant") == "constant"):
        return False
    return node.op in (*MOVES_CODES, *AVERAGES, *PAIRS) and len(inputs) == len(node.inputs)


def _is_pair(graph: Graph, node: Node) -> bool:
    return node.op in PAIRS and len(operands(graph, node)) == 2


def _activations(graph: Graph, int8: set[str]) -> dict[str, Node]:
    """The function that each int8 layer or add can take with it: clip, unary, or a layer's slope below zero."""
    uses, found = graph.uses(), {}
    for node in graph:
        if node.name not in int8 or not (is_function(graph, node) or slope_of(graph, node) is not None):
            continue
        (value,) = operands(graph, node)
        before = graph.producer(value)
        if before is None or before.name not in int8 or uses[value] != 1 or value in graph.outputs:
            continue
        is_taken = is_function(graph, node) and (before.op in LAYERS or _is_pair(graph, before))
        if is_taken or layer_slope(graph, before, node) is not None:
            found[before.name] = node
    return found


def layer_slope(graph: Graph, layer: Node, activation: Node) -> Array | None:
    """What the activation behind a layer multiplies negative results by, where the layer's epilogue can do so."""
    is_bounded = any(layer.attrs.get(f"activation_{end}") is not None for end in ("min", "max"))
    return slope_of(graph, activation) if layer.op in LAYERS and not is_bounded else None


def _priced(node: Node, total: _Total, plan: Plan, scheme: str, costs: Costs) -> Decision:
    is_coded, coded, floats = node.name in plan.int8, total.int8, total.float32
    more = ["conversions"] if coded > total.alone else []
    more += [plan.activations[node.name].op] if node.name in plan.activations else []
    included = f", {' and '.join(more)} included" if more else ""
    times = f"{coded:.1f} us in {scheme}{included}, {floats:.1f} us in float32"
    is_close = not is_coded and coded <= floats
    verdict = f"{scheme} would hardly be faster" if is_close else f"{scheme} would be slower"
    if is_coded:
        verdict = f"{floats / coded:.1f} times faster"
    reason = f"{verdict} {costs.verb}: {times}"
    return Decision(
        node=node.name,
        op=node.op,
        scheme=scheme if is_coded else "float32",
        reason=reason,
        cost_int8_us=coded,
        cost_float_us=floats,
        entropy=(plan.widths.get(node.name, EIGHT).entropy or None) if is_coded else None,
    )


def _unpriced(node: Node, problem: str, int8: set[str], plan: Plan, static: bool) -> Decision:
    if node.op == "torch":
        return in_torch(plan.graph, node)
    if node.name in plan.tables:
        width = plan.tables[node.name]
        scheme, entropy = f"int{width.bits}", width.entropy or None
        return Decision(node=node.name, op=node.op, scheme=scheme, reason=width.note, entropy=entropy)
    if node.name in int8:
        taken = next((name for name, other in plan.activations.items() if other.name == node.name), None)
        reason = f"part of {taken}" if taken is not None else "between int8 nodes, works on their codes"
        return Decision(node=node.name, op=node.op, scheme="int8", reason=reason)
    if node.op.startswith(SIGNS):
        return Decision(node=node.name, op=node.op, scheme="signs", reason="signs times signs, counted in bits")
    reason = problem
    if not reason and can_follow(plan.graph, node):
        reason = "not between int8 nodes" if static else "between layers, values are float32 without calibration"
    return Decision(node=node.name, op=node.op, scheme="float32", reason=reason or "has no int8 form")
