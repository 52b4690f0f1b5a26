"""What convolutions and pools share: the geometry of sliding windows, and the correlation of both number systems."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dims
from ..ir import Array, Dim
from .spec import FLAG, Attr, Call, integer, integers

EXTENT = 2**15 - 1
MAX_WINDOW = 2**23
"""Elements of a pool's window: its sum of codes stays exact."""
CONV_ATTRS: dict[str, Attr] = {
    "stride": integers(2, 1, EXTENT, default=(1, 1)),
    "padding": integers(4, 0, EXTENT, default=(0, 0, 0, 0)),
    "dilation": integers(2, 1, EXTENT, default=(1, 1)),
    "groups": integer(1, default=1),
}
POOL_ATTRS: dict[str, Attr] = {
    "kernel": integers(2, 1, EXTENT),
    "stride": integers(2, 1, EXTENT),
    "padding": integers(4, 0, EXTENT, default=(0, 0, 0, 0)),
    "ceil_mode": FLAG,
}
"""padding: top, bottom, left, right."""


def conv_shape(call: Call) -> tuple[Dim, ...]:
    """The output shape of a convolution of input 0 [N, Ci, H, W] with input 1 [Co, Ci / groups, kh, kw]."""
    n, channels, *size = call.shape(0, rank=4)
    filters, depth, *kernel = call.fixed_shape(1, rank=4)
    groups = call.attrs["groups"]
    call.need(min(filters, depth, *kernel) >= 1, "the weight is empty")
    call.same(channels, depth * groups, "input channels and weight do not fit")
    call.need(filters % groups == 0, f"{filters} output channels do not divide into {groups} groups")
    out = [_out(call, axis, size[axis], kernel[axis], call.attrs["dilation"][axis]) for axis in (0, 1)]
    return (n, filters, *out)


def pool_shape(call: Call) -> tuple[Dim, ...]:
    """The output shape of a pool of input 0 [N, C, H, W]."""
    n, channels, *size = call.shape(0, rank=4)
    kernel, dilation = call.attrs["kernel"], call.attrs.get("dilation", (1, 1))
    call.need(math.prod(kernel) < MAX_WINDOW, "a window has too many elements")
    out = [_out(call, axis, size[axis], kernel[axis], dilation[axis], pool=True) for axis in (0, 1)]
    return (n, channels, *out)


def _out(call: Call, axis: int, size: Dim, kernel: int, dilation: int, pool: bool = False) -> Dim:
    begin, end = call.attrs["padding"][2 * axis : 2 * axis + 2]
    stride, reach = call.attrs["stride"][axis], dilation * (kernel - 1)
    call.need(
        not pool or max(begin, end) <= reach, f"padding {max(begin, end)} is wider than the window lets it be ({reach})"
    )
    room = dims.add(size, begin + end - reach - 1)
    call.need(
        dims.bounds(room, call.symbols)[1] >= 0,
        f"a window of {reach + 1} does not fit into {size} with padding {begin} + {end}",
    )
    if not call.attrs.get("ceil_mode", 0):
        return dims.add(dims.floordiv(room, stride), 1)
    # The last window must start inside the input or the padding before it.
    starts = dims.floordiv(dims.add(size, begin - 1), stride)
    return dims.add(dims.minimum(dims.floordiv(dims.add(room, stride - 1), stride), starts), 1)


def pad_image(x: Array, padding: tuple[int, ...], value: Any) -> Array:
    """[N, C, H, W] with a frame: top, bottom, left, right."""
    top, bottom, left, right = padding
    if not any(padding):
        return x
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def taps(
    x: Array, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], out: tuple[int, int]
) -> Iterator[tuple[int, int, Array]]:
    """For each kernel position (i, j) the view [..., oh, ow] of what it meets in a padded image."""
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            yield (
                i,
                j,
                x[
                    ...,
                    top : top + (out[0] - 1) * stride[0] + 1 : stride[0],
                    left : left + (out[1] - 1) * stride[1] + 1 : stride[1],
                ],
            )


def out_size(size: tuple[int, ...], attrs: Any, kernel: tuple[int, ...]) -> tuple[int, int]:
    """Output height and width of a convolution, for numbers."""
    padding, stride, dilation = attrs["padding"], attrs["stride"], attrs["dilation"]
    room = [size[a] + sum(padding[2 * a : 2 * a + 2]) - dilation[a] * (kernel[a] - 1) - 1 for a in (0, 1)]
    return room[0] // stride[0] + 1, room[1] // stride[1] + 1


def correlate(x: Array, w: Array, attrs: Any, dtype: Any) -> Array:
    """sum x * w over a window, zero-padded: [N, Co, oh, ow] in `dtype`, whose precision must hold every partial sum."""
    n, channels = x.shape[:2]
    filters, _, *size = w.shape
    groups, kernel = attrs["groups"], (size[0], size[1])
    stride, dilation = attrs["stride"], attrs["dilation"]
    oh, ow = out_size(x.shape[2:], attrs, kernel)
    y = np.zeros((n, filters, oh, ow), dtype)
    if y.size == 0:
        return y
    depthwise = groups == channels == filters
    matrix = w.reshape(groups, filters // groups, -1).astype(dtype)
    for sample in range(n):  # one at a time bounds the memory
        image = pad_image(x[sample : sample + 1], attrs["padding"], 0)[0]
        if depthwise:
            for i, j, view in taps(image, kernel, stride, dilation, (oh, ow)):
                y[sample] += view.astype(dtype) * w[:, 0, i, j].astype(dtype)[:, None, None]
            continue
        columns = np.empty((channels, *kernel, oh, ow), dtype)
        for i, j, view in taps(image, kernel, stride, dilation, (oh, ow)):
            columns[:, i, j] = view
        y[sample] = (matrix @ columns.reshape(groups, -1, oh * ow)).reshape(filters, oh, ow)
    return y


def pool_windows(x: Array, attrs: Any, fill: Any) -> tuple[Array, tuple[int, int]]:
    """The image padded with `fill` so far that every window lies in it, and the output size."""
    kernel, stride, padding, dilation = (
        attrs["kernel"],
        attrs["stride"],
        attrs["padding"],
        attrs.get("dilation", (1, 1)),
    )
    sizes, frame = [], list(padding)
    for a in (0, 1):
        begin, end = padding[2 * a : 2 * a + 2]
        reach = dilation[a] * (kernel[a] - 1)
        room = x.shape[2 + a] + begin + end - reach - 1
        count = room // stride[a]
        if attrs["ceil_mode"]:
            count = min(-(-room // stride[a]), (x.shape[2 + a] + begin - 1) // stride[a])
        sizes.append(count + 1)
        frame[2 * a + 1] = max(end, count * stride[a] + reach + 1 - begin - x.shape[2 + a])
    return pad_image(x, tuple(frame), fill), (sizes[0], sizes[1])


def average_counts(x: Array, attrs: Any, out: tuple[int, int]) -> Array:
    """How many elements each window averages, [oh, ow]: real ones, or also the padding (but nothing beyond it)."""
    sides: list[Array] = []
    for a in (0, 1):
        size, (begin, end) = x.shape[2 + a], attrs["padding"][2 * a : 2 * a + 2]
        start = np.arange(out[a], dtype=np.int64) * attrs["stride"][a] - begin
        stop = np.minimum(start + attrs["kernel"][a], size + end)
        sides.append(stop - start if attrs["count_include_pad"] else np.minimum(stop, size) - np.maximum(start, 0))
    return sides[0][:, None] * sides[1]


def adaptive_edges(size: int, out: int) -> tuple[Array, Array]:
    """Start and end of each window of an adaptive pool: floor(i * size / out), ceil((i + 1) * size / out)."""
    index = np.arange(out, dtype=np.int64)
    return index * size // out, -(-(index + 1) * size // out)


def box_sums(x: Array, attrs: Any, dtype: Any) -> tuple[Array, tuple[int, int]]:
    """The sum over each pool window, and the output size; padding counts as 0."""
    image, out = pool_windows(x, attrs, 0)
    total = np.zeros((*x.shape[:2], *out), dtype)
    for _, _, view in taps(image, attrs["kernel"], attrs["stride"], (1, 1), out):
        total += view
    return total, out


def adaptive_sums(x: Array, output_size: tuple[int, int], dtype: Any) -> tuple[Array, Array]:
    """The sum over each adaptive window and its number of elements [oh, ow]."""
    (top, bottom), (left, right) = (
        adaptive_edges(x.shape[2], output_size[0]),
        adaptive_edges(x.shape[3], output_size[1]),
    )
    total = np.zeros((*x.shape[:2], *output_size), dtype)
    for i in range(output_size[0]):
        for j in range(output_size[1]):
            total[:, :, i, j] = x[:, :, top[i] : bottom[i], left[j] : right[j]].sum(axis=(2, 3), dtype=dtype)
    return total, np.multiply.outer(bottom - top, right - left)
