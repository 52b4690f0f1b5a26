"""What each candidate of each layer costs: microseconds of a call and bytes of a file.

Here, a layer in eight bits and in float32 costs what it took among its neighbours, in whole models that were profiled;
a form of few bits or with zeros costs that times what it takes alone over what eight bits take alone. What is no layer
is counted once, and a conversion where neighbours differ (`allocate.Border`). For a named target all comes from the
cost model, and nothing is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..converted_model import ConvertedModel
from ..graph import blocks
from ..graph.ir import Graph, Node, Weight
from ..ops import OPS, attributes
from ..ops.interpreter import bind
from ..passes.functions import is_function, operands
from ..passes.layers import LAYERS, TABLES
from ..progress import Reporter
from ..quantization.cost import Costs, MeasuredCosts, made_up, usual_codes
from ..quantization.few_bits import Width
from ..quantization.round_weights import round_nearest, wide_scales
from ..runtime.timing import interleave
from .allocate import Border, Problem
from .candidates import Candidate, Price
from .workshop import FLOAT, INT8, STORED, WIDE, Layer, Workshop, file_bytes, weight_of

PROFILES = 5
"""Profiles of a model, of each node the least of which counts."""
HUFFMAN = 1.01
"""Of what frequencies tell, what a file takes."""
ROUNDS, SECONDS = 11, 0.05
"""Of timing whole models against each other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """The two models that all others are compared with, what a call of each takes, and the bytes of its file."""

    floats: ConvertedModel
    plain: ConvertedModel
    microseconds: Mapping[str, float]
    bytes: Mapping[str, int]


def base(workshop: Workshop, floats: ConvertedModel, plain: ConvertedModel, costs: Costs | None) -> Base:
    """Both, timed; costs: estimated by these instead."""
    models = {"float32": floats, "int8": plain}
    taken = measured(workshop, models) if costs is None else {
        name: sum(_estimated(workshop, costs, is_coded=name == "int8").values()) for name in models
    }  # fmt: skip
    sizes = {name: file_bytes(model) for name, model in models.items()}
    return Base(floats=floats, plain=plain, microseconds=taken, bytes=sizes)


def measured(workshop: Workshop, models: Mapping[str, ConvertedModel]) -> dict[str, float]:
    """Microseconds of a call of each model with the example inputs, in interleaved rounds."""
    given = workshop.prepared.given
    calls = {name: _call(model, given.args, given.kwargs) for name, model in models.items()}
    return {name: time.lowest * 1e6 for name, time in interleave(calls, rounds=ROUNDS, seconds=SECONDS).items()}


def _call(model: ConvertedModel, args: Any, kwargs: Any) -> Any:
    return lambda: model(*args, **kwargs)


def problem(
    workshop: Workshop,
    noises: Mapping[str, Mapping[Candidate, float]],
    base: Base,
    costs: Costs | None,
    report: Reporter,
) -> Problem:
    """All prices, for `allocate`. costs: of a named target; None: measured here."""
    alone = MeasuredCosts(workshop.graph, _sizes(workshop), workshop.request.threads) if costs is None else costs
    rows = {
        name: _profiled(workshop, model) if costs is None else _estimated(workshop, costs, is_coded=name == "int8")
        for name, model in (("float32", base.floats), ("int8", base.plain))
    }
    pricer = _Pricer(workshop, rows["float32"], rows["int8"], alone)
    prices = {}
    for done, (name, layer) in enumerate(workshop.layers.items()):
        report("time candidates", done, len(workshop.layers))
        prices[name] = [
            Price(
                candidate=each,
                microseconds=pricer.microseconds(layer, each),
                bytes=weight_bytes(workshop, layer, each),
                noise=noises[name][each],
            )
            for each in workshop.offers[name]
        ]
    plain = {name: next(p for p in prices[name] if p.candidate == each) for name, each in workshop.whole(INT8).items()}
    return Problem(
        prices=prices,
        borders=tuple(_borders(workshop, alone)),
        fixed={
            "microseconds": base.microseconds["int8"] - sum(price.microseconds for price in plain.values()),
            "bytes": base.bytes["int8"] - sum(price.bytes for price in plain.values()),
        },
    )


class _Pricer:
    """floats, plain: microseconds of the nodes of the two whole models."""

    def __init__(
        self, workshop: Workshop, floats: Mapping[str, float], plain: Mapping[str, float], alone: Costs
    ) -> None:
        self._workshop, self._floats, self._plain, self._alone = workshop, floats, plain, alone
        self._known: dict[tuple[Any, ...], float] = {}

    def microseconds(self, layer: Layer, candidate: Candidate) -> float:
        return sum(self._node(node, candidate) for node in layer.nodes)

    def _node(self, node: Node, candidate: Candidate) -> float:
        plain = self._plain.get(node.name, 0.0)
        if node.op in TABLES:
            return plain
        if candidate in (FLOAT, STORED):
            is_coded = INT8 in self._workshop.offers[_layer_of(self._workshop, node)]
            return self._floats.get(node.name, plain) + self._behind(node) if is_coded else plain
        if candidate in (INT8, *WIDE):
            return plain
        return plain * self._timed(node, candidate) / max(self._timed(node, INT8), 1e-9)

    def _behind(self, node: Node) -> float:
        """Of the function behind a layer, which it takes with it on codes."""
        graph = self._workshop.graph
        readers = graph.consumers(node.outputs[0])
        if len(readers) != 1 or not is_function(graph, readers[0]) or operands(graph, readers[0]) != (node.outputs[0],):
            return 0.0
        return self._floats.get(readers[0].name, 0.0)

    def _timed(self, node: Node, candidate: Candidate) -> float:
        """Of a layer on codes, alone."""
        graph, width = self._workshop.graph, self._workshop.width(node, candidate.scheme)
        is_dynamic = _is_dynamic(self._workshop, node)
        shape = tuple(graph.constants[node.inputs[1]].shape)
        geometry = tuple(sorted((key, str(value)) for key, value in attributes(OPS[node.op], node).items()))
        form = (width.bits, width.group_size, width.values) if width is not None else ()
        key = (node.op, self._alone.shape(node.inputs[0]), shape, geometry, form, candidate.pattern, candidate.sparsity,
               is_dynamic)  # fmt: skip
        if key not in self._known:
            if isinstance(self._alone, MeasuredCosts):
                self._known[key] = self._alone.coded(node, example(shape, candidate, width), dynamic=is_dynamic)
            else:
                group, bits = (width.group_size, width.bits) if width is not None and width.bits < 8 else (0, 4)
                dense = self._alone.layer(node, dynamic=is_dynamic, group_size=group, bits=bits).int8
                self._known[key] = dense * self._alone.sparse_share(candidate.pattern, candidate.sparsity)
        return self._known[key]


def example(shape: tuple[int, ...], candidate: Candidate, width: Width | None) -> Weight:
    """A weight of a candidate's form, of random codes."""
    rng = np.random.default_rng(0)
    if width is not None and width.values:
        values = np.sort(rng.choice(np.arange(-127, 128), 16, replace=False)).astype(np.float32)
        codes = rng.integers(0, 16, shape).astype(np.int8)
        return Weight(codes=codes, scales=np.ones(shape[0], np.float32), bits=4, values=values)
    if width is not None and width.bits < 8:
        return made_up(rng, shape, width.group_size, width.bits)
    codes = usual_codes(rng, shape)
    if not candidate.pattern:
        return Weight(codes=codes, scales=np.ones(shape[0], np.float32))
    view = blocks.blocks_of(codes, candidate.pattern).copy()
    gone = rng.permutation(view.shape[0] * view.shape[1])[: round(candidate.sparsity * view.shape[0] * view.shape[1])]
    view.reshape(-1, *view.shape[2:])[gone] = 0
    matrix = view.swapaxes(1, 2).reshape(shape[0], *shape[2:], shape[1])
    codes = np.ascontiguousarray(np.moveaxis(matrix, -1, 1))
    return Weight(codes=codes, scales=np.ones(shape[0], np.float32), sparsity=candidate.pattern)


def weight_bytes(workshop: Workshop, layer: Layer, candidate: Candidate) -> int:
    """Of a layer's weights in a file, scales included."""
    size, channels = layer.size, layer.shape[0]
    width = workshop.width(layer.nodes[0], candidate.scheme)
    if candidate == FLOAT or width is None:
        return 4 * size
    if candidate.pattern:
        return blocks.stored_bytes(layer.shape, candidate.pattern, round((1 - candidate.sparsity) * size
                                   / math.prod(blocks.PATTERNS[candidate.pattern]))) + 4 * channels  # fmt: skip
    if width.values:
        return size // 2 + 4 * channels + 64
    if width.entropy:
        return _information(workshop, layer, width) + 4 * channels
    if width.bits == 8:
        return size + 4 * channels
    bits = 1.6 if candidate.scheme == "ternary" else width.bits
    return round(size * bits / 8) + 2 * size // width.group_size


def _information(workshop: Workshop, layer: Layer, width: Width) -> int:
    """Of a layer's codes, by their frequencies."""
    weight = np.asarray(workshop.graph.constants[weight_of(layer.nodes[0])])
    scales = wide_scales(weight, width.entropy, alike=layer.nodes[0].op in TABLES)
    codes = round_nearest(weight, scales=scales).codes
    shares = np.bincount(codes.ravel().view(np.uint8), minlength=256) / max(codes.size, 1)
    bits = -float((shares * np.log2(np.maximum(shares, 1e-300))).sum())
    return round(layer.size * bits * HUFFMAN / 8)


def _layer_of(workshop: Workshop, node: Node) -> str:
    return next(name for name, layer in workshop.layers.items() if node in layer.nodes)


def _is_dynamic(workshop: Workshop, node: Node) -> bool:
    return workshop.prepared.data is None or node.name in workshop.quantizer.dynamic_layers()


def _sizes(workshop: Workshop) -> dict[str, int]:
    """The sizes of the example inputs."""
    return bind(workshop.graph, workshop.prepared.feeds())


def _profiled(workshop: Workshop, model: ConvertedModel) -> dict[str, float]:
    """Microseconds of each node."""
    given = workshop.prepared.given
    found: dict[str, float] = {}
    for _ in range(PROFILES):
        for row in model.profile(*given.args, **given.kwargs):
            found[row.node] = min(found.get(row.node, math.inf), row.seconds * 1e6)
    return found


def _estimated(workshop: Workshop, costs: Costs, *, is_coded: bool) -> dict[str, float]:
    """The same by a cost model."""
    coded = {
        node.name for name, layer in workshop.layers.items() if INT8 in workshop.offers[name] for node in layer.nodes
    }
    found = {}
    for node in workshop.graph:
        if node.op in LAYERS and node.name in coded:
            cost = costs.layer(node, dynamic=_is_dynamic(workshop, node))
            found[node.name] = cost.int8 if is_coded else cost.float32
        elif node.op in LAYERS:
            found[node.name] = costs.layer(node, dynamic=False).float32
        else:
            found[node.name] = costs.other(node, is_coded)
    return found


def _borders(workshop: Workshop, alone: Costs) -> list[Border]:
    """Between layers and those that read what they make, through what may lie between."""
    graph = workshop.graph
    owners = {node.name: name for name, layer in workshop.layers.items() for node in layer.nodes if node.op in LAYERS
              and INT8 in workshop.offers[name]}  # fmt: skip
    found: dict[tuple[str, str], Border] = {}
    for node in graph:
        if node.name not in owners or _is_dynamic(workshop, node):
            continue
        for value in (node.inputs[0], *node.inputs[3:4]):
            for maker in _makers(graph, value, owners) if value else ():
                if _is_dynamic(workshop, maker):
                    continue
                own, before = alone.layer(node, dynamic=False), alone.layer(maker, dynamic=False)
                share = max(len(graph.consumers(maker.outputs[0])), 1)
                key = owners[maker.name], owners[node.name]
                border = Border(
                    first=key[0],
                    second=key[1],
                    to_codes=own.to_codes / share,
                    to_float=max(before.int8_floats - before.int8, 0.0) / share,
                )
                found[key] = border
    return list(found.values())


def _makers(graph: Graph, value: str, owners: Mapping[str, str]) -> list[Node]:
    """The layers that a value comes from, through nodes that are none."""
    seen, waiting, found = set[str](), [value], []
    while waiting:
        name = waiting.pop()
        maker = graph.producer(name) if name else None
        if maker is None or maker.name in seen:
            continue
        seen.add(maker.name)
        if maker.name in owners:
            found.append(maker)
        elif maker.op not in LAYERS:
            waiting.extend(operands(graph, maker))
    return found
