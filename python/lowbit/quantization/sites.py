"""Where codes are stored in a planned graph: sets of values with one scale and zero point, and what these are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..graph.ir import Node, Quant
from ..passes.functions import function_of, operands
from ..passes.layers import LAYERS
from . import schemes
from .calibrate import Histogram, choose
from .fuse_requantize import MOVES_CODES, PAIRS
from .plan import Plan, layer_slope

WIDEST = 1.5
"""How many times wider than its own a value's range may be, so that a concat need not translate its codes."""


class Sites:
    """Sets of values that share a scale, because ops between them only move codes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._parent: dict[str, str] = {}
        self._functions: dict[str, Node] = {}
        self._joins: list[tuple[str, str]] = []
        graph, uses = plan.graph, plan.graph.uses()
        stored: dict[str, None] = {}
        for node in graph:
            if node.name not in plan.int8 - plan.dynamic:
                continue
            inputs = (node.inputs[0], *node.inputs[3:4]) if node.op in LAYERS else operands(graph, node)
            stored.update(dict.fromkeys(name for name in inputs if name))
            if node.op not in LAYERS or plan.wants_codes(plan.output(node)):
                stored.update(dict.fromkeys(node.outputs))
            if node.op in MOVES_CODES:
                for name in node.inputs:
                    if node.op != "concat" or uses[name] == 1:
                        self._join(name, node.outputs[0])
                    else:
                        self._joins.append((name, node.outputs[0]))
        for name, activation in plan.activations.items():
            before = next(node for node in graph if node.name == name)
            is_clipped = activation.op == "clip" and before.op in PAIRS
            if is_clipped or layer_slope(graph, before, activation) is not None:
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
        self._join_alike(histograms)
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
                known[key] = choose(
                    seen, scheme, None if activation is None else function_of(self._plan.graph, activation)
                )
            found.update(dict.fromkeys(names, known[key]))
        return found

    def _join_alike(self, histograms: Mapping[str, Histogram]) -> None:
        """Let what a concat and others read share the concat's scale where no reader's range becomes much wider."""
        ranges: dict[str, tuple[float, float]] = {}
        for name in self._stored:
            if self._joins and self._is_read(name):
                seen, (low, high) = histograms[name], ranges.get(self._root(name), (0.0, 0.0))
                ranges[self._root(name)] = (min(low, seen.minimum), max(high, seen.maximum))
        fixed = {self._root(name) for name in self._functions}
        for value, joined in reversed(self._joins):
            roots = self._root(value), self._root(joined)
            if roots[0] == roots[1] or not fixed.isdisjoint(roots):
                continue
            pair = [ranges[root] for root in roots if root in ranges]
            low, high = min((x[0] for x in pair), default=0.0), max((x[1] for x in pair), default=0.0)
            if all(high - low <= WIDEST * (x[1] - x[0]) for x in pair):
                self._join(value, joined)
                ranges[self._root(value)] = (low, high)

    def _scheme(self, names: Sequence[str], rules: schemes.Rules) -> schemes.Scheme:
        """That of the first node that reads one of the values as codes, else of the first that makes one."""
        graph, int8 = self._plan.graph, self._plan.int8
        nodes = [node for node in graph if any(name in node.inputs for name in names)]
        nodes += [node for node in graph if any(name in node.outputs for name in names)]
        return next(rules.of(node) for node in nodes if node.name in int8 - self._plan.dynamic)

    def _is_read(self, value: str) -> bool:
        """Whether more is done with the value than moving it: what a maximum drops need not be represented.

        What is blended is read: it reaches further than the blends.
        """
        readers = self._plan.graph.consumers(value)
        moved = [node.op in MOVES_CODES and node.name in self._plan.int8 and not _blends(node) for node in readers]
        return not (moved and all(moved)) or value in self._plan.graph.outputs

    def _root(self, name: str) -> str:
        while name in self._parent:
            name = self._parent[name]
        return name

    def _join(self, a: str, b: str) -> None:
        a, b = self._root(a), self._root(b)
        if a != b:
            self._parent[a] = b


def _blends(node: Node) -> bool:
    return node.op == "resample" or (node.op == "resize" and node.attrs["mode"] in ("linear", "cubic"))
