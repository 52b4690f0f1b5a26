"""Leaves out channels that are known beforehand, and those that nobody reads.

A filter whose weights are all zero makes one number everywhere, its bias; what works channel by channel makes one of
one; and a layer reads such a number in its bias. So pruned filters, rows and columns leave the products, and what is
left are smaller layers. Where somebody must see all channels (a residual addition, an output), they are put back, if
what was saved is worth that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir import Array, Attribute, Graph, Node, replace
from ..ops import OPS, attributes, constant_value, infer
from .layers import CONVOLUTIONS, LAYERS
from .remove_dead import remove_dead

PAIRS = ("add", "sub", "mul", "div", "minimum", "maximum", "prelu", "pow")
POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "resize")
RESTORING, RESTORING_ROWS = 128, 384
"""Multiply-adds that take as long as putting one element back into an image, and into rows."""
WIDE, TILE = 256, 32
"""Layers of more outputs than WIDE keep a multiple of TILE, as kernels compute so many together."""
BLOCK = 4
"""Others of TILE outputs at least keep a multiple of it, for kernels of sparse weights."""
Kept = Callable[[Array], bool]


@dataclass(frozen=True, kw_only=True)
class Left:
    """What left a layer: so many of its outputs, and of its inputs."""

    node: str
    outputs: tuple[int, int]
    inputs: tuple[int, int]

    def __str__(self) -> str:
        sides = (("outputs", self.outputs), ("inputs", self.inputs))
        said = " and ".join(f"{gone} of {all_} {side}" for side, (gone, all_) in sides if gone)
        return f"without {said}, which are constant or not read"


def drop_channels(graph: Graph, *, keeps: Kept = lambda weight: False, step: int = 1) -> tuple[Graph, list[Left]]:
    """The graph without channels that are constant or not read, and what left which layer.

    keeps: weights that stay as they are. step: of what stays of a layer's outputs, a multiple.

    before: linear(w, b; rows 3 .. 9 of w zero) -> gelu -> linear(v, c) -> y
    after:  linear(w[:3], b[:3]) -> gelu -> linear(v[:, :3], c + v[:, 3:] gelu(b[3:])) -> y
    """
    whole: set[str] = set()
    while True:
        made = _Dropped(_Channels(graph, keeps, whole), step)
        result = made.run()
        costly = made.costly() - whole
        if not costly:
            return result, made.left
        whole |= costly


# ------------------------------------------------------------------------------------------------- what is known of it


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lane:
    """Where a value's channels lie, and the numbers of those that are constant; NaN: computed."""

    axis: int
    fills: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class _Link:
    """A node that works channel by channel: its inputs that have channels, where these are in its output.

    repeat: adjacent channels of the output that one of the input becomes (a flattened image).
    """

    places: tuple[int, ...]
    axis: int
    repeat: int = 1


class _Channels:
    """What each value's channels are, and which are read; `whole`: layers that make all of theirs."""

    def __init__(self, graph: Graph, keeps: Kept, whole: set[str]) -> None:
        self.graph, self.whole, self._keeps = graph, whole, keeps
        self.lanes: dict[str, _Lane] = {}
        self.links: dict[str, _Link] = {}
        self.layers: set[str] = set()
        for node in graph:
            self._look(node)
        self.used, self.anchors = (
            {name: np.zeros(lane.fills.shape, bool) for name, lane in self.lanes.items()} for _ in range(2)
        )
        for name in graph.outputs:
            self._use(name, True)
        for node in reversed(graph.nodes):
            self._ask(node)

    def array(self, name: str) -> Array | None:
        """The content of a plain constant, else None."""
        constant = self.graph.constants.get(name) if name else None
        return constant if isinstance(constant, np.ndarray) else None

    def rank(self, name: str) -> int:
        return len(self.graph.values[name].shape)

    def needed(self, name: str) -> Array:
        """Which channels must be computed."""
        return self.used[name] & (np.isnan(self.lanes[name].fills) | self.anchors[name])

    def lane_of_input(self, node: Node) -> _Lane | None:
        """The channels that a layer reads, if they lie along the axis that it sums over."""
        lane = self.lanes.get(node.inputs[0])
        axis = 1 if node.op in CONVOLUTIONS else self.rank(node.inputs[0]) - 1
        return lane if lane is not None and lane.axis == axis else None

    def takes_constants(self, node: Node, fills: Array) -> Array:
        """Which constant channels of its input a layer can take in its bias: where it pads, zeros only."""
        attrs: Mapping[str, Any] = attributes(OPS[node.op], node)
        plain = "output_padding" not in attrs and not any(attrs.get("padding", ()))
        return ~np.isnan(fills) if plain else fills == 0

    def _use(self, name: str, which: Array | bool) -> None:
        if name in self.used:
            self.used[name] |= which

    # Forward: lanes.

    def _look(self, node: Node) -> None:
        if node.op in LAYERS and self._is_open(node):
            self.layers.add(node.name)
            axis = 1 if node.op in CONVOLUTIONS else self.rank(node.outputs[0]) - 1
            self.lanes[node.outputs[0]] = _Lane(axis=axis, fills=self._layer_fills(node))
            return
        link = _link(self, node)
        if link is not None and len(node.outputs) == 1:
            self.links[node.name] = link
            self.lanes[node.outputs[0]] = _Lane(axis=link.axis, fills=self._fills(node, link))

    def _is_open(self, node: Node) -> bool:
        arrays = [self.array(name) for name in node.inputs[1:3] if name]
        plain = all(array is not None and np.isfinite(array).all() for array in arrays) and len(node.inputs) < 4
        weight = arrays[0] if plain else None
        return weight is not None and weight.dtype == np.float32 and weight.size > 0 and not self._keeps(weight)

    def _layer_fills(self, node: Node) -> Array:
        """The bias of channels whose weights are zero, with what constant inputs add to it."""
        weight, bias, groups = self.parts(node)
        filters, depth = weight.shape[:2]
        lane = self.lane_of_input(node)
        fills = np.full(depth * groups, np.nan) if lane is None else lane.fills
        constant = self.takes_constants(node, fills).reshape(groups, 1, depth)
        sums = weight.reshape(groups, filters // groups, depth, -1).sum(axis=3, dtype=np.float64)
        active = _active(weight).reshape(groups, filters // groups, depth)
        is_computed = (active & ~constant).any(axis=2).reshape(-1)
        known = np.where(constant, np.nan_to_num(fills.reshape(groups, 1, depth)), 0.0)
        numbers = bias + (sums * known).sum(axis=2).reshape(-1)
        low, high = (node.attrs.get(f"activation_{end}", bound) for end, bound in (("min", -np.inf), ("max", np.inf)))
        clipped = np.clip(numbers, low, high).astype(np.float32).astype(np.float64)
        return np.where(is_computed | (node.name in self.whole), np.nan, clipped)

    def parts(self, node: Node) -> tuple[Array, Array, int]:
        """Weight, bias (float64) and groups of a layer."""
        weight = self.array(node.inputs[1])
        assert weight is not None
        bias = self.array(node.inputs[2]) if len(node.inputs) > 2 else None
        groups = node.integer("groups", 1)
        return weight, np.zeros(len(weight)) if bias is None else bias.astype(np.float64), groups

    def _fills(self, node: Node, link: _Link) -> Array:
        size = int(self.graph.values[node.outputs[0]].shape[link.axis])
        if node.op == "concat":
            return np.concatenate([self._input_fills(node, place, link) for place in link.places])
        if node.op in PAIRS:
            return self._pair_fills(node, size, link)
        fills = self._input_fills(node, link.places[0], link)
        if node.op in ("unary", "clip"):
            with np.errstate(all="ignore"):
                found = np.asarray(OPS[node.op].reference(node, [fills.astype(np.float32)])[0], np.float64)
            return np.where(np.isnan(fills) | ~np.isfinite(found), np.nan, found)
        attrs = attributes(OPS[node.op], node)
        if node.op == "avg_pool2d" and any(attrs["padding"]):
            return np.where(fills == 0, fills, np.nan)
        if node.op == "pad" and attrs["mode"] == "constant":
            return np.where(fills == attrs["value"], fills, np.nan)
        return np.repeat(fills, link.repeat)

    def _input_fills(self, node: Node, place: int, link: _Link) -> Array:
        """NaN for a value of which nothing is known."""
        name = node.inputs[place]
        if name in self.lanes:
            return self.lanes[name].fills
        axis = link.axis - (self.rank(node.outputs[0]) - self.rank(name) if node.op in PAIRS else 0)
        return np.full(int(self.graph.values[name].shape[axis]), np.nan)

    def _pair_fills(self, node: Node, size: int, link: _Link) -> Array:
        known: list[Array] = []
        for place, name in enumerate(node.inputs):
            array = self.array(name)
            if array is None:
                known.append(self._input_fills(node, place, link) if place in link.places else np.full(size, np.nan))
            else:
                known.append(_by_channel(array, size, link.axis, self.rank(node.outputs[0])))
        with np.errstate(all="ignore"):
            arrays = [each.astype(np.float32) for each in known]
            found = np.asarray(OPS[node.op].reference(node, arrays)[0], np.float64)
        unknown = np.isnan(known[0]) | np.isnan(known[1]) | ~np.isfinite(found)
        result = np.where(unknown, np.nan, found)
        return np.where((known[0] == 0) | (known[1] == 0), 0.0, result) if node.op == "mul" else result

    # Backward: which channels are read.

    def _ask(self, node: Node) -> None:
        out = node.outputs[0]
        if node.name in self.layers:
            self._ask_layer(node)
        elif node.name in self.links:
            link, needed = self.links[node.name], self.needed(out)
            first = 0
            for place in link.places:
                name = node.inputs[place]
                size = len(self._input_fills(node, place, link)) * link.repeat
                part = needed[first : first + size] if node.op == "concat" else needed
                first += size
                self._use(name, np.asarray(part.reshape(-1, link.repeat).any(axis=1)))
                if len(link.places) == 1 and link.repeat == 1 and name in self.anchors:
                    self.anchors[name] |= self.anchors[out]
            for place, name in enumerate(node.inputs):
                if place not in link.places:
                    self._use(name, True)
        else:
            for name in node.inputs:
                self._use(name, True)

    def _ask_layer(self, node: Node) -> None:
        weight, _, groups = self.parts(node)
        needed = self.needed(node.outputs[0])
        if self.lane_of_input(node) is None:
            self._use(node.inputs[0], True)
        elif groups == 1:
            rows = weight[needed]
            self._use(node.inputs[0], np.asarray(_active(rows).any(axis=0)))
            self._ask_anchor(node, rows)
        else:
            alive = needed.reshape(groups, -1).any(axis=1)
            self._use(node.inputs[0], np.repeat(alive, weight.shape[1]))

    def _ask_anchor(self, node: Node, rows: Array) -> None:
        """Constants that a padded convolution cannot take in its bias become one channel, which is computed."""
        lane = self.lane_of_input(node)
        assert lane is not None
        beyond = np.nan_to_num(lane.fills) * ~self.takes_constants(node, lane.fills) * _active(rows).any(axis=0)
        if beyond.any():
            self.anchors[node.inputs[0]][np.abs(beyond).argmax()] = True


def _active(rows: Array) -> Array:
    """Which inputs each output reads: bool [outputs, inputs]."""
    found: Array = (rows != 0).any(axis=tuple(range(2, rows.ndim)))
    return found


def _by_channel(array: Array, size: int, axis: int, rank: int) -> Array:
    """A constant operand as one number a channel, NaN where it is not."""
    wide = (1,) * (rank - array.ndim) + array.shape
    if array.dtype.kind != "f" or any(n != 1 for other, n in enumerate(wide) if other != axis):
        return np.full(size, np.nan)
    return np.broadcast_to(array.reshape(-1), (size,)).astype(np.float64)


def _link(c: _Channels, node: Node) -> _Link | None:
    """How a node works channel by channel, or None."""
    lanes = [c.lanes.get(name) for name in node.inputs]
    if not any(lanes) or any(c.graph.values[name].dtype != "f32" for name in node.outputs):
        return None
    if node.op in PAIRS:
        return _pair_link(c, node, lanes)
    if node.op == "concat":
        axis = node.integer("axis") % c.rank(node.outputs[0])
        fits = all(lane is None or lane.axis == axis for lane in lanes)
        sizes = [c.graph.values[name].shape[axis] for name in node.inputs]
        is_known = all(isinstance(size, int) for size in sizes) and not any(
            name in c.graph.constants for name in node.inputs
        )
        return _Link(places=tuple(range(len(lanes))), axis=axis) if fits and is_known else None
    lane = lanes[0]
    moved = None if lane is None else _moved(c, node, lane)
    return None if moved is None else _Link(places=(0,), axis=moved[0], repeat=moved[1])


def _pair_link(c: _Channels, node: Node, lanes: Sequence[_Lane | None]) -> _Link | None:
    shape = c.graph.values[node.outputs[0]].shape
    rank = len(shape)
    axes = {lane.axis + rank - c.rank(name) for lane, name in zip(lanes, node.inputs, strict=True) if lane is not None}
    axis = axes.pop()
    if axes or not isinstance(shape[axis], int):
        return None
    places = []
    for place, (lane, name) in enumerate(zip(lanes, node.inputs, strict=True)):
        inner = axis - (rank - c.rank(name))
        size = c.graph.values[name].shape[inner] if inner >= 0 else 1
        if size not in (1, shape[axis]) or (lane is not None and size != shape[axis]):
            return None
        if size == shape[axis] and name not in c.graph.constants:
            places.append(place)
    return _Link(places=tuple(places), axis=axis) if places else None


def _moved(c: _Channels, node: Node, lane: _Lane) -> tuple[int, int] | None:
    """Where the channels are after a node with one input, and how many there are of each."""
    axis, rank = lane.axis, c.rank(node.inputs[0])
    attrs: Mapping[str, Any] = attributes(OPS[node.op], node)
    if node.op in ("unary", "clip") or (node.op in POOLS and axis == 1):
        return axis, 1
    if node.op == "pad":
        return (axis, 1) if tuple(attrs["padding"][2 * axis : 2 * axis + 2]) == (0, 0) else None
    if node.op == "transpose":
        return tuple(attrs["perm"]).index(axis), 1
    if node.op == "mean":
        axes = {each % rank for each in attrs["axes"]}
        shift = 0 if attrs.get("keepdim") else sum(each < axis for each in axes)
        return None if axis in axes else (axis - shift, 1)
    if node.op == "reshape":
        before, after = (c.graph.values[name].shape for name in (node.inputs[0], node.outputs[0]))
        if after[: axis + 1] == before[: axis + 1]:
            return axis, 1
        rest = before[axis + 1 :]
        if after[:-1] == before[:axis] and all(isinstance(size, int) for size in rest):
            return axis, math.prod(int(size) for size in rest)
        if axis == rank - 1 and after[-1:] == before[-1:]:
            return len(after) - 1, 1
    return None


# ------------------------------------------------------------------------------------------------------------ rewriting


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cut:
    """A value of which some channels are there: its name, which ones, and the layers that left the others out."""

    name: str
    kept: Array
    layers: frozenset[str] = field(default_factory=frozenset)


class _Dropped:
    """The graph under construction."""

    def __init__(self, channels: _Channels, step: int) -> None:
        self._c, self._step = channels, step
        self._graph = channels.graph
        self._values, self._constants = dict(self._graph.values), dict(self._graph.constants)
        self._nodes: list[Node] = []
        self._cuts: dict[str, _Cut] = {}
        self._made: dict[tuple[str, bytes], str] = {}
        self._restored: dict[str, float] = {}
        self._saved: dict[str, float] = {}
        self.left: list[Left] = []

    def run(self) -> Graph:
        for node in self._graph:
            if node.name in self._c.layers:
                self._layer(node)
            elif node.name in self._c.links and any(name in self._cuts for name in node.inputs):
                self._linked(node)
            else:
                self._put(replace(node, inputs=tuple(self._full(name) for name in node.inputs)))
        for name in self._graph.outputs:
            self._full(name)
        made = replace(self._graph, nodes=tuple(self._nodes), values=self._values, constants=self._constants)
        return remove_dead(made)

    def costly(self) -> set[str]:
        """The layers whose channels cost more to put back than was saved."""
        return {name for name, cost in self._restored.items() if cost > self._saved[name]}

    def _put(self, node: Node) -> None:
        known = replace(self._graph, values=self._values, constants=self._constants)
        self._values.update(zip(node.outputs, infer(node, known), strict=True))
        self._nodes.append(node)

    def _constant(self, array: Array, wish: str) -> str:
        while wish in self._values:
            wish += "_"
        self._constants[wish], self._values[wish] = array, constant_value(array)
        return wish

    def _name(self, wish: str) -> str:
        while wish in self._values:
            wish += "_"
        return wish

    def _full(self, value: str) -> str:
        """The value with all its channels."""
        if value not in self._cuts:
            return value
        return self._as(value, np.arange(len(self._c.lanes[value].fills)))

    def _as(self, value: str, wanted: Array) -> str:
        """The value with these channels."""
        cut, lane = self._cuts.get(value), self._c.lanes.get(value)
        kept = np.arange(len(wanted)) if lane is None else np.arange(len(lane.fills)) if cut is None else cut.kept
        name = value if cut is None else cut.name
        if lane is None or np.array_equal(kept, wanted):
            return name
        key = (value, wanted.tobytes())
        if key not in self._made:
            self._made[key] = self._gather(value, name, lane, kept, wanted)
            for layer in () if cut is None else cut.layers:
                cost = RESTORING_ROWS if lane.axis + 1 == self._c.rank(value) else RESTORING
                self._restored[layer] = self._restored.get(layer, 0.0) + cost * len(wanted)
        return self._made[key]

    def _gather(self, value: str, name: str, lane: _Lane, kept: Array, wanted: Array) -> str:
        """Picks channels, and puts back those that are missing.

        before: x [N, 3, ...] of five channels, of which 1 and 3 are 0 and b
        after:  x -> pad(a channel of zeros) -> take(0, 3, 1, 3, 2) -> add(0, 0, 0, b, 0)
        """
        place = np.minimum(np.searchsorted(kept, wanted), len(kept) - 1)
        missing = kept[place] != wanted
        rank = len(self._values[name].shape)
        fills = np.where(missing, np.nan_to_num(lane.fills[wanted]), 0.0)  # what nobody reads may be anything
        if missing.any():
            padding = [0] * (2 * rank)
            padding[2 * lane.axis + 1] = 1
            name = self._insert("pad", (name,), value, {"padding": tuple(padding)})
        is_all = len(wanted) == len(lane.fills)
        indices = self._constant(np.where(missing, len(kept), place).astype(np.int64), f"{value}.channels")
        out = value if is_all and not fills.any() else ""
        name = self._insert("take", (name, indices), value, {"axis": lane.axis}, out)
        if fills.any():
            shape = (-1, *(1,) * (rank - 1 - lane.axis))
            number = self._constant(fills.astype(np.float32).reshape(shape), f"{value}.fills")
            name = self._insert("add", (name, number), value, {}, value if is_all else "")
        return name

    def _insert(
        self, op: str, inputs: tuple[str, ...], value: str, attrs: Mapping[str, Attribute], out: str = ""
    ) -> str:
        name = self._name(f"{value}.{op}")
        out = out or name
        self._put(Node(op=op, name=name, inputs=inputs, outputs=(out,), attrs=attrs))
        return out

    def _cut(self, node: Node, kept: Array, layers: frozenset[str]) -> Node:
        """The node's output has these channels."""
        value = node.outputs[0]
        if len(kept) == len(self._c.lanes[value].fills):
            return node
        self._cuts[value] = _Cut(name=self._name(f"{value}.cut"), kept=kept, layers=layers)
        return replace(node, outputs=(self._cuts[value].name,))

    # Layers.

    def _layer(self, node: Node) -> None:
        weight, bias, groups = self._c.parts(node)
        needed, used = self._c.needed(node.outputs[0]), self._c.used[node.outputs[0]]
        fills = self._c.lanes[node.outputs[0]].fills
        is_read = used & np.isnan(fills)  # the others, where they stay, must not read what may not be there
        if not is_read.all():
            weight = np.where(is_read.reshape(-1, *(1,) * (weight.ndim - 1)), weight, np.float32(0))
            bias = np.where(np.isnan(fills), bias, fills)
        if groups == 1:
            rows = self._rounded(needed)
            x, columns = self._columns(node, weight[rows])
            attrs = dict(node.attrs)
            made = self._merged(node, weight, columns)[rows][:, columns]
        else:
            rows, columns, x = self._group_rows(node, weight, needed, groups)
            attrs = {**node.attrs, "groups": len(columns) // weight.shape[1]}
            made = weight[rows]
        if len(rows) == len(weight) and made.shape == weight.shape:
            self._put(replace(node, inputs=(x, *node.inputs[1:])))
            return
        self.left.append(
            Left(
                node=node.name,
                outputs=(len(weight) - len(rows), len(weight)),
                inputs=(weight.shape[1] * groups - len(columns), weight.shape[1] * groups),
            )
        )
        self._saved[node.name] = float(weight.size - made.size)
        names = [x, self._constant(np.ascontiguousarray(made), f"{node.inputs[1]}.left")]
        shifted = bias[rows] + self._constant_part(node, weight, columns, groups)[rows]
        if len(node.inputs) > 2 or shifted.any():
            names.append(self._constant(shifted.astype(np.float32), f"{node.name}.bias.left"))
        layers = frozenset({node.name})
        self._put(self._cut(replace(node, inputs=tuple(names), attrs=attrs), rows, layers))

    def _constant_part(self, node: Node, weight: Array, columns: Array, groups: int) -> Array:
        """What the input's channels that are left out add to each output."""
        lane = self._c.lane_of_input(node)
        if lane is None or node.inputs[0] not in self._cuts:
            return np.zeros(len(weight))
        fills = np.where(self._c.takes_constants(node, lane.fills), np.nan_to_num(lane.fills), 0.0)
        fills[columns] = 0
        sums = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).sum(axis=3, dtype=np.float64)
        found: Array = (sums * fills.reshape(groups, 1, -1)).sum(axis=2).reshape(-1)
        return found

    def _columns(self, node: Node, rows: Array) -> tuple[str, Array]:
        """What a layer reads, and which of its input's channels that is."""
        value, lane = node.inputs[0], self._c.lane_of_input(node)
        cut = self._cuts.get(value)
        if cut is None or lane is None:
            return self._full(value), np.arange(rows.shape[1])
        asked = _active(rows).any(axis=0) & ~self._c.takes_constants(node, lane.fills)
        asked &= np.isnan(lane.fills) | (self._anchor(value) is None)
        asked[cut.kept] = True
        columns = np.flatnonzero(asked)
        return self._as(value, columns), columns

    def _anchor(self, value: str) -> int | None:
        """A constant channel that is there, of which others are multiples."""
        kept = self._cuts[value].kept
        found = kept[self._c.anchors[value][kept]]
        return int(found[0]) if len(found) else None

    def _merged(self, node: Node, weight: Array, columns: Array) -> Array:
        """The weight, in which the anchor's inputs stand for all constants that a bias cannot."""
        value, lane = node.inputs[0], self._c.lane_of_input(node)
        anchor = self._anchor(value) if lane is not None and value in self._cuts else None
        if lane is None or anchor is None or np.isnan(lane.fills[anchor]):
            return weight
        shares = np.where(self._c.takes_constants(node, lane.fills), 0.0, np.nan_to_num(lane.fills))
        shares[columns] = 0
        merged = weight.astype(np.float64)
        merged[:, anchor] += np.moveaxis(merged, 1, -1) @ (shares / lane.fills[anchor])
        return merged.astype(np.float32)

    def _group_rows(self, node: Node, weight: Array, needed: Array, groups: int) -> tuple[Array, Array, str]:
        """Rows and columns of a grouped convolution: those of whole groups, as many rows in each."""
        value, depth = node.inputs[0], weight.shape[1]
        by_group = needed.reshape(groups, -1)
        most = max(int(by_group.sum(axis=1).max()), 1)
        alive = np.flatnonzero(by_group.any(axis=1)) if needed.any() else np.arange(1)
        cut = self._cuts.get(value)
        lane = self._c.lane_of_input(node)
        if lane is None or cut is None:
            alive = np.arange(groups)
        elif depth == 1:  # a depthwise convolution takes what there is
            alive = np.union1d(alive, cut.kept)
        columns = (alive[:, None] * depth + np.arange(depth)).reshape(-1)
        order = np.argsort(~by_group[alive], axis=1, kind="stable")[:, :most]
        rows = (np.sort(order, axis=1) + alive[:, None] * by_group.shape[1]).reshape(-1)
        return rows, columns, self._as(value, columns) if lane is not None else self._full(value)

    def _rounded(self, needed: Array) -> Array:
        """A multiple of `step` channels, one at least: those that are needed, and of the others the first."""
        count = max(int(needed.sum()), 1)
        few = BLOCK if len(needed) % BLOCK == 0 and len(needed) >= TILE else 1
        step = math.lcm(self._step, TILE if count > WIDE else few)
        count = min(-(-count // step) * step, len(needed))
        return np.sort(np.argsort(~needed, kind="stable")[:count])

    # What works channel by channel.

    def _linked(self, node: Node) -> None:
        link, value = self._c.links[node.name], node.outputs[0]
        lane = self._c.lanes[value]
        size = len(lane.fills)
        if node.op == "concat":
            parts, first = [], 0
            for name in node.inputs:
                count = int(self._graph.values[name].shape[link.axis])
                parts.append(first + (self._cuts[name].kept if name in self._cuts else np.arange(count)))
                first += count
            names = tuple(self._cuts[name].name if name in self._cuts else name for name in node.inputs)
            self._put(self._cut(replace(node, inputs=names), np.concatenate(parts), self._layers_of(node)))
            return
        asked = self._c.needed(value)
        for place in link.places:
            cut = self._cuts.get(node.inputs[place])
            kept = np.ones(size // link.repeat, bool)
            if cut is not None:
                kept[:] = False
                kept[cut.kept] = True
            spread = np.repeat(kept, link.repeat)
            asked = asked | spread if len(link.places) == 1 else asked
        if len(link.places) > 1:
            cuts = [self._cuts.get(node.inputs[place]) for place in link.places]
            same = cuts[0] is not None and all(c is not None and np.array_equal(c.kept, cuts[0].kept) for c in cuts)
            if same and cuts[0] is not None:
                asked[cuts[0].kept] = True
        kept_in = np.flatnonzero(asked.reshape(-1, link.repeat).any(axis=1))
        if len(kept_in) == 0:
            kept_in = next(self._cuts[name].kept[:1] for name in node.inputs if name in self._cuts)
        kept_out = (kept_in[:, None] * link.repeat + np.arange(link.repeat)).reshape(-1)
        inputs = tuple(self._operand(node, place, kept_in, link) for place in range(len(node.inputs)))
        attrs = dict(node.attrs)
        if node.op == "reshape":
            shape = list(self._graph.values[value].shape)
            shape[link.axis] = len(kept_out)
            attrs["shape"] = tuple(shape)
        self._put(self._cut(replace(node, inputs=inputs, attrs=attrs), kept_out, self._layers_of(node)))

    def _operand(self, node: Node, place: int, kept: Array, link: _Link) -> str:
        name = node.inputs[place]
        array = self._c.array(name)
        if place in link.places:
            return self._as_any(name, kept, link, node)
        if array is None:
            return self._full(name)
        axis = link.axis - (self._c.rank(node.outputs[0]) - array.ndim)
        if axis < 0 or array.shape[axis] == 1:
            return name
        return self._constant(np.ascontiguousarray(array.take(kept, axis=axis)), f"{name}.left")

    def _as_any(self, value: str, wanted: Array, link: _Link, node: Node) -> str:
        """The value with these channels; of one that no layer made, too."""
        if value in self._c.lanes:
            return self._as(value, wanted)
        axis = link.axis - (self._c.rank(node.outputs[0]) - self._c.rank(value))
        if len(wanted) == self._graph.values[value].shape[axis]:
            return value
        indices = self._constant(wanted.astype(np.int64), f"{value}.channels")
        return self._insert("take", (value, indices), value, {"axis": axis})

    def _layers_of(self, node: Node) -> frozenset[str]:
        cuts: Iterator[_Cut] = (self._cuts[name] for name in node.inputs if name in self._cuts)
        return frozenset().union(*(cut.layers for cut in cuts))
