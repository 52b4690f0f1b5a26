"""Interpolation, and what trades channels for pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...graph import dims
from ...graph.ir import Attribute, Dim
from ...ops.spec import SIZE
from ...torch_internals import statically_known_true
from ..builder import Ref, Unlowerable
from ..lowering import Lowering
from ..registry import lowers
from .common import numbers, part

_MODES = {
    "upsample_nearest": "nearest",
    "_upsample_nearest_exact": "nearest_exact",
    "upsample_linear": "linear",
    "upsample_bilinear": "linear",
    "upsample_trilinear": "linear",
    "upsample_bicubic": "cubic",
}
"""By the operation's name without its number of axes."""
SMALL_IMAGE = 128
"""Height and width of the result together."""


@lowers(*(f"{name}{axes}d" for name in _MODES for axes in (1, 2, 3)))
def resize(c: Lowering, x: Ref) -> Ref:
    """torch says the size; over one axis it is an image of height 1. Bytes are blended, and rounded, as they are."""
    name = str(c.node.target).removeprefix("aten.").partition(".")[0]
    align = bool(c.argument("align_corners", False))
    scales = _scales(c)
    size: tuple[Dim, ...] = c.out_shape()[2:]
    image = x if x.dtype == "u8" else c.operand(x, "f32")
    if x.rank == 3:
        image, size = c.reshape(image, (*x.shape[:2], 1, x.shape[2])), (1, *size)
        scales = scales and (1.0, *scales)
    mode = _MODES[name[:-2]]
    snap = _snap(c, x) if mode == "nearest" and scales else None
    return c.reshape(c.emit("resize", image, size=size, mode=mode, align_corners=int(align), scales=scales, snap=snap))


def _snap(c: Lowering, x: Ref) -> int | None:
    """Up to which sum of sizes torch's nearest takes what stays or doubles for a factor of 1 or 2.

    Always where at least four channels lie together in memory, else for images alone (aten's UpSampleKernel.cpp).
    """
    tensor = c.node.all_input_nodes[0].meta["val"]
    channels, *size = tensor.shape[1:]
    together = [channels * math.prod(size[axis + 1 :]) for axis in range(len(size))]
    order = (math.prod(tensor.shape[1:]), 1, *together)
    pairs = zip(tensor.stride(), order, strict=True)
    if x.rank > 3 and statically_known_true(channels > 3) and all(statically_known_true(a == b) for a, b in pairs):
        return SIZE
    return SMALL_IMAGE if x.rank == 4 else None


def _scales(c: Lowering) -> tuple[float, ...] | None:
    """The scale factors, where they and not the sizes say which pixels correspond."""
    given: Sequence[float | None] = c.argument("scale_factors", None) or [
        scale
        for name in ("scales", "scales_d", "scales_h", "scales_w")
        if (scale := c.argument(name, None)) is not None
    ]
    factors = [float(scale) for scale in given if scale is not None]
    return tuple(factors) if len(factors) == len(c.out_shape()) - 2 and not c.argument("align_corners", False) else None


@lowers("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def antialiased(c: Lowering, x: Ref) -> Ref:
    """One axis after the other, as torch does: width, then height."""
    y = x if x.dtype == "u8" else c.operand(x, "f32")
    scales, align = _scales(c), int(c.argument("align_corners", False))
    mode = "linear" if "bilinear" in str(c.node.target) else "cubic"
    for axis in (3, 2):
        size, scale = c.out_shape()[axis], scales and scales[axis - 2]
        if size != x.shape[axis]:
            y = c.emit("resample", y, axis=axis, size=size, mode=mode, align_corners=align, scale=scale)
    return y


@lowers("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "cudnn_grid_sampler")
def grid_sample(c: Lowering, x: Ref, grid: Ref, mode: int, padding: int, align: bool) -> Ref:
    return c.emit(
        "grid_sample",
        c.cast(x, "f32"),
        c.cast(grid, "f32"),
        mode=("linear", "nearest", "cubic")[mode],
        padding=("zeros", "border", "reflection")[padding],
        align_corners=int(align),
    )


@lowers("affine_grid_generator")
def affine_grid(c: Lowering, theta: Ref, size: Any, align: bool) -> Ref:
    """Every place of an image, width first and a one behind, through each sample's matrix."""
    axes = c.out_shape()[1:-1]
    rank = len(axes) + 1
    columns = [_coordinates(c, place, axes, align) for place in reversed(range(len(axes)))]
    columns.append(c.emit("expand", c.constant(np.ones((1,) * rank, np.float32)), shape=(*axes, 1)))
    places = c.reshape(c.emit("concat", *columns, axis=-1), (dims.mul(*axes), rank))
    matrix = c.emit("transpose", c.cast(theta, "f32"), perm=(0, 2, 1))
    return c.reshape(c.emit("matmul", places, matrix))


def _coordinates(c: Lowering, place: int, axes: tuple[Dim, ...], align: bool) -> Ref:
    """From -1 to 1 along one axis: of the outermost pixels' centres (align) or of their edges."""
    size = axes[place]
    steps = c.cast(c.emit("arange", start=dims.sub(1, size), length=size, step=2, dtype="i64"), "f32")
    span = c.operand(dims.maximum(dims.sub(size, 1), 1) if align else size, "f32")
    shape = (*(1,) * place, size, *(1,) * (len(axes) - place))
    return c.emit("expand", c.reshape(c.emit("div", steps, span), shape), shape=(*axes, 1))


def _rearranged(c: Lowering, x: Ref, split: tuple[Dim, ...], perm: Sequence[int]) -> Ref:
    """x as `split`, its axes permuted, in torch's shape."""
    return c.reshape(c.emit("transpose", c.reshape(x, split), perm=tuple(perm)))


@lowers("pixel_shuffle")
def pixel_shuffle(c: Lowering, x: Ref, factor: int) -> Ref:
    *lead, channels, height, width = x.shape
    rank = len(lead)
    split = (*lead, dims.floordiv(channels, factor * factor), factor, factor, height, width)
    return _rearranged(c, x, split, (*range(rank), *(rank + at for at in (0, 3, 1, 4, 2))))


@lowers("pixel_unshuffle")
def pixel_unshuffle(c: Lowering, x: Ref, factor: int) -> Ref:
    *lead, channels, height, width = x.shape
    rank = len(lead)
    split = (*lead, channels, dims.floordiv(height, factor), factor, dims.floordiv(width, factor), factor)
    return _rearranged(c, x, split, (*range(rank), *(rank + at for at in (0, 2, 4, 1, 3))))


@lowers("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(c: Lowering, x: Ref, groups: int) -> Ref:
    n, channels, *rest = x.shape
    perm = (0, 2, 1, *range(3, x.rank + 1))
    return _rearranged(c, x, (n, groups, dims.floordiv(channels, groups), *rest), perm)


@lowers("im2col")
def unfold(c: Lowering, x: Ref, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Ref:
    """Every window as a column: a slice for each kernel position, side by side."""
    *lead, channels, height, width = x.shape
    images = c.reshape(x, (*(lead or (1,)), channels, height, width))
    (top, left), steps = numbers(padding, 2), numbers(stride, 2)
    if top or left:
        images = c.emit("pad", images, padding=(0, 0, 0, 0, top, top, left, left))
    size, spread = numbers(kernel, 2), numbers(dilation, 2)
    reach = [d * (k - 1) + 1 for k, d in zip(size, spread, strict=True)]
    out = [
        dims.add(dims.floordiv(dims.sub(whole, window), step), 1)
        for whole, window, step in zip(images.shape[2:], reach, steps, strict=True)
    ]
    for size_out in out:
        c.require("natural", dims.sub(size_out, 1), "windows that are larger than the image")
    columns = []
    for i, j in itertools.product(range(size[0]), range(size[1])):
        view = part(c, part(c, images, 2, i * spread[0], out[0], steps[0]), 3, j * spread[1], out[1], steps[1])
        columns.append(c.reshape(view, (*images.shape[:2], 1, dims.mul(*out))))
    return c.reshape(columns[0] if len(columns) == 1 else c.emit("concat", *columns, axis=2))


def _left_over(c: Lowering, room: Dim, step: int) -> int:
    """The pixels behind the last window: of free sizes, as many as in the example."""
    rest = dims.evaluate(dims.mod(room, step), c.limits.example)
    c.require("zero", dims.mod(dims.sub(room, rest), step), "windows that leave other pixels over")
    return rest


@lowers("col2im")
def fold(c: Lowering, x: Ref, output_size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Ref:
    """Every column back to its window, added up: a transposed convolution whose filters are single ones."""
    (kh, kw), spread, steps = numbers(kernel, 2), numbers(dilation, 2), numbers(stride, 2)
    borders = [side for side in numbers(padding, 2) for _ in (0, 1)]
    size = [dims.add(whole, 2 * side) for whole, side in zip(output_size, borders[::2], strict=True)]
    reach = [d * (k - 1) + 1 for k, d in zip((kh, kw), spread, strict=True)]
    rooms = [dims.sub(whole, window) for whole, window in zip(size, reach, strict=True)]
    out = [dims.add(dims.floordiv(room, step), 1) for room, step in zip(rooms, steps, strict=True)]
    extra = [_left_over(c, room, step) for room, step in zip(rooms, steps, strict=True)]
    batch = x.shape[0] if x.rank == 3 else 1
    channels = dims.floordiv(x.shape[-2], kh * kw)
    if not isinstance(channels, int):
        raise Unlowerable("fold of a number of channels that is free")
    ones = np.tile(np.eye(kh * kw, dtype=np.float32).reshape(1, kh * kw, kh, kw), (channels, 1, 1, 1))
    images = c.reshape(x, (batch, x.shape[-2], *out))
    geometry: dict[str, Attribute] = {"stride": steps, "dilation": spread, "groups": channels}
    geometry |= {"padding": tuple(borders), "output_padding": tuple(extra)}
    return c.reshape(c.emit("conv_transpose2d", images, c.constant(ones), **geometry))
