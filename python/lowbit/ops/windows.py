"""What convolutions and pools share: the geometry of sliding windows, and the correlation of both number systems."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..graph import dims
from ..graph.ir import Array, Dim
from .call import Call
from .spec import FLAG, Attr, integer, integers

EXTENT = 2**15 - 1
MAX_WINDOW = 2**23
"""Elements of a pool's window: its sum of codes stays exact."""
MAX_PHASES = 4096
"""Product of a transposed convolution's strides: it runs as that many convolutions."""


def conv_attrs(axes: int, *, transposed: bool = False) -> dict[str, Attr]:
    """The attributes of a convolution over so many axes. padding: begin and end of each axis."""
    attrs = {
        "stride": integers(axes, 1, EXTENT, default=(1,) * axes),
        "padding": integers(2 * axes, 0, EXTENT, default=(0,) * (2 * axes)),
        "dilation": integers(axes, 1, EXTENT, default=(1,) * axes),
        "groups": integer(1, default=1),
    }
    if transposed:
        attrs["output_padding"] = integers(axes, 0, EXTENT, default=(0,) * axes)
    return attrs


CONV_ATTRS = conv_attrs(2)
POOL_ATTRS: dict[str, Attr] = {
    "kernel": integers(2, 1, EXTENT),
    "stride": integers(2, 1, EXTENT),
    "padding": integers(4, 0, EXTENT, default=(0, 0, 0, 0)),
    "ceil_mode": FLAG,
}
"""padding: top, bottom, left, right."""


def conv_shape(call: Call, weight: Sequence[int] | None = None) -> tuple[Dim, ...]:
    """The output shape of a convolution of input 0 [N, Ci, H, W] with `weight` [Co, Ci / groups, kh, kw], or input 1.

    With attribute output_padding it is a transposed one: an output is spread from each input, stride apart.
    """
    axes = range(len(call.attrs["stride"]))
    n, channels, *size = call.shape(0, rank=2 + len(axes))
    filters, depth, *kernel = call.fixed_shape(1, rank=2 + len(axes)) if weight is None else weight
    groups = call.attrs["groups"]
    call.need(min(filters, depth, *kernel) >= 1, "the weight is empty")
    call.same(channels, depth * groups, "input channels and weight do not fit")
    call.need(filters % groups == 0, f"{filters} output channels do not divide into {groups} groups")
    if "output_padding" in call.attrs:
        return (n, filters, *(_transposed_out(call, axis, size[axis], kernel[axis]) for axis in axes))
    return (n, filters, *(_out(call, axis, size[axis], kernel[axis], call.attrs["dilation"][axis]) for axis in axes))


def _transposed_out(call: Call, axis: int, size: Dim, kernel: int) -> Dim:
    """(size - 1) * stride + dilation * (kernel - 1) + 1 - padding + output_padding"""
    attrs = call.attrs
    stride, dilation, extra = (attrs[name][axis] for name in ("stride", "dilation", "output_padding"))
    call.need(math.prod(attrs["stride"]) <= MAX_PHASES, f"the strides {list(attrs['stride'])} are too large")
    call.need(extra < max(stride, dilation), f"output_padding {extra} must be below the stride or the dilation")
    call.need(dims.bounds(size, call.symbols)[1] >= 1, "the image is empty")
    rest = dilation * (kernel - 1) + 1 - sum(attrs["padding"][2 * axis : 2 * axis + 2]) + extra
    out = dims.add(dims.mul(dims.sub(size, 1), stride), rest)
    call.at_least(out, 1, f"the padding leaves nothing of an input of {size}")
    return out


def pool_shape(call: Call) -> tuple[Dim, ...]:
    """The output shape of a pool of input 0 [N, C, H, W]."""
    n, channels, *size = call.shape(0, rank=4)
    kernel, dilation = call.attrs["kernel"], call.attrs.get("dilation", (1, 1))
    most = [dims.bounds(whole, call.symbols)[1] for whole in size]
    call.need(math.prod(fitted(call.attrs, most)) < MAX_WINDOW, "a window has too many elements")
    out = [_out(call, axis, size[axis], kernel[axis], dilation[axis], pool=True) for axis in (0, 1)]
    return (n, channels, *out)


def _out(call: Call, axis: int, size: Dim, kernel: int, dilation: int, pool: bool = False) -> Dim:
    begin, end = call.attrs["padding"][2 * axis : 2 * axis + 2]
    stride, reach = call.attrs["stride"][axis], dilation * (kernel - 1)
    call.need(
        not pool or max(begin, end) <= reach, f"padding {max(begin, end)} is wider than the window lets it be ({reach})"
    )
    room = dims.add(size, begin + end - reach - 1)
    ceil_mode = call.attrs.get("ceil_mode", 0)
    call.at_least(
        room,
        1 - stride if ceil_mode else 0,
        f"a window of {reach + 1} does not fit into {size} with padding {begin} + {end}",
    )
    if not ceil_mode:
        return dims.add(dims.floordiv(room, stride), 1)
    # The last window must start inside the input or the padding before it.
    starts = dims.floordiv(dims.add(size, begin - 1), stride)
    return dims.add(dims.minimum(dims.floordiv(dims.add(room, stride - 1), stride), starts), 1)


def pad_image(x: Array, padding: Sequence[int], value: Any) -> Array:
    """[N, C, ...] with a frame: begin and end of each axis."""
    if not any(padding):
        return x
    sides = list(zip(padding[::2], padding[1::2], strict=True))
    return np.pad(x, ((0, 0), (0, 0), *sides), constant_values=value)


def at(*items: Any) -> Any:
    """An index of as many axes."""
    return items


def taps(
    x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """For each kernel position the view [..., oh, ow] of what it meets in a padded image."""
    for position in itertools.product(*map(range, kernel)):
        starts = [i * d for i, d in zip(position, dilation, strict=True)]
        view = (slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, out, stride, strict=True))
        yield position, x[at(..., *view)]


def out_size(size: Sequence[int], attrs: Any, kernel: Sequence[int]) -> tuple[int, ...]:
    """Output sizes of a convolution, for numbers."""
    padding, stride, dilation = attrs["padding"], attrs["stride"], attrs["dilation"]
    axes = range(len(kernel))
    room = [size[a] + sum(padding[2 * a : 2 * a + 2]) - dilation[a] * (kernel[a] - 1) - 1 for a in axes]
    return tuple(room[a] // stride[a] + 1 for a in axes)


def spread(x: Array, attrs: Any, kernel: Sequence[int]) -> tuple[Array, dict[str, Any]]:
    """An image with zeros between its pixels and around them, and attributes: a transposed convolution of `x` is the
    ordinary one of that image with these attributes and the weight flipped."""
    stride, dilation, padding = attrs["stride"], attrs["dilation"], attrs["padding"]
    axes = range(len(kernel))
    wide = np.zeros((*x.shape[:2], *(max((x.shape[2 + a] - 1) * stride[a] + 1, 0) for a in axes)), x.dtype)
    wide[at(..., *(slice(None, None, step) for step in stride))] = x
    reach = [dilation[a] * (kernel[a] - 1) for a in axes]
    begin = [padding[2 * a] - reach[a] for a in axes]
    ends = [reach[a] - padding[2 * a + 1] + attrs["output_padding"][a] for a in axes]
    end = [(x.shape[2 + a] - 1) * stride[a] + 1 + ends[a] for a in axes]
    # Of [begin, end), padding may leave some that `wide` has, none, or a part beyond it.
    image = np.zeros((*x.shape[:2], *(end[a] - begin[a] for a in axes)), x.dtype)
    first = [min(max(begin[a], 0), wide.shape[2 + a]) for a in axes]
    last = [min(max(end[a], first[a]), wide.shape[2 + a]) for a in axes]
    if all(first[a] < last[a] for a in axes):
        inside = (slice(first[a] - begin[a], last[a] - begin[a]) for a in axes)
        image[at(..., *inside)] = wide[at(..., *(slice(first[a], last[a]) for a in axes))]
    ones = (1,) * len(kernel)
    return image, {"stride": ones, "padding": (0,) * len(padding), "dilation": dilation, "groups": attrs["groups"]}


def correlate(x: Array, w: Array, attrs: Any, dtype: Any) -> Array:
    """sum x * w over a window, zero-padded: [N, Co, oh, ow] in `dtype`, whose precision must hold every partial sum."""
    if "output_padding" in attrs:
        x, attrs = spread(x, attrs, w.shape[2:])
        w = np.flip(w, tuple(range(2, w.ndim)))
    n, channels = x.shape[:2]
    filters, _, *kernel = w.shape
    groups, stride, dilation = attrs["groups"], attrs["stride"], attrs["dilation"]
    out = out_size(x.shape[2:], attrs, kernel)
    y = np.zeros((n, filters, *out), dtype)
    if y.size == 0:
        return y
    depthwise = groups == channels == filters
    matrix = w.reshape(groups, filters // groups, -1).astype(dtype)
    for sample in range(n):  # one at a time bounds the memory
        image = pad_image(x[sample : sample + 1], attrs["padding"], 0)[0]
        if depthwise:
            for position, view in taps(image, kernel, stride, dilation, out):
                factors = w[at(slice(None), 0, *position)].astype(dtype)
                y[sample] += view.astype(dtype) * factors.reshape(-1, *(1,) * len(kernel))
            continue
        columns = np.empty((channels, *kernel, *out), dtype)
        for position, view in taps(image, kernel, stride, dilation, out):
            columns[at(slice(None), *position)] = view
        y[sample] = (matrix @ columns.reshape(groups, -1, math.prod(out))).reshape(filters, *out)
    return y


def fitted(attrs: Any, size: Sequence[int]) -> tuple[int, ...]:
    """A pool's kernel. An image with its padding may be smaller than a window, with ceil_mode: what it cuts off."""
    kernel, padding, dilation = attrs["kernel"], attrs["padding"], attrs.get("dilation", (1, 1))
    whole = [size[a] + sum(padding[2 * a : 2 * a + 2]) for a in (0, 1)]
    return tuple(max(min(kernel[a], (whole[a] - 1) // dilation[a] + 1), 1) for a in (0, 1))


def pool_windows(x: Array, attrs: Any, fill: Any) -> Iterator[Array]:
    """For each position in a pool's window what it meets, [N, C, oh, ow]; `fill` beyond the image."""
    stride, padding, dilation = attrs["stride"], attrs["padding"], attrs.get("dilation", (1, 1))
    kernel = fitted(attrs, x.shape[2:])
    sizes, frame = pool_size(x, attrs), list(padding)
    for a in (0, 1):
        begin, end = padding[2 * a : 2 * a + 2]
        reach = dilation[a] * (kernel[a] - 1)
        frame[2 * a + 1] = max(end, (sizes[a] - 1) * stride[a] + reach + 1 - begin - x.shape[2 + a])
    return (view for _, view in taps(pad_image(x, tuple(frame), fill), kernel, stride, dilation, sizes))


def pool_size(x: Array, attrs: Any) -> tuple[int, int]:
    """Height and width of a pool's output."""
    sizes, dilation = [], attrs.get("dilation", (1, 1))
    for a in (0, 1):
        begin, end = attrs["padding"][2 * a : 2 * a + 2]
        stride, size = attrs["stride"][a], x.shape[2 + a]
        room = size + begin + end - dilation[a] * (attrs["kernel"][a] - 1) - 1
        ceil_mode = attrs["ceil_mode"]
        sizes.append(1 + (min(-(-room // stride), (size + begin - 1) // stride) if ceil_mode else room // stride))
    return sizes[0], sizes[1]


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
    out = pool_size(x, attrs)
    total = np.zeros((*x.shape[:2], *out), dtype)
    for view in pool_windows(x, attrs, 0):
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


def adaptive_maxima(x: Array, output_size: tuple[int, int]) -> Array:
    """The largest element of each adaptive window."""
    (top, bottom), (left, right) = (adaptive_edges(x.shape[2 + a], output_size[a]) for a in (0, 1))
    best = np.empty((*x.shape[:2], *output_size), x.dtype)
    for i in range(output_size[0]):
        for j in range(output_size[1]):
            best[:, :, i, j] = x[:, :, top[i] : bottom[i], left[j] : right[j]].max(axis=(2, 3))
    return best
