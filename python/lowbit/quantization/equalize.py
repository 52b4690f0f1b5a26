"""Cross-layer equalization: gives all channels of a value similar ranges, so that one scale fits them all.

Scaling channel c of a value by k[c] and the next layer's weights for it by 1 / k[c] changes nothing in float as long as
all between them lets a positive factor through: relu, max and average pooling, residual addition. A clip at 6 does not,
so values that pass through one are left alone, unless its bound can be shown to do nothing.

Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction" (arXiv:1906.04721),
section 4.1. There k balances the weight ranges of two layers. Weights here have a scale per output channel, so the
first layer's do not matter; what the next layer's weights are balanced against is the range of the activations.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..graph.ir import Array, Graph, Node, Value, Weight, replace
from ..passes.layers import LAYERS
from .calibrate import Feeds, Progress, gather
from .layer_inputs import UNKNOWN

POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "resize", "resample")
STRENGTH = 0.25
"""k = (largest range / channel's range) ** STRENGTH: 1 evens the activations out fully, at the weights' expense."""
WIDEST = 100.0
"""Channels narrower than the widest by more than this are treated as if by this."""


@dataclass(eq=False)
class Group:
    """Values whose channels must be scaled alike, and who makes and reads them."""

    channels: int
    values: list[str] = field(default_factory=list)
    writers: list[Node] = field(default_factory=list)
    readers: list[Node] = field(default_factory=list)


def equalize(
    graph: Graph,
    calibration: Iterable[Feeds],
    *,
    fixed: Container[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Graph:
    """Scale the channels between layers so that their ranges on the calibration data become more alike.

    fixed: names of layers whose weights stay as they are.

    before: conv2d(w1, b1) -> relu -> conv2d(w2)
    after:  conv2d(w1 * k, b1 * k) -> relu -> conv2d(w2 / k)        (k per channel; the same function)
    """
    groups = [
        group
        for group in find_groups(graph)
        if not any(node.name in fixed for node in (*group.writers, *group.readers))
    ]
    if not groups:
        return graph
    names = [name for group in groups for name in group.values]
    seen = ChannelRanges(names)
    gather(graph, calibration, [seen], stage="equalize", threads=threads, progress=progress)
    constants, values = dict(graph.constants), dict(graph.values)
    inputs = {node.name: list(node.inputs) for node in graph}
    for group in groups:
        factors = _factors(np.max([seen.largest[name] for name in group.values], axis=0))
        count = min(seen.counts[name] for name in group.values)
        factors **= count / (count + UNKNOWN)  # a channel of which little was seen may be wider than it looks
        for node in group.writers:
            for position in (1, 2):
                if len(node.inputs) > position and node.inputs[position]:
                    _scale(constants, values, inputs[node.name], node, position, factors)
        for node in group.readers:
            _scale(constants, values, inputs[node.name], node, 1, reader_factors(node, graph, 1 / factors))
    nodes = tuple(replace(node, inputs=tuple(inputs[node.name])) for node in graph)
    used = {name for node in nodes for name in node.inputs} | set(graph.outputs)
    dropped = {name for name in constants if name not in used and name in graph.constants}
    return replace(
        graph,
        nodes=nodes,
        constants={name: array for name, array in constants.items() if name not in dropped},
        values={name: value for name, value in values.items() if name not in dropped},
    )


def _factors(ranges: Array) -> Array:
    widest = float(ranges.max(initial=0.0))
    if widest <= 0:
        return np.ones_like(ranges)
    factors: Array = (widest / np.maximum(ranges, widest / WIDEST)) ** STRENGTH
    return factors


def reader_factors(node: Node, graph: Graph, factors: Array) -> Array:
    """Factors in the shape of the reader's weight."""
    weight = graph.constants[node.inputs[1]]
    if node.op == "linear":
        return factors[None, :]
    groups, filters, depth = node.integer("groups", 1), weight.shape[0], weight.shape[1]
    return np.repeat(factors.reshape(groups, 1, depth), filters // groups, axis=1).reshape(
        filters, depth, *(1,) * (len(weight.shape) - 2)
    )


def _scale(
    constants: dict[str, Array | Weight],
    values: dict[str, Value],
    inputs: list[str],
    node: Node,
    position: int,
    factors: Array,
) -> None:
    """Replaces one constant input of a node by its product with `factors`, under a name of its own."""
    name = inputs[position]
    array = np.asarray(constants[name])
    if factors.ndim == 1:
        factors = factors.reshape(-1, *(1,) * (array.ndim - 1))
    own = name if name.startswith(f"{node.name}.equalized.") else f"{node.name}.equalized.{position}"
    constants[own], values[own] = (array * factors).astype(np.float32), values[name]
    inputs[position] = own


class ChannelRanges:
    """The largest magnitude of each channel (axis 1, or the last of a matrix), and how many elements were seen."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(dict.fromkeys(names))
        self.largest: dict[str, Array] = {}
        """float64 [channels], by value."""
        self.counts: dict[str, int] = {}

    def needs(self) -> Sequence[str]:
        """The values."""
        return self._names

    def add(self, found: Mapping[str, Array]) -> None:
        """Take in one piece."""
        for name in self._names:
            array = found[name]
            axis = channel_axis(array.ndim)
            others = tuple(other for other in range(array.ndim) if other != axis)
            seen = np.maximum(array.max(axis=others), -array.min(axis=others)).astype(np.float64)
            self.largest[name] = np.maximum(self.largest.get(name, 0.0), seen)
            self.counts[name] = self.counts.get(name, 0) + array.size // max(array.shape[axis], 1)


def channel_axis(rank: int) -> int:
    """Where the channels of a value are: axis 1 of images and volumes, the last axis of anything else."""
    return 1 if rank in (4, 5) else rank - 1


# --------------------------------------------------------------------------------------------------------------- groups


def find_groups(graph: Graph) -> list[Group]:
    """Sets of values that may be scaled channel by channel without changing the graph's function."""
    ties = _Ties()
    for node in graph:
        for name in filter(None, tied(graph, node)):
            ties.join(name, node.outputs[0])
    blocked = {ties.root(name) for name in (*graph.inputs, *graph.outputs, *graph.constants)}
    blocked |= {ties.root(name) for node in graph for name in _blocked_by(graph, node)}
    groups: dict[str, Group] = {}
    for node in graph:
        for name in node.outputs:
            root = ties.root(name)
            if root in blocked:
                continue
            shape = graph.values[name].shape
            group = groups.setdefault(root, Group(channels=int(shape[channel_axis(len(shape))])))
            group.values.append(name)
            if node.op in LAYERS:
                group.writers.append(node)
        if node.op in LAYERS and ties.root(node.inputs[0]) in groups:
            groups[ties.root(node.inputs[0])].readers.append(node)
    return [group for group in groups.values() if group.writers and group.readers]


class _Ties:
    """Sets of names, joined one pair at a time."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        while (parent := self._parent.get(name, name)) != name:
            self._parent[name] = name = self._parent.get(parent, parent)
        return name

    def join(self, a: str, b: str) -> None:
        self._parent[self.root(a)] = self.root(b)


def tied(graph: Graph, node: Node) -> Iterator[str]:
    """The inputs whose channels are the output's, and scale it when they are scaled."""
    same = len({graph.values[name].shape for name in (*node.inputs, *node.outputs) if name}) == 1
    passes = {
        "clip": is_homogeneous(node.attrs, "min", "max"),
        "unary": node.attrs.get("kind") in ("relu", "leaky_relu"),
        "add": same,
        "reshape": node.op == "reshape" and _keeps_channels(graph, node),
    }
    if node.op in POOLS or passes.get(node.op, False):
        yield from node.inputs
    elif node.op in LAYERS:
        yield from node.inputs[3:4]


def _blocked_by(graph: Graph, node: Node) -> Iterator[str]:
    """The values that may not be scaled because of this node."""
    if node.op not in LAYERS:
        yield from (*node.inputs, *node.outputs) if not list(tied(graph, node)) else ()
        return
    if not isinstance(graph.constants.get(node.inputs[1]), np.ndarray):
        yield node.inputs[0]
        yield node.outputs[0]
    if not is_homogeneous(node.attrs, "activation_min", "activation_max"):
        yield node.outputs[0]
    if node.op == "linear" and len(graph.values[node.inputs[0]].shape) in (4, 5):
        yield node.inputs[0]  # its channels are the last axis, those of its neighbours axis 1
        yield node.outputs[0]


def is_homogeneous(attrs: Mapping[str, object], low: str, high: str) -> bool:
    """Whether clip(k x) = k clip(x) for every k > 0."""
    return attrs.get(low, 0.0) == 0.0 and attrs.get(high, 0.0) == 0.0


def _keeps_channels(graph: Graph, node: Node) -> bool:
    """Whether a reshape only drops or adds axes of size 1 behind the channels: [N, C, 1, 1] and [N, C]."""
    before, after = graph.values[node.inputs[0]].shape, graph.values[node.outputs[0]].shape
    short, long = sorted((before, after), key=len)
    return len(short) == 2 and len(long) == 4 and long[:2] == short and long[2:] == (1, 1)
