"""Rounds weights to int8 so that the rounding errors of one output channel cancel on real inputs.

Nearest rounding makes each weight's error e small; what matters is the error of the layer's output, E[(e . x)^2] =
e^T H e with H = E[x x^T] over the calibration data. Weights are rounded one by one, and what one rounding changes is
made up for by those that are still to be rounded. Smooth images make H of a depthwise filter nearly singular: there
nearest rounding loses most.

Source: Frantar et al. 2022, "GPTQ" (arXiv:2210.17323), with one scale per output channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Array, Graph, Node
from ..ops import OPS, attributes
from ..ops.windows import out_size, pad_image
from .calibrate import Feeds, Progress, watch

LIMIT = 127
ROWS = 256
"""Output positions taken from each sample; evenly spread."""
DEEPEST = 2304
"""Layers whose output sums more products than this are rounded to nearest: H would not pay its memory and time."""
BUDGET = 48 << 20
"""Elements of all H that are collected at once; more take another pass over the calibration data."""
DAMPING = 1e-3
"""Added to H's diagonal, as a share of its mean."""
BLOCK = 64
"""Columns whose corrections are applied to the rest together."""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A weight [N, ...] as int8 codes and float64 scales [N]."""

    codes: Array
    scales: Array

    @property
    def weight(self) -> Array:
        """The numbers that the codes stand for, float64."""
        numbers: Array = self.codes * self.scales.reshape(-1, *(1,) * (self.codes.ndim - 1))
        return numbers


def round_nearest(weight: Array) -> Codes:
    """Each weight to its nearest code; the scales lose least squared error."""
    rows = weight.reshape(weight.shape[0], -1).astype(np.float64)
    scales = best_scales(rows)
    codes = np.clip(np.rint(rows / scales[:, None]), -LIMIT, LIMIT).astype(np.int8)
    return Codes(codes=codes.reshape(weight.shape), scales=scales)


def round_compensated(weight: Array, moments: Array) -> Codes:
    """Codes with little e^T H e: weight [N, ...], moments H [G, K, K] where output n belongs to group n * G // N."""
    groups, depth = moments.shape[:2]
    rows = weight.reshape(weight.shape[0], -1).astype(np.float64)
    scales = best_scales(rows)
    h = moments.astype(np.float64)
    order = np.argsort(-np.einsum("gkk->gk", h), axis=1, kind="stable")  # what weighs most is rounded first
    h = np.take_along_axis(np.take_along_axis(h, order[:, :, None], 1), order[:, None, :], 2)
    mean = np.einsum("gkk->g", h) / depth
    h = h + (DAMPING * mean + 1e-30)[:, None, None] * np.eye(depth)
    upper = np.linalg.cholesky(np.linalg.inv(h)[:, ::-1, ::-1])[:, ::-1, ::-1]
    upper = np.swapaxes(upper, 1, 2)
    del h
    w = np.take_along_axis(rows.reshape(groups, -1, depth), order[:, None, :], 2)
    codes = _round_columns(w, upper, scales.reshape(groups, -1))
    unsorted = np.empty_like(codes)
    np.put_along_axis(unsorted, order[:, None, :], codes, 2)
    return Codes(codes=unsorted.reshape(weight.shape), scales=scales)


def _round_columns(w: Array, upper: Array, scales: Array) -> Array:
    """w [G, N, K] is used up; upper [G, K, K] with upper^T upper = H^-1."""
    codes = np.empty(w.shape, np.int8)
    depth = w.shape[2]
    for begin in range(0, depth, BLOCK):
        end = min(begin + BLOCK, depth)
        errors = np.empty((*w.shape[:2], end - begin))
        for k in range(begin, end):
            code = np.clip(np.rint(w[:, :, k] / scales), -LIMIT, LIMIT)
            codes[:, :, k] = code
            error = (w[:, :, k] - code * scales) / upper[:, None, k, k]
            w[:, :, k + 1 : end] -= error[:, :, None] * upper[:, None, k, k + 1 : end]
            errors[:, :, k - begin] = error
        w[:, :, end:] -= errors @ upper[:, begin:end, end:]
    return codes


def best_scales(rows: Array) -> Array:
    """For each row the scale, at most largest / 127, with the least squared error of nearest rounding: float64 [N]."""
    largest = np.abs(rows).max(axis=1, initial=0.0)
    largest = np.where(largest > 0, largest, 1.0)
    best, least = largest / LIMIT, np.full(len(rows), np.inf)
    for share in np.linspace(1.0, 0.7, 31):
        scales = largest * share / LIMIT
        scaled = rows / scales[:, None]
        error = scales**2 * ((np.clip(np.rint(scaled), -LIMIT, LIMIT) - scaled) ** 2).sum(axis=1)
        better = error < least * (1 - 1e-12)
        best, least = np.where(better, scales, best), np.where(better, error, least)
    # A float32 scale is what the file holds: the codes must be chosen for that very number.
    return np.maximum(best.astype(np.float32), np.finfo(np.float32).tiny).astype(np.float64)


# -------------------------------------------------------------------------------------------------------------- moments


def second_moments(
    graph: Graph,
    calibration: Iterable[Feeds],
    layers: Sequence[Node],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Node, Array | None]]:
    """Each layer with H = E[x x^T] of what its weights meet, float64 [groups, K, K]; None where that is too large."""
    for part in _parts(graph, layers):
        names = list(dict.fromkeys(node.inputs[0] for node, shape in part if shape is not None))
        sums = {node.name: np.zeros(shape, np.float32) for node, shape in part if shape is not None}
        rows = dict.fromkeys(sums, 0)
        seen = watch(graph, calibration, names, stage="round weights", threads=threads, progress=progress)
        for _, found in seen if sums else ():
            for node, shape in part:
                if shape is None:
                    continue
                x = patches(node, found[node.inputs[0]], graph.values[node.inputs[1]].shape, ROWS)
                sums[node.name] += np.swapaxes(x, 1, 2) @ x
                rows[node.name] += x.shape[1]
        for node, _ in part:
            yield node, sums.pop(node.name) / max(rows[node.name], 1) if node.name in sums else None


def _parts(graph: Graph, layers: Sequence[Node]) -> Iterator[list[tuple[Node, tuple[int, int, int] | None]]]:
    """The layers, with the shapes of their H, cut where the elements of H pass the budget."""
    part: list[tuple[Node, tuple[int, int, int] | None]] = []
    room = BUDGET
    for node in layers:
        weight = graph.constants[node.inputs[1]]
        depth = int(np.prod(weight.shape[1:]))
        groups = int(attributes(OPS[node.op], node).get("groups", 1))
        shape = (groups, depth, depth) if depth <= DEEPEST else None
        size = groups * depth * depth if shape else 0
        if part and size > room:
            yield part
            part, room = [], BUDGET
        part.append((node, shape))
        room -= size
    if part:
        yield part


def patches(node: Node, x: Array, weight_shape: Sequence[object], rows: int) -> Array:
    """What the layer's weights are multiplied with, at `rows` output positions a sample at most: f32 [groups, R, K]."""
    if node.op == "linear":
        return _spread(x.reshape(-1, x.shape[-1]), rows * len(x))[None]
    attrs = attributes(OPS[node.op], node)
    kernel = (int(str(weight_shape[2])), int(str(weight_shape[3])))
    height, width = out_size(x.shape[2:], attrs, kernel)
    image = pad_image(x, attrs["padding"], 0)
    places = _spread(np.arange(height * width), rows)
    top, left = places // width * attrs["stride"][0], places % width * attrs["stride"][1]
    taps = [
        image[:, :, top + i * attrs["dilation"][0], left + j * attrs["dilation"][1]]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    stacked = np.stack(taps, axis=-1)  # [n, channels, places, taps]
    n, channels, count, window = stacked.shape
    grouped = stacked.reshape(n, attrs["groups"], -1, count, window).transpose(1, 0, 3, 2, 4)
    return np.ascontiguousarray(grouped).reshape(attrs["groups"], n * count, channels // attrs["groups"] * window)


def _spread(items: Array, most: int) -> Array:
    """At most so many items, evenly spread."""
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, most).round().astype(np.int64)]
