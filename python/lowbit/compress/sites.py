"""Which weights and which values of a module are rounded in training: those of its captured graph's integer layers.

The module is captured with a mark on every value that a hook can reach (`places.py`). In the graph, as the passes leave
it, batch normalization is folded and what moves nothing is gone, so it shows what an integer layer reads: its input,
and the other operand of a residual sum that it takes with it. A value that several read is one value, rounded once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..capture import Captured, capture
from ..errors import InputError
from ..graph.ir import Graph, Node
from ..passes import optimize
from ..passes.fuse_residual import fuse_residual
from ..passes.layers import LAYERS
from ..quantization.adopt_quantization import MOVES
from ..quantization.few_bits import EIGHT, Width, widths
from ..quantization.known_weights import KnownWeights
from ..quantization.schemes import Rules, Scheme
from ..rounding import mark
from .batches import watched
from .chain import is_free, links, original
from .places import Hooks, Place

Layer = nn.Linear | nn.Conv1d | nn.Conv2d
DEEPEST = 2**31 // (255 * 127)
"""Products of a sum that may pass 32 bits from here on."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A layer whose weight is rounded. rows: each row of its input is, by its own range; else the input has a place."""

    scheme: Scheme
    width: Width
    rows: bool


@dataclass(frozen=True, kw_only=True)
class Sites:
    """layers: by path. values: where those are made that have one range, and the layer and scheme that say which.

    skipped: layers that stay float32, and why.
    """

    layers: Mapping[str, Site]
    values: Mapping[Place, tuple[str, Scheme]]
    skipped: Mapping[str, str]


def find_sites(net: nn.Module, example: Any, rules: Rules) -> Sites:
    """What is to be rounded in a module. Raises InputError for patterns that match nothing."""
    captured, marked = _marked(net, example)
    graph = optimize(captured.graph)
    for note in rules.check(graph, [path for path, _ in net.named_modules() if path]):
        raise InputError(note)
    places = {captured.marks[at]: place for at, place in reversed(marked.items()) if at in captured.marks}
    return _Search(net, captured.graph, graph, rules, places).run()


def _marked(net: nn.Module, example: Any) -> tuple[Captured, dict[int, Place]]:
    """The module's graph, and the places of its marks."""
    places: dict[Place, int] = {}

    def act(place: Place, value: torch.Tensor) -> torch.Tensor:
        marked: torch.Tensor = mark(value, places.setdefault(place, len(places)))
        return marked

    hooks = Hooks(net, act, functions=True)
    try:
        with watched(net):
            captured = capture(net, example, None)
    finally:
        hooks.remove()
    return captured, {index: place for place, index in places.items()}


class _Search:
    """raw: the graph before the passes. places: of its values, the first of each."""

    def __init__(self, net: nn.Module, raw: Graph, graph: Graph, rules: Rules, places: Mapping[str, Place]) -> None:
        self._net, self._raw, self._graph, self._rules, self._places = net, raw, graph, rules, places
        self._named = dict(net.named_modules())
        self._holders = Counter(id(each) for module in net.modules() for each in module.parameters(recurse=False))
        self._widths = widths(graph, rules, KnownWeights(()))
        self._skipped: dict[str, str] = {}

    def run(self) -> Sites:
        nodes = self._layers(self._graph)
        layers = {path: self._site(path, found) for path, found in nodes.items()}
        chosen = {path: site for path, site in layers.items() if site is not None}
        return Sites(layers=chosen, values=dict(self._values(chosen)), skipped=self._skipped)

    def _layers(self, graph: Graph) -> dict[str, list[Node]]:
        """The nodes of each layer, by path."""
        nodes: dict[str, list[Node]] = {}
        for node in graph:
            if node.op in LAYERS:
                nodes.setdefault(self._path(node), []).append(node)
        return nodes

    def _path(self, node: Node) -> str:
        """The module whose layer a node is, or its own name."""
        for path in self._rules.paths(node):
            if isinstance(self._named.get(path), Layer):
                return path
        return "" if isinstance(self._net, Layer) else node.name

    def _site(self, path: str, nodes: list[Node]) -> Site | None:
        scheme, width = self._rules.of(nodes[0]), self._widths.get(nodes[0].name, EIGHT)
        reason = self._reason(path, nodes)
        if reason:
            self._skipped[path] = reason
            return None
        has_places = all(self._place(node.inputs[0]) or self._read(path, node) for node in nodes)
        is_linear = isinstance(self._named[path], nn.Linear)
        by_choice = scheme.activations == "dynamic" or (
            scheme.activations == "auto" and any(len(self._graph.values[node.inputs[0]].shape) > 2 for node in nodes)
        )
        if not has_places and not is_linear:
            self._skipped[path] = "its input is made where no hook reaches: inside one of torch's own modules"
            return None
        return Site(scheme=scheme, width=width, rows=is_linear and (by_choice or not has_places))

    def _reason(self, path: str, nodes: list[Node]) -> str:
        """Why a layer stays float32, or ""."""
        module = self._named.get(path)
        if not isinstance(module, Layer):
            return "its weight is not that of an nn.Linear, nn.Conv1d or nn.Conv2d"
        if any(self._rules.of(node).computes_floats for node in nodes):
            return self._rules.reason(nodes[0])
        if not is_free(module) or any(link.place > 0 for link in links(module)):
            return "its weight is parametrized already"
        if self._holders[id(original(module))] != 1:
            return "its weight is shared with another module"
        if module.weight.dtype != torch.float32:
            return f"its weight is {module.weight.dtype}"
        if not all(isinstance(self._graph.constants.get(node.inputs[1]), np.ndarray) for node in nodes):
            return "its weight is computed at run time"
        if module.weight[0].numel() > DEEPEST:
            return f"its sums of {module.weight[0].numel()} products could pass 32 bits"
        return ""

    def _place(self, value: str, graph: Graph | None = None) -> Place | None:
        """Where a value is made, or what is moved to give it."""
        maker = (graph or self._graph).producer(value)
        if value in self._places or maker is None or maker.op not in MOVES or len(maker.inputs) != 1:
            return self._places.get(value)
        return self._place(maker.inputs[0], graph)

    def _read(self, path: str, node: Node) -> Place | None:
        """Where the input of a layer is made, if the passes have left nothing of its name."""
        before, after = (self._layers(graph).get(path, []) for graph in (self._raw, self._graph))
        at = [each.name for each in after].index(node.name)
        return self._place(before[at].inputs[0], self._raw) if len(before) == len(after) else None

    def _values(self, layers: Mapping[str, Site]) -> Iterator[tuple[Place, tuple[str, Scheme]]]:
        """Of what layers with static ranges read, in the order of the graph; the first reader owns it."""
        static = {path for path, site in layers.items() if not site.rows}
        found: dict[Place, tuple[str, Scheme]] = {}
        fused = fuse_residual(self._graph, lambda r, layer, other: self._path(layer) in static)
        for node in fused:
            path = self._path(node) if node.op in LAYERS else ""
            if node.op in LAYERS and path in static:
                places = [self._place(value) for value in (node.inputs[0], *node.inputs[3:4])]
                places[0] = places[0] or self._read(path, node)
                for place in filter(None, places):
                    found.setdefault(place, (path, layers[path].scheme))
        yield from found.items()
