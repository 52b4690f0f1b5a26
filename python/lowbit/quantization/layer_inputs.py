"""What the weights of each layer meet on calibration data: means and second moments of its input windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..graph.ir import Array, Graph, Node, Quant
from ..ops import OPS, attributes
from ..ops.integer import dynamic_quantize, quantize_groups
from ..ops.windows import at, out_size, pad_image, spread
from ..passes.layers import SCANS
from .calibrate import Feeds, Progress, gather
from .round_weights import Factored, factored, shrunk

ROWS = 128
"""Output positions taken from each sample, evenly spread; a quarter of them where each channel has its own weights."""
DEEPEST = 1280
"""Second moments of layers that sum more products than this are not collected: they would not pay memory and time."""
DEEPEST_ROWS = 3072
"""The same for linear layers whose rows have ranges of their own: there the weights make most of the noise."""
TOGETHER = 1024
"""Rows of small batches that are multiplied together: adding a matrix of moments costs as much as 100 rows."""
DEEPEST_FOUR_BITS = 4608
"""The same for all layers with weights of four bits."""
UNKNOWN = 16.0
"""Rows that calibration data are weighed against: what few of them show may be chance."""
BUDGET = 48 << 20
"""Elements of second moments that are collected at once; more take another pass over the calibration data."""


@dataclass(frozen=True)
class Rows:
    """A linear layer's input is quantized row by row, or group by group of a row, after multiplication by factors.

    copies: values of a row that have one more code each.
    """

    factors: Array | None
    group_size: int = 0
    copies: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """x is what output channels of a group are the products of: an input row of linear, a window of a convolution.

    mean: E[x], coded_mean: E[x after its quantization], both float64 [groups, K]. moments: E[z z^T], float64
    [groups, K, K], of z = x or, if rows are multiplied by factors, of the products; None for layers too deep. rows: how
    many x there were.
    """

    mean: Array
    coded_mean: Array
    moments: Array | None
    rows: int

    @cached_property
    def factored(self) -> Factored | None:
        """The moments as rounding needs them; kept, as several layers may see the same."""
        return None if self.moments is None else factored(shrunk(self.moments, self.rows))


def layer_inputs(
    graph: Graph,
    calibration: Iterable[Feeds],
    layers: Sequence[Node],
    quants: Mapping[str, Quant],
    *,
    rows: Mapping[str, Array | None] | None = None,
    groups: Mapping[str, int] | None = None,
    copies: Mapping[str, tuple[int, ...]] | None = None,
    moments: bool = True,
    four_bits: Container[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Node, Seen]]:
    """Each layer of the float graph with what it sees; `quants` say how its input is quantized.

    rows: the layers whose rows or samples are quantized each by its own range instead, and the factors that rows are
    multiplied by first. groups: how many adjacent values of these rows share a scale, by layer. copies: those of the
    values that layers read. moments: whether to collect second moments, too. four_bits: the layers with such weights.
    """
    by_row = rows or {}
    limits = {node.name: DEEPEST_ROWS if node.name in by_row else DEEPEST for node in layers} if moments else {}
    limits |= {name: DEEPEST_FOUR_BITS for name in limits if name in four_bits}
    for part in _parts(graph, layers, limits):
        sums: dict[str, _Sums] = {}
        for node in part:
            coding = _coding(node, by_row, (groups or {}).get(node.name, 0), (copies or {}), quants)
            sums.setdefault(_key(node), _Sums(graph, node, coding, limits.get(node.name, 0)))
        observers = list(sums.values())
        gather(graph, calibration, observers, stage="layer inputs", threads=threads, progress=progress)
        finished = {key: each.finish() for key, each in sums.items()}
        for node in part:
            yield node, finished[_key(node)]


def _coding(
    node: Node,
    by_row: Mapping[str, Array | None],
    group_size: int,
    copies: Mapping[str, tuple[int, ...]],
    quants: Mapping[str, Quant],
) -> Quant | Rows | None:
    """How a layer's input is quantized; None: on average exactly, as a convolution's by each sample's own range, and
    states, whose codes are fine."""
    if node.name not in by_row:
        return quants[node.inputs[0]]
    if node.op != "linear":
        return None
    return Rows(by_row[node.name], group_size, copies.get(node.inputs[0], ()))


def _key(node: Node) -> str:
    """The same for layers that see the same: linear layers that read one value."""
    return f"rows of {node.inputs[0]}" if node.op == "linear" else node.name


class _Sums:
    """Running sums of one layer."""

    def __init__(self, graph: Graph, node: Node, coding: Quant | Rows | None, deepest: int) -> None:
        self.node, self._coding = node, coding
        self._weight_shape = tuple(graph.constants[node.inputs[1]].shape)
        groups, depth = _size(graph, node)
        self._mean, self._coded = np.zeros((groups, depth)), np.zeros((groups, depth))
        self._moments = np.zeros((groups, depth, depth), np.float32) if depth <= deepest else None
        self._places = ROWS if groups == 1 else ROWS // 4
        self._rows = 0
        self._waiting: list[Array] = []

    def needs(self) -> Sequence[str]:
        """The layer's input."""
        return self.node.inputs[:1]

    def add(self, found: Mapping[str, Array]) -> None:
        """Take in one piece."""
        rows = patches(self.node, found[self.node.inputs[0]], self._weight_shape, self._places)
        self._rows += rows.shape[1]
        self._mean += rows.sum(axis=1, dtype=np.float64)
        if isinstance(self._coding, Rows):
            coding = self._coding
            coded = coded_rows(rows[0], coding.factors, coding.group_size, coding.copies)
            self._coded += coded.sum(axis=0, dtype=np.float64)
            self._waiting.append(rows if self._coding.factors is None else rows * self._coding.factors)
            if sum(part.shape[1] for part in self._waiting) >= TOGETHER:
                self._multiply()
            return
        self._waiting.append(rows)
        self._multiply()
        if self._coding is None:
            self._coded += rows.sum(axis=1, dtype=np.float64)
            return
        scale, zero_point = np.float32(self._coding.scale), int(self._coding.zero_point)
        rows /= scale
        np.rint(rows, out=rows)
        np.clip(rows, -zero_point, 255 - zero_point, out=rows)
        self._coded += rows.sum(axis=1, dtype=np.float64) * float(scale)

    def _multiply(self) -> None:
        if self._moments is not None and self._waiting:
            rows = np.concatenate(self._waiting, axis=1) if len(self._waiting) > 1 else self._waiting[0]
            self._moments += np.swapaxes(rows, 1, 2) @ rows
        self._waiting = []

    def finish(self) -> Seen:
        """The means so far."""
        self._multiply()
        rows = max(self._rows, 1)
        moments = None if self._moments is None else self._moments.astype(np.float64) / rows
        return Seen(mean=self._mean / rows, coded_mean=self._coded / rows, moments=moments, rows=self._rows)


def _parts(graph: Graph, layers: Sequence[Node], limits: Mapping[str, int]) -> Iterator[list[Node]]:
    """The layers, cut where the elements of their second moments pass the budget."""
    part: list[Node] = []
    room = BUDGET
    for node in layers:
        groups, depth = _size(graph, node)
        size = groups * depth * depth if depth <= limits.get(node.name, 0) else 0
        size = 0 if any(_key(node) == _key(other) for other in part) else size
        if part and size > room:
            yield part
            part, room = [], BUDGET
        part.append(node)
        room -= size
    if part:
        yield part


def _size(graph: Graph, node: Node) -> tuple[int, int]:
    """Groups, and products summed for each output."""
    depth = int(np.prod(graph.constants[node.inputs[1]].shape[1:]))
    return int(attributes(OPS[node.op], node).get("groups", 1)), depth


def patches(node: Node, x: Array, weight_shape: Sequence[int], places: int) -> Array:
    """A copy of what the layer's weights meet at `places` output positions a sample at most: f32 [groups, rows, K]."""
    if node.op in ("linear", *SCANS):
        return spread_rows(x.reshape(-1, x.shape[-1]), places * len(x))[None]
    attrs: Mapping[str, Any] = attributes(OPS[node.op], node)
    kernel = tuple(weight_shape[2:])
    transposed = "output_padding" in attrs
    if transposed:
        x, attrs = spread(x, attrs, kernel)
    out = out_size(x.shape[2:], attrs, kernel)
    image = np.swapaxes(pad_image(x, attrs["padding"], 0), 0, 1)
    chosen = _spread(math.prod(out), places)
    corners = [place * stride for place, stride in zip(np.unravel_index(chosen, out), attrs["stride"], strict=True)]
    channels, n = image.shape[:2]
    taken = np.empty((channels, n, len(chosen), *kernel), np.float32)
    for position in itertools.product(*map(range, kernel)):
        met = [corner + i * d for corner, i, d in zip(corners, position, attrs["dilation"], strict=True)]
        taken[at(..., *position)] = image[at(..., *met)]
    if transposed:
        taken = np.flip(taken, tuple(range(3, taken.ndim)))
    groups, count = attrs["groups"], n * len(chosen)
    grouped = taken.reshape(groups, channels // groups, count, math.prod(kernel)).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grouped).reshape(groups, count, -1)


def spread_rows(rows: Array, most: int) -> Array:
    """A copy of at most so many rows, evenly spread."""
    return np.array(rows[_spread(len(rows), most)])


def coded_rows(x: Array, factors: Array | None, group_size: int = 0, copies: Sequence[int] = ()) -> Array:
    """What the codes of x [rows, K] stand for, each row times `factors` with a range, or ranges, of its own: float32.

    group_size: how many adjacent values share a scale; 0: all of a row. copies: values that have one more code each.
    """
    scaled = x if factors is None else x * factors
    real: Array
    if group_size:
        codes, scales = quantize_groups(scaled, group_size)
        real = codes.astype(np.float32) * np.repeat(scales, group_size, axis=1)[:, : x.shape[1]]
    else:
        ones = np.ones(x.shape[1], np.float32) if factors is None else factors
        codes, scale, zero_point = dynamic_quantize(x, "row", ones, np.array(copies, np.int64))
        whole = codes.astype(np.float32) - zero_point[:, None]
        for place, source in enumerate(copies):
            whole[:, source] += whole[:, x.shape[1] + place]
        real = whole[:, : x.shape[1]] * scale[:, None]
    return real if factors is None else real / factors


def _spread(count: int, most: int) -> Array:
    """At most so many of the first `count` numbers, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
