"""Gives the parts of a join like ranges, so that one scale fits them all: boxes in pixels beside scores up to 1.

A part is multiplied by a factor, and the weights that layers have for its channels are divided by it: the same
function, in which codes of a narrow part are as fine as those of a wide one. The factor goes into the weights of the
layer that makes the part where nobody else reads it, else it is a product, which on codes is a table. Readers that are
no layers, and what leads to such, keep the join as it was. An image that a model is given is a join of its channels.

before: concat(conv2d(x; w), boxes) -> relu -> conv2d(v)
after:  concat(conv2d(x; w * f), boxes) -> relu -> conv2d(v / f)        (f for the channels of the first part)
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import numpy as np

from ..graph.ir import Array, Graph, Node, Value, Weight, replace
from ..ops import constant_value, infer
from ..passes.layers import CONVOLUTIONS, LAYERS
from ..passes.remove_dead import remove_dead
from .calibrate import Feeds, Progress, gather
from .equalize import POOLS, ChannelRanges, channel_axis, is_homogeneous, reader_factors, tied

MOVES = ("reshape", "transpose")
"""What may lie between an input and the image that a network takes it for."""
KEEPING = (*POOLS, "unary", "clip", "leaky_relu", "prelu", "pad", "slice", "mul", "div", "add", "sub")
"""What may lie between a join and a layer for which its parts are parts still."""
UNTOLD = 100.0
"""How many times the mean square of the weights for one part must be that for another to say that ranges differ."""
UNLIKE = 4.0
"""How many times wider the widest part must be than another for factors."""
GAIN = 4.0
"""How many times less noise of codes factors must bring to a layer behind: 6 dB, for what a table costs."""
FAR = 1000.0
"""How many times more noise one scale for all channels of an input may make than one for each: 30 dB."""
WIDEST = 1e4
"""Parts narrower than the widest by more than this are treated as if by this."""


def balance_joins(
    graph: Graph,
    calibration: Iterable[Feeds],
    *,
    fixed: Container[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Graph:
    """Scale the parts of joins on channels, and the channels of inputs, so that their ranges become alike.

    fixed: names of layers whose weights stay as they are.
    """
    joins = {name: readers for name in _joins(graph) if (readers := _readers(graph, name, fixed))}
    if not joins:
        return graph
    every = {name: _parts(graph, name) for name in joins}
    names = {part for parts in every.values() for part in parts}
    seen = ChannelRanges(sorted(names))
    gather(graph, calibration, [seen], stage="equalize", threads=threads, progress=progress)
    ranges = seen.largest
    found = {}
    for name, readers in joins.items():
        factors = _factors([ranges[part] for part in every[name]], apart=every[name] == [name])
        if factors is not None and _gain(graph, name, readers, np.concatenate(factors)) >= GAIN:
            found[name] = factors
    if not found:
        return graph
    changes = _Changes(graph, fixed)
    for name, factors in found.items():
        changes.scale(name, factors, joins[name])
    return remove_dead(changes.finish())


def _factors(ranges: Sequence[Array], *, apart: bool) -> list[Array] | None:
    """One factor for all channels of a part, or one for each (`apart`); None where parts are alike."""
    widths = [seen if apart else np.full_like(seen, seen.max(initial=0.0)) for seen in ranges]
    every = np.concatenate(widths)
    widest, used = float(every.max(initial=0.0)), every[every > 0]
    if widest <= 0 or widest < UNLIKE * used.min():
        return None
    return [np.where(part > 0, widest / np.maximum(part, widest / WIDEST), 1.0).astype(np.float32) for part in widths]


def _gain(graph: Graph, value: str, readers: Sequence[Node], factors: Array) -> float:
    """How many times less noise the codes of the value make in the group of a layer that gains most."""
    best = 0.0
    for node in readers:
        if node.op in LAYERS and node.inputs[0] == value:
            weights = np.square(np.asarray(graph.constants[node.inputs[1]], np.float64))
            grouped = weights.reshape(node.integer("groups", 1), -1, *weights.shape[1:])
            energy = grouped.sum(axis=(1, *range(3, grouped.ndim)))
            left = (energy / factors.reshape(len(energy), -1) ** 2).sum(axis=1)
            best = max(best, float((energy.sum(axis=1) / np.maximum(left, 1e-30)).max()))
        else:
            best = max(best, _gain(graph, node.outputs[0], graph.consumers(node.outputs[0]), factors))
    return best


def _less_noise(energy: Array, factors: Array) -> float:
    """How many times less noise factors bring, in the group where they bring most. energy: as of `_energies`."""
    left = (energy / factors.reshape(len(energy), -1) ** 2).sum(axis=1)
    return float((energy.sum(axis=1) / np.maximum(left, 1e-30)).max())


def _energies(graph: Graph, node: Node) -> Array:
    """The squares of a layer's weights for each input channel: [groups, channels of a group]."""
    weights = np.square(np.asarray(graph.constants[node.inputs[1]], np.float64))
    grouped = weights.reshape(node.integer("groups", 1), -1, *weights.shape[1:])
    energies: Array = grouped.sum(axis=(1, *range(3, grouped.ndim)))
    return energies


# ------------------------------------------------------------------------------------------------- what stays unlike


def unlike_channels(
    graph: Graph,
    calibration: Iterable[Feeds],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """The layers whose input has channels too unlike for one scale, and that weigh them accordingly: names and reasons.

    No factors reach such an input: its parts were joined otherwise than by a concatenation, or go through a function.
    """
    layers = [node for node in graph if node.op in LAYERS and _is_free(graph, node, ()) and _weighs_unlike(graph, node)]
    if not layers:
        return {}
    names = sorted({node.inputs[0] for node in layers})
    seen = ChannelRanges(names)
    gather(graph, calibration, [seen], stage="equalize", threads=threads, progress=progress)
    ranges = seen.largest
    found = {}
    for node in layers:
        factors = _factors([ranges[node.inputs[0]]], apart=True)
        energy = _energies(graph, node)
        if factors is not None and _less_noise(energy, factors[0]) >= FAR:
            widest, least = (float(end(ranges[node.inputs[0]])) for end in (np.max, np.min))
            found[node.name] = f"its input's channels reach from {least:.3g} to {widest:.3g}: too unlike for one scale"
    return found


def _weighs_unlike(graph: Graph, node: Node) -> bool:
    """Whether some channels have far smaller weights than most: as those that are far wider would."""
    energy = _energies(graph, node)
    least = np.where(energy > 0, energy, np.inf).min(axis=1, initial=np.inf)
    return bool((least * UNTOLD < energy.mean(axis=1)).any())


def unlike_parts(graph: Graph) -> dict[str, str]:
    """The layers that weigh parts of a join so differently that, without data, no range fits them: names and reasons.

    Weights for boxes in pixels are hundreds of times smaller than those for scores: codes would lose one or the other.
    """
    found = {}
    for node in graph:
        join = _join_behind(graph, node.inputs[0]) if node.op in LAYERS and _is_free(graph, node, ()) else None
        energy = _energies(graph, node) if join else np.empty((0, 0))
        if join is None or energy.shape[1] < 2:
            continue
        ends = np.cumsum([_channels(graph, part) for part in _parts(graph, join)])
        means = [float(part.mean()) for part in np.split(energy.reshape(-1), ends[:-1]) if part.any()]
        if means and max(means) >= UNTOLD * min(means):
            ratio = (max(means) / min(means)) ** 0.5
            found[node.name] = (
                f"its weights for the parts of a join differ {ratio:.0f} times, and so may their ranges: "
                "calibration data would tell"
            )
    return found


def _join_behind(graph: Graph, value: str) -> str | None:
    """The join that a value is, or is made of channel by channel."""
    producer = graph.producer(value)
    if producer is None or len(graph.values[value].shape) not in (2, 4, 5):
        return None
    if _is_join(graph, producer):
        return value
    sources = [name for name in producer.inputs if name and name not in graph.constants]
    keeps = producer.op in KEEPING and len(sources) == 1
    return _join_behind(graph, sources[0]) if keeps and _alike(graph, sources[0], value) else None


def _alike(graph: Graph, a: str, b: str) -> bool:
    rank = len(graph.values[a].shape)
    return rank == len(graph.values[b].shape) and _channels(graph, a) == _channels(graph, b)


# -------------------------------------------------------------------------------------------------------------- finding


def _joins(graph: Graph) -> list[str]:
    """Values of several channels that are put together of parts with scales of their own."""
    given = [*graph.inputs, *(node.outputs[0] for node in graph if node.op in MOVES and node.inputs[0] in graph.inputs)]
    images = [name for name in given if len(graph.values[name].shape) in (4, 5) and graph.values[name].dtype == "f32"]
    joins = [node.outputs[0] for node in graph if _is_join(graph, node)]
    return [name for name in images if _channels(graph, name) > 1] + joins


def _is_join(graph: Graph, node: Node) -> bool:
    value = graph.values[node.outputs[0]]
    rank = len(value.shape)
    if node.op != "concat" or value.dtype != "f32" or rank not in (2, 4, 5):
        return False
    if any(name in graph.constants for name in node.inputs):
        return False
    sized = all(isinstance(graph.values[name].shape[channel_axis(rank)], int) for name in node.inputs)
    return sized and node.integer("axis") % rank == channel_axis(rank)


def _channels(graph: Graph, value: str) -> int:
    shape = graph.values[value].shape
    size = shape[channel_axis(len(shape))]
    return size if isinstance(size, int) else 0


def _parts(graph: Graph, value: str) -> list[str]:
    """What is joined, joins within a join taken apart; of an input, itself."""
    producer = graph.producer(value)
    if producer is None or not _is_join(graph, producer):
        return [value]
    return [part for name in producer.inputs for part in _parts(graph, name)]


def _readers(graph: Graph, value: str, fixed: Container[str]) -> list[Node]:
    """The nodes that may read the value scaled: layers, and what lets factors through to layers alone."""
    return [node for node in graph.consumers(value) if _takes(graph, node, value, fixed)]


def _takes(graph: Graph, node: Node, value: str, fixed: Container[str]) -> bool:
    if node.inputs.count(value) > 1:
        return False
    if node.op in LAYERS and node.inputs[0] == value:
        is_plain = node.op in CONVOLUTIONS or len(graph.values[value].shape) == 2
        return is_plain and _is_free(graph, node, fixed)
    if not _passes(graph, node, value, fixed):
        return False
    out = node.outputs[0]
    readers = graph.consumers(out)
    return out not in graph.outputs and bool(readers) and all(_takes(graph, each, out, fixed) for each in readers)


def _passes(graph: Graph, node: Node, value: str, fixed: Container[str]) -> bool:
    """Whether the output is scaled by channel if this input is, and all else that the node reads."""
    if node.op == "pad":
        zeros = node.attrs.get("value", 0.0) == 0.0
        return zeros and graph.values[value].shape[1] == graph.values[node.outputs[0]].shape[1]
    if node.op in LAYERS and not _is_free(graph, node, fixed):
        return False
    if node.op in LAYERS and not is_homogeneous(node.attrs, "activation_min", "activation_max"):
        return False
    return value in tied(graph, node) and not any(name in graph.constants for name in tied(graph, node))


def _is_free(graph: Graph, node: Node, fixed: Container[str]) -> bool:
    """Whether the layer's weights may be scaled."""
    return node.name not in fixed and all(
        isinstance(graph.constants.get(name), np.ndarray) for name in node.inputs[1:3] if name
    )


# ------------------------------------------------------------------------------------------------------------- changing


class _Changes:
    """A graph in which values are read scaled."""

    def __init__(self, graph: Graph, fixed: Container[str]) -> None:
        self._graph, self._fixed = graph, fixed
        self._nodes = {node.name: node for node in graph}
        self._before: dict[str, list[Node]] = {}
        """New nodes, by the name of the node that they must stand before."""
        self._taken: set[str] = set()
        """Nodes that read scaled values already."""
        self._constants: dict[str, Array | Weight] = dict(graph.constants)
        self._values: dict[str, Value] = dict(graph.values)

    def scale(self, name: str, factors: Sequence[Array], readers: Sequence[Node]) -> None:
        """Let these readers have the join of its parts times their factors."""
        readers = [node for node in readers if self._taken.isdisjoint(self._behind(node, name))]
        if not readers:
            return
        self._taken.update(*(self._behind(node, name) for node in readers))
        whole = np.concatenate(factors)
        joined = self._times(name, whole, readers)
        for reader in readers:
            self._read(reader, name, joined, whole)

    def _times(self, name: str, factors: Array, readers: Sequence[Node]) -> str:
        """The name of a value times a factor for each channel, of a join part by part."""
        first, private, producer = readers[0], self._private(name, readers), self._graph.producer(name)
        parts = _parts(self._graph, name)
        ends = np.cumsum([_channels(self._graph, part) for part in parts])
        pieces = np.split(factors, ends[:-1])
        made = [self._scaled(part, piece, first, private) for part, piece in zip(parts, pieces, strict=True)]
        if producer is None or parts == [name]:
            return made[0]
        return self._put(replace(producer, inputs=tuple(made)), f"{name}.balanced", first)

    def _behind(self, node: Node, value: str) -> set[str]:
        """The names of a reader and, where it hands factors on, of all that read it."""
        if node.op in LAYERS and node.inputs[0] == value:
            return {node.name}
        out = node.outputs[0]
        return {node.name}.union(*(self._behind(reader, out) for reader in self._graph.consumers(out)))

    def _private(self, name: str, readers: Sequence[Node]) -> set[str]:
        """The parts of a join that all these readers take scaled, and nobody reads otherwise."""
        known = {node.name for node in readers}
        if name in self._graph.outputs or any(node.name not in known for node in self._graph.consumers(name)):
            return set()
        producer = self._graph.producer(name)
        if producer is None or not _is_join(self._graph, producer):
            return {name}
        return set().union(*(self._private(part, [producer]) for part in producer.inputs))

    def _read(self, node: Node, value: str, scaled: str, factors: Array) -> None:
        """Make the node read `scaled`, and take the factors out of its weights or hand them on."""
        if node.op in LAYERS and node.inputs[0] == value:
            self._swap(node, 0, scaled)
            self._weigh(node, 1, reader_factors(node, self._graph, 1 / factors))
            return
        for place, name in enumerate(node.inputs):
            if name == value:
                self._swap(node, place, scaled)
            elif name in tied(self._graph, node):  # what is added has the same factors
                self._swap(node, place, self._times(name, factors, [node]))
        if node.op in LAYERS:
            for place in (1, 2):
                if len(node.inputs) > place and node.inputs[place]:
                    self._weigh(node, place, factors)
        for reader in self._graph.consumers(node.outputs[0]):
            self._read(reader, node.outputs[0], node.outputs[0], factors)

    def _scaled(self, value: str, factors: Array, before: Node, private: Container[str]) -> str:
        """The name of a value times its factors: its maker's weights take them where nobody else reads it."""
        if (factors == 1).all():
            return value
        maker = self._maker(value) if value in private and (factors == factors[0]).all() else None
        if maker is None:
            return self._product(value, factors, before)
        for place in (1, 2):
            if len(maker.inputs) > place and maker.inputs[place]:
                self._weigh(maker, place, factors)
        self._bound(maker, factors)
        return value

    def _maker(self, value: str) -> Node | None:
        """The layer whose weights can take a factor of the value, through what lets it through."""
        maker = self._graph.producer(value)
        if maker is None or value in self._graph.outputs or len(self._graph.consumers(value)) != 1:
            return None
        if maker.op in LAYERS:
            is_alone = not any(maker.inputs[3:4]) and _is_free(self._graph, maker, self._fixed)
            return maker if is_alone else None
        inputs = list(tied(self._graph, maker))
        return self._maker(inputs[0]) if len(inputs) == 1 else None

    def _bound(self, node: Node, factors: Array) -> None:
        """One factor of all channels moves the bounds of a layer with it."""
        node = self._nodes[node.name]
        bounds = [key for key in ("activation_min", "activation_max") if key in node.attrs]
        scaled = {key: node.number(key) * float(factors[0]) for key in bounds}
        self._nodes[node.name] = replace(node, attrs={**node.attrs, **scaled})

    def _product(self, value: str, factors: Array, before: Node) -> str:
        """A node that multiplies by one number, or one for each channel."""
        rank, alike = len(self._graph.values[value].shape), bool((factors == factors[0]).all())
        shape = () if alike else (-1, *(1,) * (rank - 1 - channel_axis(rank)))
        number = self._constant(f"{value}.factors", np.asarray(factors[0] if alike else factors).reshape(shape))
        return self._put(Node(op="mul", name="", inputs=(value, number), outputs=()), f"{value}.balanced", before)

    def _weigh(self, node: Node, place: int, factors: Array) -> None:
        """Multiply a constant input of a layer, under a name of its own."""
        name = self._nodes[node.name].inputs[place]
        array = np.asarray(self._constants[name])
        shaped = factors.reshape(-1, *(1,) * (array.ndim - 1)) if factors.ndim == 1 else factors
        made = self._constant(f"{node.name}.balanced.{place}", (array * shaped).astype(np.float32))
        self._swap(node, place, made)

    def _swap(self, node: Node, place: int, name: str) -> None:
        known = self._nodes[node.name]
        inputs = [name if index == place else old for index, old in enumerate(known.inputs)]
        self._nodes[node.name] = replace(known, inputs=tuple(inputs))

    def _put(self, node: Node, preferred: str, before: Node) -> str:
        name = self._free(preferred)
        made = replace(node, name=name, outputs=(name,), source=node.source or before.source)
        known = replace(self._graph, values=self._values, constants=self._constants)
        self._values[name] = infer(made, known)[0]
        self._before.setdefault(before.name, []).append(made)
        return name

    def _constant(self, preferred: str, array: Array) -> str:
        name = self._free(preferred)
        self._constants[name], self._values[name] = array, constant_value(array)
        return name

    def _free(self, name: str) -> str:
        while name in self._values or name in self._nodes:
            name += "_"
        return name

    def finish(self) -> Graph:
        """The graph; what nobody reads any more is still in it."""
        nodes = [new for node in self._graph for new in (*self._before.get(node.name, ()), self._nodes[node.name])]
        return replace(self._graph, nodes=tuple(nodes), values=dict(self._values), constants=dict(self._constants))
