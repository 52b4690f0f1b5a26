"""Decides which layers run on 8-bit codes and rewrites the graph so.

With calibration data: residual additions move into their layers, channels are equalized, the cost model picks the
layers for int8, pools and activations between them follow, each value that is stored as codes gets its range, and
weights are rounded against what the layers really see. Linear layers for which one range is too coarse find one a
row at run time (`row_ranges.py`). Without: all layers find their inputs' ranges at run time; between them is float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import schemes
from ..errors import CalibrationError, InputError
from ..interpreter import bind, validate
from ..ir import Array, Coded, Graph, Node, Quant, Weight, replace
from ..packings import OF_BITS
from . import fuse_requantize as emit_
from .calibrate import Feeds, Histogram, Progress, batches, observe
from .correct_bias import correct_bias
from .cost import Costs, MeasuredCosts
from .equalize import equalize
from .four_bits import Width, tables, widths
from .functions import is_channel_function, is_function
from .fuse_requantize import AVERAGES, PAIRS, Emitter, Layer
from .fuse_residual import fuse_residual
from .known_weights import KnownWeights
from .layer_inputs import Seen, layer_inputs
from .layers import LAYERS
from .plan import Decision, Plan, all_float, decide, layer_slope
from .round_groups import GroupCodes, round_groups
from .round_weights import Codes, Factored, round_compensated, round_flat, round_nearest
from .row_ranges import RowRange, adds_floats, candidates, survey
from .sites import Sites


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

    coded: weights that came quantized keep their codes. graph: the float graph that integer values stand for
    (residuals fused, channels equalized).
    """

    def __init__(
        self,
        graph: Graph,
        rules: schemes.Rules,
        calibration: Iterable[Feeds] | None,
        *,
        coded: Sequence[Coded] = (),
        tune: bool = False,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._known = KnownWeights(coded)
        self.rules, self._calibration = rules, calibration
        self._options: dict[str, Any] = {"threads": threads, "progress": progress}
        sizes: dict[str, int] = {}
        if calibration is not None:
            graph = fuse_residual(graph)
            sizes = _first_sizes(graph, calibration)
            fixed = {node.name for node in graph if node.op in LAYERS and not self._may_equalize(graph, node)}
            graph = equalize(graph, calibration, fixed=fixed, **self._options)
        self.graph = graph
        self._costs = MeasuredCosts(graph, sizes, threads) if tune else Costs(graph, sizes)
        self._histograms: dict[str, Histogram] = {}
        self._ranges: dict[object, Quant] = {}
        self._rows: dict[str, RowRange] | None = None
        self._widths = widths(graph, rules, self._known)
        self._tables = tables(graph, rules, self._known)
        self._table_codes: dict[str, Weight] = {}
        self._rounded: dict[tuple[str, bool, int], Codes | GroupCodes] = {}
        self._layers: dict[tuple[str, Quant | None, int], Layer] = {}

    def _may_equalize(self, graph: Graph, node: Node) -> bool:
        scheme = self.rules.of(node)
        return (scheme.equalize or scheme.is_float) and self._known.of(graph.constants.get(node.inputs[1])) is None

    def make(self, floats: Mapping[str, str] | None = None, eights: Mapping[str, str] | None = None) -> Quantized:
        """The integer graph in which the nodes named in `floats` stay float32, for the reasons given there.

        eights: layers that have weights of eight bits instead of four, and why; their tables stay float32.
        """
        static = self._calibration is not None
        kept = {node.name: self.rules.reason(node) for node in self.graph if self.rules.of(node).is_float}
        kept |= {name: reason for name, reason in (eights or {}).items() if name in self._tables}
        wider = {name: Width(group_size=0, note=reason) for name, reason in (eights or {}).items()}
        plan = decide(
            self.graph,
            self._costs,
            static=static,
            floats={**kept, **(floats or {})},
            dynamic=self._dynamic_layers(),
            widths={**self._widths, **wider},
            tables=self._tables,
        )
        return Quantized(graph=validate(self._integer(plan)), reference=self.graph, decisions=plan.decisions)

    def alone(self, layer: str, eights: Container[str] = ()) -> Graph:
        """The graph in which one layer works on codes and all else in float32; it may be slower than any other.

        eights: layers that have weights of eight bits instead of four.
        """
        if layer in self._tables:
            table = {layer: self._tables[layer]}
            return validate(self._integer(Plan(graph=self.graph, int8=frozenset(), tables=table)))
        is_dynamic = self._calibration is None or layer in self._dynamic_layers()
        coded = frozenset({layer})
        return validate(
            self._integer(
                Plan(
                    graph=self.graph,
                    int8=coded,
                    dynamic=coded if is_dynamic else frozenset(),
                    groups={name: width.group_size for name, width in self._widths.items() if name not in eights},
                )
            )
        )

    def lost(self) -> list[str]:
        """Notes about codes that weights came with, and that no layer could take."""
        return self._known.lost()

    def _dynamic_layers(self) -> dict[str, str]:
        """The layers that find their inputs' ranges at run time although there are calibration data, and why."""
        if self._calibration is None:
            return {}
        if self._rows is None:
            self._rows = self._survey()
        return self._readers(self._rows)

    def _readers(self, rows: Mapping[str, RowRange]) -> dict[str, str]:
        """The linear layers that read these values, and why each row of their inputs has a range of its own."""
        readers = [(node, rows.get(node.inputs[0])) for node in self.graph if node.op == "linear"]
        return {node.name: found.reason for node, found in readers if found is not None}

    def _survey(self) -> dict[str, RowRange]:
        """The values of which each row has a range of its own, and how their rows are quantized."""
        assert self._calibration is not None
        floats = {node.name: "float" for node in self.graph if self.rules.of(node).is_float}
        known: dict[str, RowRange] = {}
        chosen: dict[str, RowRange] = {}
        while True:  # what reads such a layer's floats has a choice, too, even if all between was on codes before
            plan = decide(self.graph, self._costs, static=True, floats=floats, dynamic=self._readers(chosen))
            readers = {name: nodes for name, nodes in candidates(plan).items() if name not in known}
            readers = {name: nodes for name, nodes in readers.items() if self._policy(nodes) != "static"}
            if not readers:
                return chosen
            settings = {name: self._row_scheme(nodes) for name, nodes in readers.items()}
            quants = self._quants(plan)
            groups = {name: width.group_size for name, width in self._widths.items()}
            known |= survey(self.graph, self._calibration, readers, quants, settings, groups=groups, **self._options)
            for name, nodes in readers.items():
                is_needed = self._policy(nodes) == "dynamic" or any(adds_floats(plan, node) for node in nodes)
                if is_needed or known[name].is_better(len(known)):
                    chosen[name] = known[name]

    def _row_scheme(self, readers: Sequence[Node]) -> schemes.Scheme:
        """The scheme of the rows that these layers read; codes that came with a weight hold without factors only."""
        scheme = self.rules.of(readers[0])
        fixed = any(self._known.of(_array(self.graph, node.inputs[1])) is not None for node in readers)
        return dataclasses.replace(scheme, smooth=False) if fixed else scheme

    def _policy(self, readers: Sequence[Node]) -> str:
        return self.rules.of(readers[0]).activations

    def _integer(self, plan: Plan) -> Graph:
        quants = self._quants(plan) if self._calibration is not None else {}
        nodes = [node for node in plan.graph if node.op in LAYERS and node.name in plan.int8]
        keys = {
            node.name: (
                node.name,
                None if node.name in plan.dynamic else quants[node.inputs[0]],
                plan.groups.get(node.name, 0),
            )
            for node in nodes
        }
        missing = [node for node in nodes if keys[node.name] not in self._layers]
        self._layers |= {keys[node.name]: layer for node, layer in self._learn(missing, plan, quants)}
        codes = {
            node.name: self._table(node, plan.tables[node.name]) for node in plan.graph if node.name in plan.tables
        }
        return _emit(plan, quants, {name: self._layers[key] for name, key in keys.items()}, codes)

    def _table(self, node: Node, width: Width) -> Weight:
        """The codes of an embedding's rows."""
        if node.name not in self._table_codes:
            table, symmetric = _array(self.graph, node.inputs[0]), self.rules.of(node).symmetric
            made = self._known.of(table)
            if not isinstance(made, GroupCodes):
                made = round_groups(table, width.group_size, symmetric=symmetric, packing=OF_BITS[width.bits])
            self._table_codes[node.name] = made.as_weight()
        return self._table_codes[node.name]

    def _quants(self, plan: Plan) -> dict[str, Quant]:
        """The static ranges that a plan needs."""
        assert self._calibration is not None
        sites = Sites(plan)
        missing = [name for name in sites.observed if name not in self._histograms]
        if missing or not self._histograms:  # data without use are checked all the same
            self._histograms |= observe(plan.graph, self._calibration, missing, **self._options)
        return sites.quants(self._histograms, self.rules, self._ranges)

    def _learn(self, nodes: Sequence[Node], plan: Plan, quants: Mapping[str, Quant]) -> Iterator[tuple[Node, Layer]]:
        """Round the weights of layers and correct their biases, with as few passes over the data as it takes."""
        known = self._rows or {}
        rows = {
            n.name: known[n.inputs[0]].factors if n.inputs[0] in known else None
            for n in nodes
            if n.name in plan.dynamic
        }
        if self._calibration is None:
            yield from ((node, self._layer(node, plan, rows, None)) for node in nodes)
            return
        schemes_of = {node.name: self.rules.of(node) for node in nodes}
        unrounded = {node.name for node in nodes if self._key(node, plan) not in self._rounded}
        heavy = [node for node in nodes if schemes_of[node.name].compensate and node.name in unrounded]
        light = [node for node in nodes if node not in heavy and schemes_of[node.name].correct_bias]
        for part, moments in ((heavy, True), (light, False)):
            if part:
                fours = {name for name, size in plan.groups.items() if size}
                options = {"rows": rows, "moments": moments, "four_bits": fours, **self._options}
                for node, seen in layer_inputs(self.graph, self._calibration, part, quants, **options):
                    yield node, self._layer(node, plan, rows, seen)
        for node in nodes:
            if node not in heavy and node not in light:
                yield node, self._layer(node, plan, rows, None)

    @staticmethod
    def _key(node: Node, plan: Plan) -> tuple[str, bool, int]:
        """What a layer's codes depend on."""
        return node.name, node.name in plan.dynamic, plan.groups.get(node.name, 0)

    def _layer(self, node: Node, plan: Plan, rows: Mapping[str, Array | None], seen: Seen | None) -> Layer:
        """A layer's integer constants, with what is known about its inputs; `rows`: the factors of dynamic layers."""
        scheme, weight, factors = self.rules.of(node), _array(self.graph, node.inputs[1]), rows.get(node.name)
        has_bias = len(node.inputs) > 2 and node.inputs[2] != ""
        bias = _array(self.graph, node.inputs[2]).astype(np.float64) if has_bias else np.zeros(weight.shape[0])
        key = self._key(node, plan)
        if key not in self._rounded:
            moments = seen.factored if seen is not None and scheme.compensate else None
            even = weight if factors is None else weight / factors
            size = plan.groups.get(node.name, 0)
            known = self._known.of(weight)
            fits = known is not None and isinstance(known, GroupCodes) == (size > 0)
            self._rounded[key] = known if known and fits else _rounded(node, scheme, even, moments, size)
        codes = self._rounded[key]
        if seen is not None and scheme.correct_bias:
            bias = correct_bias(bias, weight, codes.weight if factors is None else codes.weight * factors, seen)
        return Layer(codes=codes, bias=bias, factors=factors)


def _first_sizes(graph: Graph, calibration: Iterable[Feeds]) -> dict[str, int]:
    first = next(iter(batches(graph, calibration)))
    try:
        return bind(graph, first.feeds)
    except InputError as error:
        raise CalibrationError(f"calibration batch {first.number}: {error}") from None


# ----------------------------------------------------------------------------------------------------------------- emit


def _rounded(
    node: Node, scheme: schemes.Scheme, weight: Array, moments: Factored | None, group_size: int
) -> Codes | GroupCodes:
    """Codes by what is known: the layer's inputs, or that images are mostly flat, or nothing."""
    if group_size:
        symmetric, flat = scheme.symmetric, scheme.compensate
        packing = OF_BITS[scheme.weight_bits]
        return round_groups(weight, group_size, symmetric=symmetric, moments=moments, flat=flat, packing=packing)
    if moments is not None:
        return round_compensated(weight, moments)
    is_window = scheme.compensate and node.op in ("conv2d", "conv3d") and weight[0, 0].size > 1
    return round_flat(weight) if is_window else round_nearest(weight)


def _array(graph: Graph, name: str) -> Array:
    constant = graph.constants[name]
    assert not isinstance(constant, Weight)
    return constant


def _emit(plan: Plan, quants: Mapping[str, Quant], layers: Mapping[str, Layer], tables: Mapping[str, Weight]) -> Graph:
    """The integer graph with these ranges, weights and tables of embeddings."""
    emit = Emitter(plan.graph, quants)
    taken = {node.name for node in plan.activations.values()}
    for node in plan.graph:
        if node.name in taken:
            continue
        if node.name in tables:
            codes = emit.constant(f"{node.inputs[0]}.codes", tables[node.name])
            op = f"embedding_i{plan.tables[node.name].bits}"
            emit.put_floats(replace(node, op=op, inputs=(node.inputs[1], codes), attrs={}))
        elif node.name in plan.int8:
            _emit_int8(emit, plan, node, layers)
        else:
            emit.put_floats(_with_floats(emit, node))
    return emit.finish()


def _emit_int8(emit: Emitter, plan: Plan, node: Node, layers: Mapping[str, Layer]) -> None:
    activation = plan.activations.get(node.name)
    if node.name in plan.dynamic:
        emit_.put_dynamic_layer(emit, node, layers[node.name])
    elif node.op in LAYERS:
        as_codes = plan.wants_codes(plan.output(node))
        slope = None if activation is None else layer_slope(plan.graph, node, activation)
        emit_.put_layer(emit, node, layers[node.name], as_codes=as_codes, activation=activation, slope=slope)
    else:
        put_follower(emit, node, activation)


def put_follower(emit: Emitter, node: Node, activation: Node | None = None) -> None:
    """A node that is no layer, on codes; a sum or product with the function or clip after it."""
    if is_function(emit.graph, node) or is_channel_function(emit.graph, node):
        emit_.put_function(emit, node)
    elif node.op in PAIRS:
        emit_.put_pair(emit, node, activation)
    elif node.op in AVERAGES:
        emit_.put_average(emit, node)
    else:
        emit_.put_carrier(emit, node)


def _with_floats(emit: Emitter, node: Node) -> Node:
    return replace(node, inputs=tuple(emit.floats(name) if name else "" for name in node.inputs))
