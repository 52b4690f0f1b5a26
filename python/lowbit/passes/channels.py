"""Channels: where the values of a graph have them, how they go through nodes, and which are constant.

A filter whose weights are all zero makes one number everywhere, its bias; what works channel by channel makes one of
one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph.ir import Array, Graph, Node
from ..ops import OPS, attributes
from .layers import CONVOLUTIONS, LAYERS

PAIRS = ("add", "sub", "mul", "div", "minimum", "maximum", "prelu", "pow")
POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "resize")
Kept = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """Where a value's channels lie, and the numbers of those that are constant; NaN: computed."""

    axis: int
    fills: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Link:
    """A node that works channel by channel: its inputs that have channels, where these are in its output.

    repeat: adjacent channels of the output that one of the input becomes (a flattened image).
    """

    places: tuple[int, ...]
    axis: int
    repeat: int = 1


class Channels:
    """What each value's channels are; `whole`: layers that make all of theirs.

    lanes: by value. links: the nodes that work channel by channel, by name. layers: the names of those that may lose
    channels.
    """

    def __init__(self, graph: Graph, keeps: Kept, whole: set[str]) -> None:
        self.graph, self.whole, self._keeps = graph, whole, keeps
        self.lanes: dict[str, Lane] = {}
        self.links: dict[str, Link] = {}
        self.layers: set[str] = set()
        for node in graph:
            self._look(node)

    def array(self, name: str) -> Array | None:
        """The content of a plain constant, else None."""
        constant = self.graph.constants.get(name) if name else None
        return constant if isinstance(constant, np.ndarray) else None

    def rank(self, name: str) -> int:
        return len(self.graph.values[name].shape)

    def parts(self, node: Node) -> tuple[Array, Array, int]:
        """Weight, bias (float64) and groups of a layer."""
        weight = self.array(node.inputs[1])
        assert weight is not None
        bias = self.array(node.inputs[2]) if len(node.inputs) > 2 else None
        groups = node.integer("groups", 1)
        return weight, np.zeros(len(weight)) if bias is None else bias.astype(np.float64), groups

    def lane_of_input(self, node: Node) -> Lane | None:
        """The channels that a layer reads, if they lie along the axis that it sums over."""
        lane = self.lanes.get(node.inputs[0])
        axis = 1 if node.op in CONVOLUTIONS else self.rank(node.inputs[0]) - 1
        return lane if lane is not None and lane.axis == axis else None

    def takes_constants(self, node: Node, fills: Array) -> Array:
        """Which constant channels of its input a layer can take in its bias: where it pads, zeros only."""
        attrs: Mapping[str, Any] = attributes(OPS[node.op], node)
        plain = "output_padding" not in attrs and not any(attrs.get("padding", ()))
        return ~np.isnan(fills) if plain else fills == 0

    def input_fills(self, node: Node, place: int, link: Link) -> Array:
        """NaN for a value of which nothing is known."""
        name = node.inputs[place]
        if name in self.lanes:
            return self.lanes[name].fills
        axis = link.axis - (self.rank(node.outputs[0]) - self.rank(name) if node.op in PAIRS else 0)
        return np.full(int(self.graph.values[name].shape[axis]), np.nan)

    def _look(self, node: Node) -> None:
        if node.op in LAYERS and self._is_open(node):
            self.layers.add(node.name)
            axis = 1 if node.op in CONVOLUTIONS else self.rank(node.outputs[0]) - 1
            self.lanes[node.outputs[0]] = Lane(axis=axis, fills=self._layer_fills(node))
            return
        link = _link(self, node)
        if link is not None and len(node.outputs) == 1:
            self.links[node.name] = link
            self.lanes[node.outputs[0]] = Lane(axis=link.axis, fills=self._fills(node, link))

    def _is_open(self, node: Node) -> bool:
        arrays = [self.array(name) for name in node.inputs[1:3] if name]
        plain = all(array is not None and np.isfinite(array).all() for array in arrays) and len(node.inputs) < 4
        weight = arrays[0] if plain else None
        return weight is not None and weight.dtype == np.float32 and weight.size > 0 and not self._keeps(node.inputs[1])

    def _layer_fills(self, node: Node) -> Array:
        """The bias of channels whose weights are zero, with what constant inputs add to it."""
        weight, bias, groups = self.parts(node)
        filters, depth = weight.shape[:2]
        lane = self.lane_of_input(node)
        fills = np.full(depth * groups, np.nan) if lane is None else lane.fills
        constant = self.takes_constants(node, fills).reshape(groups, 1, depth)
        sums = weight.reshape(groups, filters // groups, depth, -1).sum(axis=3, dtype=np.float64)
        active = inputs_read(weight).reshape(groups, filters // groups, depth)
        is_computed = (active & ~constant).any(axis=2).reshape(-1)
        known = np.where(constant, np.nan_to_num(fills.reshape(groups, 1, depth)), 0.0)
        numbers = bias + (sums * known).sum(axis=2).reshape(-1)
        low, high = (node.attrs.get(f"activation_{end}", bound) for end, bound in (("min", -np.inf), ("max", np.inf)))
        clipped = np.clip(numbers, low, high).astype(np.float32).astype(np.float64)
        return np.where(is_computed | (node.name in self.whole), np.nan, clipped)

    def _fills(self, node: Node, link: Link) -> Array:
        size = int(self.graph.values[node.outputs[0]].shape[link.axis])
        if node.op == "concat":
            return np.concatenate([self.input_fills(node, place, link) for place in link.places])
        if node.op in PAIRS:
            return self._pair_fills(node, size, link)
        fills = self.input_fills(node, link.places[0], link)
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

    def _pair_fills(self, node: Node, size: int, link: Link) -> Array:
        known: list[Array] = []
        for place, name in enumerate(node.inputs):
            array = self.array(name)
            if array is None:
                known.append(self.input_fills(node, place, link) if place in link.places else np.full(size, np.nan))
            else:
                known.append(_by_channel(array, size, link.axis, self.rank(node.outputs[0])))
        with np.errstate(all="ignore"):
            arrays = [each.astype(np.float32) for each in known]
            found = np.asarray(OPS[node.op].reference(node, arrays)[0], np.float64)
        unknown = np.isnan(known[0]) | np.isnan(known[1]) | ~np.isfinite(found)
        result = np.where(unknown, np.nan, found)
        return np.where((known[0] == 0) | (known[1] == 0), 0.0, result) if node.op == "mul" else result


def inputs_read(rows: Array) -> Array:
    """Which inputs each output reads: bool [outputs, inputs]."""
    found: Array = (rows != 0).any(axis=tuple(range(2, rows.ndim)))
    return found


def _by_channel(array: Array, size: int, axis: int, rank: int) -> Array:
    """A constant operand as one number a channel, NaN where it is not."""
    wide = (1,) * (rank - array.ndim) + array.shape
    if array.dtype.kind != "f" or any(n != 1 for other, n in enumerate(wide) if other != axis):
        return np.full(size, np.nan)
    return np.broadcast_to(array.reshape(-1), (size,)).astype(np.float64)


def _link(c: Channels, node: Node) -> Link | None:
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
        return Link(places=tuple(range(len(lanes))), axis=axis) if fits and is_known else None
    lane = lanes[0]
    moved = None if lane is None else _moved(c, node, lane)
    return None if moved is None else Link(places=(0,), axis=moved[0], repeat=moved[1])


def _pair_link(c: Channels, node: Node, lanes: Sequence[Lane | None]) -> Link | None:
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
    return Link(places=tuple(places), axis=axis) if places else None


def _moved(c: Channels, node: Node, lane: Lane) -> tuple[int, int] | None:
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
