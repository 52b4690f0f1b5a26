"""What one float graph's quantization needs to know, learnt from calibration data; integer graphs by it."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CalibrationError, InputError
from ..graph.ir import Array, Coded, Graph, Node, Quant, Weight
from ..ops.interpreter import bind, validate, without_states
from ..passes.fuse_residual import fuse_residual
from ..passes.layers import CONVOLUTIONS, LAYERS, SCANS, TABLES, state_layer
from ..runtime.meta import Decision
from . import schemes
from .balance_joins import balance_joins, unlike_channels, unlike_parts
from .calibrate import Feeds, Histogram, Histograms, Observer, Progress, batches, gather
from .code_tables import round_to_values
from .correct_bias import correct_bias
from .cost import Costs, MeasuredCosts
from .emit import integer_graph
from .equalize import equalize
from .few_bits import EIGHT, Width, activation_group_size, widths
from .fuse_requantize import IntegerLayer
from .known_weights import KnownWeights
from .layer_inputs import Seen, layer_inputs
from .plan import Plan, decide
from .rehearse import bearable, measure
from .round_groups import GroupCodes, code_range, round_by
from .round_weights import Codes, Factored, round_compensated, round_flat, round_nearest, round_plain, wide_scales
from .row_ranges import RowRange, RowSamples, adds_floats, candidates, survey
from .settle import Forms, first_layers, forms, settle, spare
from .sites import Sites
from .tables import given, tables

ENOUGH = 2**15
"""Elements that a static range of rows must be from: about one in n of others lies beyond what n have shown, and costs
as much as the rounding of thousands."""
AS_CODES = 4.0
"""How much more a static range saves where the value is made as codes: it is written, read and converted in bytes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantized:
    """The integer graph; the float graph that its values stand for; and a decision for each of that graph's nodes."""

    graph: Graph
    reference: Graph
    decisions: tuple[Decision, ...]


FLAT = ("conv2d", "conv3d")
"""The layers whose windows see mostly flat images."""
Reconstruct = Callable[..., Mapping[str, IntegerLayer]]
"""`reconstruction.adaround.reconstruct`, which knows torch."""
Form = tuple[int, int, str, float]
"""What a layer's width says of its codes."""
LayerKey = tuple[str, Quant | None, Form]
"""A layer, how its input is quantized, and the form of its weight."""


class Quantizer:
    """What one float graph's quantization needs to know, learnt once and kept: integer graphs of it are then cheap.

    coded: weights that came quantized keep their codes. note: on layers with ranges at run time. reconstruct: learns
    the rounding of layers whose scheme's method says so. graph: the float graph that integer values stand for
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
        target: str | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
        note: str = "",
        reconstruct: Reconstruct | None = None,
    ) -> None:
        self._known = KnownWeights(coded)
        self.rules, self._calibration = rules, calibration
        self._options: dict[str, Any] = {"threads": threads, "progress": progress}
        self._reconstruct = reconstruct if calibration is not None else None
        self._learned: set[LayerKey] = set()
        """Layers whose rounding was learned."""
        sizes: dict[str, int] = {}
        if calibration is not None:
            graph = fuse_residual(graph)
            sizes = _first_sizes(graph, calibration)
            fixed = {node.name for node in graph if node.op in LAYERS and not self._may_equalize(graph, node)}
            floats = {node.name for node in graph if self.rules.of(node).computes_floats}
            graph = balance_joins(graph, calibration, fixed=fixed | floats, **self._options)
            graph = equalize(graph, calibration, fixed=fixed, **self._options)
        self.graph = graph
        self._costs = MeasuredCosts(graph, sizes, threads) if tune else Costs(graph, sizes, target)
        self._nominal = self._costs if tune else Costs(graph, None, target)
        """At the sizes that a graph without data is priced at."""
        self._histograms: dict[str, Histogram] = {}
        self._halves: dict[str, Histogram] = {}
        """Of every second piece of the data: ranges by these are tried on the others."""
        self._ranges: dict[object, Quant] = {}
        self._half_ranges: dict[object, Quant] = {}
        self._rows: dict[str, RowRange] | None = None
        self._uneven: dict[str, str] | None = None
        self._forms: Forms | None = None
        self._note = note
        self._notes: dict[str, str] = {}
        """Why linear layers with a choice have one range for all rows."""
        self._widths = widths(graph, rules, self._known)
        self._tables = tables(graph, rules, self._known)
        self._table_codes: dict[tuple[str, Form, int, bool], Codes | GroupCodes] = {}
        self._rounded: dict[tuple[str, bool, Form], Codes | GroupCodes] = {}
        self._layers: dict[LayerKey, IntegerLayer] = {}
        self._means: dict[str, Array] = {}
        """Of what the weights of layers meet."""
        self._stored: dict[str, Weight] = {}
        """Weights of float layers."""

    def _may_equalize(self, graph: Graph, node: Node) -> bool:
        """Whether a layer's weight may get other numbers: no codes came with it, nor is it a table."""
        scheme, weight = self.rules.of(node), node.inputs[1]
        is_free = not any(reader.op in TABLES for reader in graph.consumers(weight))
        return (scheme.equalize or scheme.computes_floats) and is_free and self._known.of(graph, weight) is None

    def with_schemes(self, nodes: Mapping[str, schemes.Scheme]) -> Quantizer:
        """The same with these schemes of the weights of layers and tables, by name; what is learnt, both know.

        A scheme is as it is said: ends and small layers are no exceptions. Ranges are those of the rules.
        """
        self.settled()
        made = copy.copy(self)
        exact = {name: dataclasses.replace(each, keep_ends=False, keep_small=0.0) for name, each in nodes.items()}
        made.rules = dataclasses.replace(self.rules, nodes=exact)
        made._widths = widths(self.graph, made.rules, self._known)
        made._tables = tables(self.graph, made.rules, self._known)
        return made

    def width(self, name: str) -> Width | None:
        """What the weights of a layer or table become, if they get codes; None: they do not."""
        node = next(node for node in self.graph if node.name == name)
        return self._tables.get(name) if node.op in TABLES else self._widths.get(name, EIGHT)

    def rounded(
        self, layers: Sequence[str], schemes: Sequence[schemes.Scheme]
    ) -> Iterator[tuple[Node, Array, Array | None, dict[str, Array]]]:
        """Layers with their weights, E[x x^T] of what these meet, and the weights as each scheme rounds them.

        Weights are float64 [O, I, ...]; of a layer whose inputs are multiplied by factors, over these factors, as the
        moments [groups, K, K] are those of the products. None: there are no data, or the layer is too deep.
        """
        forms = [self.with_schemes(dict.fromkeys(layers, scheme)) for scheme in schemes]
        plan = Plan(graph=self.graph, int8=frozenset(layers), dynamic=frozenset(layers) & set(self.dynamic_layers()))
        nodes = [node for node in self.graph if node.name in set(layers)]
        known = self._known_rows() if self._calibration is not None else {}
        factors = {
            node.name: known[node.inputs[0]].factors if node.inputs[0] in known else None
            for node in nodes
            if node.name in plan.dynamic
        }
        if self._calibration is None:
            met: Iterable[tuple[Node, Seen | None]] = ((node, None) for node in nodes)
        else:
            options = {"rows": factors, "four_bits": layers, **self._options}
            met = layer_inputs(self.graph, self._calibration, nodes, self._quants(plan), **options)
        for node, seen in met:
            weight, own = _array(self.graph, node.inputs[1]).astype(np.float64), factors.get(node.name)
            found = {}
            for form, scheme in zip(forms, schemes, strict=True):
                whole = dataclasses.replace(plan, widths=form._widths)
                codes = form._layer_codes(node, whole, own, seen)
                found[scheme.name] = codes.weight
            yield node, weight if own is None else weight / own, None if seen is None else seen.moments, found

    def make(
        self,
        floats: Mapping[str, str] | None = None,
        eights: Mapping[str, str] | None = None,
        given: Mapping[str, str] | None = None,
    ) -> Quantized:
        """The integer graph in which the nodes named in `floats` stay float32, for the reasons given there.

        eights: layers and tables that have weights of eight bits instead of four, and why. given: the layers that have
        codes whatever they cost, and why; None: those that are faster so.
        """
        static = self._calibration is not None
        kept = {node.name: self.rules.reason(node) for node in self.graph if self.rules.of(node).computes_floats}
        kept = {**self._unlike(), **kept}
        wider = {name: Width(group_size=0, note=reason) for name, reason in (eights or {}).items()}
        plan = decide(
            self.graph,
            self._costs,
            static=static,
            floats={**self.settled().floats, **kept, **(floats or {})},
            dynamic=self.dynamic_layers(),
            widths={**self._widths, **wider},
            tables={**self._tables, **{name: width for name, width in wider.items() if name in self._tables}},
            given=given,
        )
        graph = validate(self._with_stored(self._integer(plan, learns=True), plan))
        return Quantized(graph=graph, reference=self.graph, decisions=tuple(self._noted(plan)))

    def _with_stored(self, graph: Graph, plan: Plan, layers: Container[str] | None = None) -> Graph:
        """With codes as the weights of float layers whose scheme stores them so, of these `layers` or all."""
        chosen = [
            node
            for node in plan.graph
            if node.op in LAYERS
            and node.name not in plan.int8
            and (layers is None or node.name in layers)
            and self.rules.of(node).computes_floats
            and not self.rules.of(node).is_float
        ]
        names = {node.name for node in chosen}
        stored = dict(graph.constants)
        for node in chosen:
            name = node.inputs[1]
            constant = stored.get(name)
            readers = {reader.name for reader in graph.consumers(name)} if constant is not None else set()
            if readers <= names and isinstance(constant, np.ndarray) and self._known.of(plan.graph, name) is None:
                stored[name] = self._stored_weight(node, constant)
                bias = node.inputs[2] if len(node.inputs) > 2 else ""
                if isinstance(stored[name], Weight) and bias in stored and len(graph.consumers(bias)) == 1:
                    stored[bias] = self._stored_bias(node, constant, np.asarray(stored[name]))
        return dataclasses.replace(graph, constants=stored)

    def _stored_bias(self, node: Node, weight: Array, rounded: Array) -> Array:
        """The bias, from which the mean error of the layer's outputs is taken where it is known."""
        mean = self._means.get(node.name)
        if mean is None or not self.rules.of(node).correct_bias:
            return _array(self.graph, node.inputs[2])
        change = (rounded.astype(np.float64) - weight).reshape(len(mean), -1, mean.shape[1])
        moved = np.einsum("gnk,gk->gn", change, mean).ravel()
        corrected: Array = (self._bias(node) - moved).astype(np.float32)
        return corrected

    def _stored_weight(self, node: Node, weight: Array) -> Array | Weight:
        """The codes that it has as an int8 layer's, if these are of the same numbers, else the nearest."""
        if not np.isfinite(weight).all() or weight.size == 0:
            return weight
        for is_dynamic in (False, True):
            codes = self._rounded.get((node.name, is_dynamic, _form(EIGHT)))
            rows = self._rows.get(node.inputs[0]) if is_dynamic and self._rows else None
            if isinstance(codes, Codes) and (rows is None or rows.factors is None):
                return codes.as_weight()
        if node.name not in self._stored:
            self._stored[node.name] = round_nearest(weight).as_weight()
        return self._stored[node.name]

    def _unlike(self) -> dict[str, str]:
        """The layers for whose inputs one range is no use, and why."""
        if self._calibration is None:
            return unlike_parts(self.graph)
        if self._uneven is None:
            self._uneven = unlike_channels(self.graph, self._calibration, **self._options)
        by_row = self.dynamic_layers() if self._uneven else {}
        return {name: reason for name, reason in self._uneven.items() if name not in by_row}

    def _noted(self, plan: Plan) -> Iterator[Decision]:
        """The decisions, with what static ranges are good for."""
        nodes = {node.name: node for node in plan.graph}
        for decision in plan.decisions:
            coded, note = decision.node in plan.int8 - plan.dynamic, ""
            if coded and decision.op in CONVOLUTIONS and type(self._costs) is Costs:
                cost = self._costs.layer(nodes[decision.node], dynamic=True)
                slower = (cost.int8 + cost.to_codes) / max(decision.cost_int8_us or 0.0, 1e-9)
                note = f"one range for all samples: {slower:.1f} times faster than a range for each"
                note = "; ".join(filter(None, (note, self.settled().note)))
            elif coded:
                note = self._notes.get(decision.node, "")
            elif decision.node in plan.dynamic:
                note = self._note
            yield dataclasses.replace(decision, reason=f"{decision.reason}; {note}") if note else decision

    def alone(self, layer: str, eights: Container[str] = ()) -> Graph:
        """The graph in which one layer or table has codes and all else is float32; it may be slower than any other.

        eights: layers that have weights of eight bits instead of four.
        """
        if layer in self._tables:
            own = Width(group_size=0, note="") if layer in eights else self._tables[layer]
            table = {layer: dataclasses.replace(own, shared="")}
            return validate(self._integer(Plan(graph=self.graph, int8=frozenset(), tables=table)))
        if next(self.rules.of(node) for node in self.graph if node.name == layer).computes_floats:
            floats = Plan(graph=self.graph, int8=frozenset())
            return validate(self._with_stored(self._integer(floats), floats, {layer}))
        is_scan = any(node.name == layer and node.op in SCANS for node in self.graph)
        is_dynamic = is_scan or self._calibration is None or layer in self.dynamic_layers()
        coded = frozenset({layer})
        return validate(
            self._integer(
                Plan(
                    graph=self.graph,
                    int8=coded,
                    dynamic=coded if is_dynamic else frozenset(),
                    widths={name: width for name, width in self._widths.items() if name not in eights},
                )
            )
        )

    def lost(self) -> list[str]:
        """Notes about codes that weights came with, and that no layer could take."""
        return self._known.lost()

    def dynamic_layers(self) -> dict[str, str]:
        """The layers that find their inputs' ranges at run time although there are calibration data, and why."""
        if self._calibration is None:
            return {}
        return {**self._readers(self._known_rows()), **self.settled().dynamic}

    def _known_rows(self) -> Mapping[str, RowRange]:
        if self._rows is None:
            self._rows = self._survey()
        return self._rows

    def has_choice(self) -> bool:
        """Whether no scheme prescribes ranges."""
        return all(self._policy([node]) == "auto" for node in self.graph if node.op in LAYERS)

    def settled(self) -> Forms:
        """What becomes of layers for the outputs' sake; where a scheme prescribes ranges, nothing does."""
        if self._forms is None:
            self._forms = Forms()
            if self._calibration is not None and self.has_choice():
                self._forms = self._settle()
        return self._forms

    def _settle(self) -> Forms:
        assert self._calibration is not None
        kept = {node.name: "float" for node in self.graph if self.rules.of(node).computes_floats}
        rows, known = self._known_rows(), dict[tuple[str, bool], IntegerLayer]()
        by_row = self._readers(rows)

        def planned(given: Forms) -> Plan:
            floats, dynamic = {**given.floats, **kept}, {**by_row, **given.dynamic}
            return decide(self.graph, self._costs, static=True, floats=floats, dynamic=dynamic)

        plan, without = planned(Forms()), decide(self.graph, self._nominal, static=False, floats=kept)
        choice, first = forms(plan, without), first_layers(plan)
        is_open = len(choice) > 1 or (first and any(node.op in SCANS for node in self.graph))  # scans pile noise up
        noise = measure(self.graph, self._calibration, self._options["threads"]) if is_open else None
        if noise is None:
            return Forms()

        def rehearse(given: Forms) -> Array:
            return noise(self._rehearsed(planned(given), rows, known))

        def time(given: Forms) -> float:
            return planned(given).microseconds

        if len(choice) == 1:
            return spare(first, rehearse, time)
        return settle(choice, first, noise(self._rehearsed(without, {}, {})), rehearse, time)

    def _readers(self, rows: Mapping[str, RowRange]) -> dict[str, str]:
        """The linear layers that read these values, and why each row of their inputs has a range of its own."""
        readers = [(node, rows.get(node.inputs[0])) for node in self.graph if node.op == "linear"]
        return {node.name: found.reason for node, found in readers if found is not None}

    def _survey(self) -> dict[str, RowRange]:
        """The values of which each row has a range of its own, and how their rows are quantized."""
        assert self._calibration is not None
        floats = {node.name: "float" for node in self.graph if self.rules.of(node).computes_floats}
        rows: dict[str, RowRange] = {}
        savings: dict[str, float] = {}
        while True:  # what reads such a layer's floats has a choice, too, even if all between was on codes before
            plan = decide(self.graph, self._costs, static=True, floats=floats, dynamic=self._readers(rows))
            readers = {name: nodes for name, nodes in candidates(plan).items() if name not in rows}
            readers = {name: nodes for name, nodes in readers.items() if self._policy(nodes) != "static"}
            if not readers:
                return self._without_static(rows, savings, floats)
            settings = {name: self._row_scheme(nodes) for name, nodes in readers.items()}
            samples = RowSamples(readers)
            quants = self._quants(plan, beside=[samples])
            groups = {name: width.group_size for name, width in self._widths.items()}
            dynamic = dataclasses.replace(plan, dynamic=plan.int8, widths=self._widths)
            inputs = {node.name: self._activation_group(node, dynamic) for nodes in readers.values() for node in nodes}
            rows |= survey(self.graph, samples, readers, quants, settings, groups=groups, activation_groups=inputs)
            for name, nodes in readers.items():
                is_open = self._policy(nodes) != "dynamic" and rows[name].elements >= ENOUGH
                if is_open and not any(adds_floats(plan, node) for node in nodes):
                    savings[name] = self._saving(plan, name)

    def _saving(self, plan: Plan, value: str) -> float:
        """About what a static range of a value saves: bytes, fewer if only its own conversion becomes cheaper."""
        producer = plan.graph.producer(value)
        as_codes = producer is not None and producer.name in plan.int8
        return math.prod(self._costs.shape(value)) * (AS_CODES if as_codes else 1.0)

    def _without_static(
        self, rows: Mapping[str, RowRange], savings: Mapping[str, float], floats: Mapping[str, str]
    ) -> dict[str, RowRange]:
        """`rows` without the values that may have one range for all rows, of those in `savings`."""
        assert self._calibration is not None
        noise = measure(self.graph, self._calibration, self._options["threads"]) if savings else None
        if noise is None:
            return dict(rows)
        layers: dict[tuple[str, bool], IntegerLayer] = {}

        def others(static: Sequence[str]) -> dict[str, RowRange]:
            return {name: found for name, found in rows.items() if name not in static}

        def planned(static: Sequence[str]) -> Plan:
            dynamic = self._readers(others(static))
            return decide(self.graph, self._costs, static=True, floats=floats, dynamic=dynamic)

        def rehearse(static: Sequence[str]) -> Array:
            return noise(self._rehearsed(planned(static), rows, layers))

        added = {name: max(rows[name].static - rows[name].noise, 0.0) / saved for name, saved in savings.items()}
        chosen, reason = bearable(
            sorted(added, key=added.__getitem__), rehearse, lambda static: planned(static).microseconds
        )
        self._notes = {node.name: reason for node in self.graph if node.op == "linear" and node.inputs[0] in chosen}
        return others(chosen)

    def _rehearsed(
        self, plan: Plan, rows: Mapping[str, RowRange], known: dict[tuple[str, bool], IntegerLayer]
    ) -> Graph:
        """The integer graph with weights rounded to nearest; `known` keeps its layers from one to the next."""
        for node in _coded_layers(plan):
            key = (node.name, node.name in plan.dynamic)
            if key not in known:
                found = rows.get(node.inputs[0]) if key[1] and node.op not in SCANS else None
                factors = None if found is None else found.factors
                codes = self._codes(node, plan, factors, None, quick=True)
                size = self._activation_group(node, plan)
                known[key] = IntegerLayer(
                    codes=codes, bias=self._bias(node), factors=factors, activation_group_size=size
                )
        layers = {
            name: known[name, name in plan.dynamic] for name in plan.int8 if (name, name in plan.dynamic) in known
        }
        return integer_graph(plan, self._quants(plan, half=True), layers, {}, self._copies(plan, rows))

    def _copies(self, plan: Plan, rows: Mapping[str, RowRange]) -> dict[str, tuple[int, ...]]:
        """The copies of the values whose readers can all have them: their weights are plain codes of eight bits."""
        found = {}
        for name, row in rows.items():
            layers = [node for node in plan.graph.consumers(name) if node.op == "linear"]
            readers = [node for node in layers if node.name in plan.dynamic]
            whole = not any(self._activation_group(node, plan) for node in readers)
            widths = [plan.widths.get(node.name, EIGHT) for node in readers]
            if row.copies and whole and all(width.group_size == 0 and not width.values for width in widths):
                found[name] = row.copies
        return found

    def _row_scheme(self, readers: Sequence[Node]) -> schemes.Scheme:
        """The scheme of the rows that these layers read; codes that came, or are a table's, hold without factors."""
        scheme = self.rules.of(readers[0])
        weights = [node.inputs[1] for node in readers]
        tied = {node.inputs[0] for node in self.graph if node.name in self._tables and self._tables[node.name].shared}
        fixed = any(name in tied or self._known.of(self.graph, name) is not None for name in weights)
        return dataclasses.replace(scheme, smooth=False) if fixed else scheme

    def _policy(self, readers: Sequence[Node]) -> str:
        return self.rules.of(readers[0]).activations

    def _integer(self, plan: Plan, *, learns: bool = False) -> Graph:
        quants = self._quants(plan) if self._calibration is not None else {}
        nodes = _coded_layers(plan)
        keys = {
            node.name: (
                node.name,
                None if node.name in plan.dynamic else quants[node.inputs[0]],
                _form(plan.widths.get(node.name, EIGHT)),
            )
            for node in nodes
        }
        missing = [node for node in nodes if keys[node.name] not in self._layers]
        self._layers |= {keys[node.name]: layer for node, layer in self._learn(missing, plan, quants)}
        if learns:
            self._learn_rounding(plan, quants, nodes, keys)
        layers = {name: self._layers[key] for name, key in keys.items()}
        codes = {
            node.name: layers[width.shared].codes if width.shared else self._table(node, width)
            for node in plan.graph
            if (width := plan.tables.get(node.name)) is not None
        }
        return integer_graph(plan, quants, layers, codes, self._copies(plan, self._rows or {}))

    def _learn_rounding(
        self, plan: Plan, quants: Mapping[str, Quant], nodes: Sequence[Node], keys: Mapping[str, LayerKey]
    ) -> None:
        """Put layers whose rounding is learned in the place of those that it is learned from, once."""
        chosen = [node for node in nodes if self._may_learn(node, keys[node.name])]
        if self._reconstruct is None or not chosen:
            return
        layers = {name: self._layers[key] for name, key in keys.items()}
        schemes_of = {node.name: self.rules.of(node) for node in chosen}
        ends = {name: code_range(scheme.weight_bits, scheme.levels) for name, scheme in schemes_of.items()}
        seed = next(iter(schemes_of.values())).seed
        made = self._reconstruct(plan, quants, layers, ends, self._calibration, seed=seed, **self._options)
        self._layers |= {keys[name]: layer for name, layer in made.items()}
        self._learned |= {keys[node.name] for node in chosen}

    def _may_learn(self, node: Node, key: LayerKey) -> bool:
        codes = self._layers[key].codes
        is_free = isinstance(codes, GroupCodes) and self._known.of(self.graph, node.inputs[1]) is None
        return is_free and self.rules.of(node).method == "reconstruct" and key not in self._learned

    def _table(self, node: Node, width: Width) -> Codes | GroupCodes:
        """The codes of an embedding's rows: those that came with its table, else the nearest."""
        name, scheme = node.inputs[0], self.rules.of(node)
        key = name, _form(width), scheme.levels, scheme.symmetric
        if key not in self._table_codes:
            table, known = _array(self.graph, name), given(self.graph, name, self._known)
            if known is not None and isinstance(known, GroupCodes) == (width.group_size > 0):
                made = known
            elif width.group_size:
                made = round_by(scheme, table, width.group_size)
            else:
                scales = wide_scales(table, width.entropy, alike=True) if width.entropy else None
                made = round_to_values(table, width.values) if width.values else round_nearest(table, scales=scales)
            self._table_codes[key] = made
        return self._table_codes[key]

    def _quants(self, plan: Plan, *, half: bool = False, beside: Sequence[Observer] = ()) -> dict[str, Quant]:
        """The static ranges that a plan needs, by all data or by every second piece.

        beside: who wants to see the data, too.
        """
        assert self._calibration is not None
        sites = Sites(plan)
        missing = [name for name in sites.observed if name not in self._histograms]
        if missing or beside or not self._histograms:  # data without use are checked all the same
            seen = Histograms(missing)
            gather(plan.graph, self._calibration, [seen, *beside], stage="calibrate", **self._options)
            self._halves |= seen.halves[0]
            self._histograms |= seen.whole()
        histograms, known = (self._halves, self._half_ranges) if half else (self._histograms, self._ranges)
        return sites.quants(histograms, self.rules, known)

    def _learn(
        self, nodes: Sequence[Node], plan: Plan, quants: Mapping[str, Quant]
    ) -> Iterator[tuple[Node, IntegerLayer]]:
        """Round the weights of layers and correct their biases, with as few passes over the data as it takes."""
        known = self._rows or {}
        rows = {
            n.name: known[n.inputs[0]].factors if n.inputs[0] in known and n.op not in SCANS else None
            for n in nodes
            if n.name in plan.dynamic
        }
        if self._calibration is None:
            yield from ((node, self._layer(node, plan, rows, None)) for node in nodes)
            return
        schemes_of = {node.name: self.rules.of(node) for node in nodes}
        unrounded = {node.name for node in nodes if self._key(node, plan) not in self._rounded}
        few = {name for name, width in plan.widths.items() if width.bits < 8}
        heavy = [
            node for node in nodes if schemes_of[node.name].compensates(few=node.name in few) and node.name in unrounded
        ]
        light = [node for node in nodes if node not in heavy and schemes_of[node.name].correct_bias]
        for part, moments in ((heavy, True), (light, False)):
            if part:
                groups = {node.name: self._activation_group(node, plan) for node in part}
                options = {"rows": rows, "groups": groups, "moments": moments, "four_bits": few, **self._options}
                options["copies"] = self._copies(plan, known)
                for node, seen in layer_inputs(self.graph, self._calibration, part, quants, **options):
                    yield node, self._layer(node, plan, rows, seen)
        for node in nodes:
            if node not in heavy and node not in light:
                yield node, self._layer(node, plan, rows, None)

    @staticmethod
    def _key(node: Node, plan: Plan) -> tuple[str, bool, Form]:
        """What a layer's codes depend on."""
        return node.name, node.name in plan.dynamic, _form(plan.widths.get(node.name, EIGHT))

    def _layer(self, node: Node, plan: Plan, rows: Mapping[str, Array | None], seen: Seen | None) -> IntegerLayer:
        """A layer's integer constants, with what is known about its inputs; `rows`: the factors of dynamic layers."""
        scheme, weight, factors = self.rules.of(node), _array(self.graph, node.inputs[1]), rows.get(node.name)
        bias = self._bias(node)
        codes = self._layer_codes(node, plan, factors, seen)
        if seen is not None:
            self._means[node.name] = seen.mean
        if seen is not None and scheme.correct_bias:
            bias = correct_bias(bias, weight, codes.weight if factors is None else codes.weight * factors, seen)
        size = self._activation_group(node, plan)
        return IntegerLayer(codes=codes, bias=bias, factors=factors, activation_group_size=size)

    def _layer_codes(self, node: Node, plan: Plan, factors: Array | None, seen: Seen | None) -> Codes | GroupCodes:
        """A layer's codes, rounded once."""
        key = self._key(node, plan)
        if key not in self._rounded:
            is_heavy = self.rules.of(node).compensates(few=plan.widths.get(node.name, EIGHT).bits < 8)
            moments = seen.factored if seen is not None and is_heavy else None
            self._rounded[key] = self._codes(node, plan, factors, moments)
        return self._rounded[key]

    def _activation_group(self, node: Node, plan: Plan) -> int:
        """How many adjacent values of its input share a scale; 0: all of a row, or there is one range for all rows."""
        wanted = self.rules.of(node).activation_group_size
        if node.op != "linear" or node.name not in plan.dynamic:
            return 0
        if wanted < 0 and not isinstance(self._known.of(self.graph, node.inputs[1]), GroupCodes):
            return 0
        depth = int(self.graph.constants[node.inputs[1]].shape[1])
        return activation_group_size(depth, plan.widths.get(node.name, EIGHT).group_size, wanted)

    def _bias(self, node: Node) -> Array:
        """float64, zeros where a layer has none."""
        if len(node.inputs) > 2 and node.inputs[2]:
            return _array(self.graph, node.inputs[2]).astype(np.float64)
        return np.zeros(_array(self.graph, node.inputs[1]).shape[0])

    def _codes(
        self, node: Node, plan: Plan, factors: Array | None, moments: Factored | None, *, quick: bool = False
    ) -> Codes | GroupCodes:
        """A layer's codes: those that came with its weight, else by what is known of its inputs."""
        weight, width = _array(self.graph, node.inputs[1]), plan.widths.get(node.name, EIGHT)
        size = width.group_size
        known = self._known.of(self.graph, node.inputs[1])
        if known is not None and isinstance(known, GroupCodes) == (size > 0):
            return known
        even = weight if factors is None else weight / factors
        if quick and node.op not in CONVOLUTIONS and width.bits == 8:
            return round_plain(even)
        return _rounded(node, self.rules.of(node), even, moments, width)


def _coded_layers(plan: Plan) -> list[Node]:
    """The layers on codes; of a scan, the layer of its states."""
    nodes = [node for node in plan.graph if node.name in plan.int8 and node.op in (*LAYERS, *SCANS)]
    return [state_layer(node) if node.op in SCANS else node for node in nodes]


def _form(width: Width) -> Form:
    return width.group_size, width.bits, width.values, width.entropy


def _first_sizes(graph: Graph, calibration: Iterable[Feeds]) -> dict[str, int]:
    first = next(iter(batches(graph, calibration)))
    try:
        return bind(without_states(graph), first.feeds)
    except InputError as error:
        raise CalibrationError(f"calibration batch {first.number}: {error}") from None


def _rounded(
    node: Node, scheme: schemes.Scheme, weight: Array, moments: Factored | None, width: Width
) -> Codes | GroupCodes:
    """Codes by what is known: the layer's inputs, or that images are mostly flat, or nothing."""
    group_size = width.group_size
    if width.values:
        flat = scheme.compensates(few=True) and node.op in FLAT
        return round_to_values(weight, width.values, moments=moments, flat=flat)
    if group_size:
        return round_by(scheme, weight, group_size, moments=moments, flat=scheme.compensates(few=True))
    scales = wide_scales(weight, width.entropy, alike=False) if width.entropy else None
    if moments is not None:
        return round_compensated(weight, moments, scales=scales)
    is_window = scheme.compensates(few=False) and node.op in FLAT and weight[0, 0].size > 1
    return round_flat(weight, scales=scales) if is_window else round_nearest(weight, scales=scales)


def _array(graph: Graph, name: str) -> Array:
    constant = graph.constants[name]
    assert not isinstance(constant, Weight)
    return constant
