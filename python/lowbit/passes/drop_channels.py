"""Leaves out channels that are known beforehand, and those that nobody reads.

A filter whose weights are all zero makes one number everywhere, its bias; what works channel by channel makes one of
one; and a layer reads such a number in its bias. So pruned filters, rows and columns leave the products, and what is
left are smaller layers. Where somebody must see all channels (a residual addition, an output), they are put back, if
what was saved is worth that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..graph.ir import Array, Attribute, Graph, Node, replace
from ..ops import constant_value, infer
from .channel_uses import Uses
from .channels import Channels, Kept, Lane, Link, inputs_read
from .remove_dead import remove_dead

RESTORING, RESTORING_ROWS = 128, 384
"""Multiply-adds that take as long as putting one element back into an image, and into rows."""
WIDE, TILE = 256, 32
"""Layers of more outputs than WIDE keep a multiple of TILE, as kernels compute so many together."""
BLOCK = 4
"""Others of TILE outputs at least keep a multiple of it, for kernels of sparse weights."""


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


def drop_channels(graph: Graph, *, keeps: Kept = lambda name: False, step: int = 1) -> tuple[Graph, list[Left]]:
    """The graph without channels that are constant or not read, and what left which layer.

    keeps: says by its name which weight stays as it is. step: of what stays of a layer's outputs, a multiple.

    before: linear(w, b; rows 3 .. 9 of w zero) -> gelu -> linear(v, c) -> y
    after:  linear(w[:3], b[:3]) -> gelu -> linear(v[:, :3], c + v[:, 3:] gelu(b[3:])) -> y
    """
    whole: set[str] = set()
    while True:
        channels = Channels(graph, keeps, whole)
        made = _Dropped(channels, Uses(channels), step)
        result = made.run()
        costly = made.costly() - whole
        if not costly:
            return result, made.left
        whole |= costly


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cut:
    """A value of which some channels are there: its name, which ones, and the layers that left the others out."""

    name: str
    kept: Array
    layers: frozenset[str] = field(default_factory=frozenset)


class _Dropped:
    """The graph under construction."""

    def __init__(self, channels: Channels, uses: Uses, step: int) -> None:
        self._c, self._uses, self._step = channels, uses, step
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

    def _constant(self, array: Array, preferred: str) -> str:
        while preferred in self._values:
            preferred += "_"
        self._constants[preferred], self._values[preferred] = array, constant_value(array)
        return preferred

    def _name(self, preferred: str) -> str:
        while preferred in self._values:
            preferred += "_"
        return preferred

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

    def _gather(self, value: str, name: str, lane: Lane, kept: Array, wanted: Array) -> str:
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
        needed, used = self._uses.needed(node.outputs[0]), self._uses.used[node.outputs[0]]
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
        asked = inputs_read(rows).any(axis=0) & ~self._c.takes_constants(node, lane.fills)
        asked &= np.isnan(lane.fills) | (self._anchor(value) is None)
        asked[cut.kept] = True
        columns = np.flatnonzero(asked)
        return self._as(value, columns), columns

    def _anchor(self, value: str) -> int | None:
        """A constant channel that is there, of which others are multiples."""
        kept = self._cuts[value].kept
        found = kept[self._uses.anchors[value][kept]]
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
        asked = self._uses.needed(value)
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

    def _operand(self, node: Node, place: int, kept: Array, link: Link) -> str:
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

    def _as_any(self, value: str, wanted: Array, link: Link, node: Node) -> str:
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
