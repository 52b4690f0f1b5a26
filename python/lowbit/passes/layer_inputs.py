"""What the weights of each layer meet on calibration data: means and second moments of its input windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import Array, Graph, Node, Quant
from ..ops import OPS, attributes
from ..ops.windows import at, out_size, pad_image, spread
from .calibrate import Feeds, Progress, watch

ROWS = 128
"""Output positions taken from each sample, evenly spread; a quarter of them where each channel has its own weights."""
DEEPEST = 1280
"""Second moments of layers that sum more products than this are not collected: they would not pay memory and time."""
BUDGET = 48 << 20
"""Elements of second moments that are collected at once; more take another pass over the calibration data."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """x is what output channels of a group are the products of: an input row of linear, a window of a convolution.

    mean: E[x], coded_mean: E[x after its quantization], both float64 [groups, K]. moments: E[x x^T], float64
    [groups, K, K], or None for layers deeper than `DEEPEST`.
    """

    mean: Array
    coded_mean: Array
    moments: Array | None


def layer_inputs(
    graph: Graph,
    calibration: Iterable[Feeds],
    layers: Sequence[Node],
    quants: Mapping[str, Quant],
    *,
    moments: bool = True,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Node, Seen]]:
    """Each layer of the float graph with what it sees; `quants` say how its input is quantized.

    moments: whether to collect second moments, too.
    """
    for part in _parts(graph, layers) if moments else [layers]:
        names = list(dict.fromkeys(node.inputs[0] for node in part))
        sums = {node.name: _Sums(graph, node, quants[node.inputs[0]], moments) for node in part}
        for _, found in watch(graph, calibration, names, stage="layer inputs", threads=threads, progress=progress):
            for node in part:
                sums[node.name].add(found[node.inputs[0]])
        for node in part:
            yield node, sums.pop(node.name).finish()


class _Sums:
    """Running sums of one layer."""

    def __init__(self, graph: Graph, node: Node, quant: Quant, moments: bool) -> None:
        self._node, self._quant = node, quant
        self._weight_shape = tuple(graph.constants[node.inputs[1]].shape)
        groups, depth = _size(graph, node)
        self._mean, self._coded = np.zeros((groups, depth)), np.zeros((groups, depth))
        self._moments = np.zeros((groups, depth, depth), np.float32) if moments and depth <= DEEPEST else None
        self._places = ROWS if groups == 1 else ROWS // 4
        self._rows = 0

    def add(self, x: Array) -> None:
        """Take in a batch of the layer's input, float32."""
        rows = patches(self._node, x, self._weight_shape, self._places)
        self._rows += rows.shape[1]
        self._mean += rows.sum(axis=1, dtype=np.float64)
        if self._moments is not None:
            self._moments += np.swapaxes(rows, 1, 2) @ rows
        scale, zero_point = np.float32(self._quant.scale), int(self._quant.zero_point)
        rows /= scale
        np.rint(rows, out=rows)
        np.clip(rows, -zero_point, 255 - zero_point, out=rows)
        self._coded += rows.sum(axis=1, dtype=np.float64) * float(scale)

    def finish(self) -> Seen:
        """The means so far."""
        rows = max(self._rows, 1)
        moments = None if self._moments is None else self._moments.astype(np.float64) / rows
        return Seen(mean=self._mean / rows, coded_mean=self._coded / rows, moments=moments)


def _parts(graph: Graph, layers: Sequence[Node]) -> Iterator[list[Node]]:
    """The layers, cut where the elements of their second moments pass the budget."""
    part: list[Node] = []
    room = BUDGET
    for node in layers:
        groups, depth = _size(graph, node)
        size = groups * depth * depth if depth <= DEEPEST else 0
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
    if node.op == "linear":
        rows = x.reshape(-1, x.shape[-1])
        return np.array(rows[_spread(len(rows), places * len(x))])[None]
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


def _spread(count: int, most: int) -> Array:
    """At most so many of the first `count` numbers, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
