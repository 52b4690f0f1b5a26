"""Images and volumes read at computed places (grid_sample).

A place is given by coordinates from -1 to 1, width first. They become positions in float32, in torch's order of
operations (aten/src/ATen/native/cpu/GridSamplerKernel.cpp), so that ties of `nearest` fall as they do there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..graph.ir import Array, Value
from .call import Call
from .resize import cubic_weights
from .spec import FLAG, Input, Op, choice
from .windows import at

F32 = np.float32
MODES = ("nearest", "linear", "cubic")
PADDING = ("zeros", "border", "reflection")


def _infer(call: Call) -> Sequence[Value]:
    x, grid = call.shape(0), call.shape(1, rank=len(call.shape(0)))
    axes = len(x) - 2
    call.need(axes in (2, 3), f"input 0 must have rank 4 or 5, has shape {list(x)}")
    call.need(call.attrs["mode"] != "cubic" or axes == 2, "mode cubic is for images")
    call.same(grid[0], x[0], "the batches do not fit")
    call.same(grid[-1], axes, "the grid's last axis does not fit the image")
    for size in x[2:]:
        call.at_least(size, 1, "the input is empty")
    return [Value(dtype="f32", shape=(*x[:2], *grid[1:-1]))]


def _positions(grid: Array, size: int, align: bool, volume: bool) -> Array:
    """Coordinates as positions on an axis of so many elements; torch rounds otherwise in volumes."""
    n, moved = F32(size), grid + F32(1)
    if align:
        middle: Array = moved * F32(0.5) * (n - F32(1)) if volume else moved * ((n - F32(1)) / F32(2))
        return middle
    edges: Array = (moved * n - F32(1)) / F32(2) if volume else moved * (n / F32(2)) - F32(0.5)
    return edges


def _folded(position: Array, size: int, align: bool, padding: str) -> Array:
    """Positions brought into the image; NaN becomes 0. Zeros: as they are."""
    if padding == "zeros":
        return position
    last = F32(size) - F32(1)
    if padding == "reflection":
        span, low = (F32(2) * last, F32(0)) if align else (F32(2) * F32(size), F32(-0.5))
        away = np.abs(position - low)
        rest = away - np.trunc(away / span) * span
        position = np.minimum(rest, span - rest) + low
    return np.where(position > 0, np.minimum(position, last), F32(0)).astype(F32)


def _axis_taps(position: Array, size: int, mode: str, align: bool, padding: str) -> tuple[Array, Array]:
    """Which elements of an axis, as floats, and their weights: [..., taps]."""
    if mode == "cubic":
        floor = np.floor(position)
        taps = floor[..., None] + np.arange(-1, 3, dtype=F32)
        return np.rint(_folded(taps, size, align, padding)), cubic_weights(position - floor)
    position = _folded(position, size, align, padding)
    if mode == "nearest":
        return np.rint(position)[..., None], np.ones((*position.shape, 1), F32)
    floor = np.floor(position)
    part = position - floor
    return np.stack([floor, floor + F32(1)], -1), np.stack([F32(1) - part, part], -1)


def _grid_sample(call: Call) -> Sequence[Array]:
    x, grid, attrs = call.array(0), call.array(1), call.attrs
    sizes, mode, padding, align = x.shape[2:], attrs["mode"], attrs["padding"], bool(attrs["align_corners"])
    call.need(min(sizes) >= 1, "the input is empty")
    tables = []
    for axis, size in enumerate(sizes):
        position = _positions(grid[..., len(sizes) - 1 - axis], size, align, len(sizes) == 3)
        tables.append(_axis_taps(position, size, mode, align, padding))
    total = np.zeros((*x.shape[:2], *grid.shape[1:-1]), F32)
    samples = np.arange(len(x)).reshape(-1, *(1,) * len(sizes))
    for taps in itertools.product(*(range(places.shape[-1]) for places, _ in tables)):
        index, inside = [samples], np.ones(grid.shape[:-1], bool)
        weight: Any = F32(1)
        for (places, weights), tap, size in zip(tables, taps, sizes, strict=True):
            place = places[..., tap]
            inside = inside & (place >= 0) & (place < size)
            index.append(np.clip(np.where(inside, place, 0), 0, size - 1).astype(np.int64))
            weight = weight * weights[..., tap]
        values = np.moveaxis(x[at(index[0], slice(None), *index[1:])], -1, 1)
        total = total + np.where(inside[:, None], np.asarray(weight)[:, None] * values, F32(0))
    if len(sizes) == 2:  # torch multiplies what lies outside by its weight here, in volumes it leaves it out
        lost = np.any([np.isnan(weights).any(-1) for _, weights in tables], axis=0)
        total = np.where(lost[:, None], F32(np.nan), total)
    return [total]


OPS = (
    Op(
        name="grid_sample",
        note="grid [N, ..., 2 or 3]: coordinates from -1 to 1, the last axis's first",
        inputs=(Input(name="x"), Input(name="grid")),
        attrs={
            "mode": choice(*MODES),
            "padding": choice(*PADDING),
            "align_corners": FLAG,
        },
        infer_rule=_infer,
        reference_rule=_grid_sample,
    ),
)
