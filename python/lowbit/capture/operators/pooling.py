"""Pools over one, two and three axes. All are 2-d pools: a volume is pooled over its planes, then over its depth."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from ... import dims
from ...ir import Dim
from ..lower import Lowered, Lowering, Ref, lowers
from .common import numbers

Plane = Callable[[Ref, tuple[int, ...]], Ref]
"""Pools an image over height and width, which are these axes of the whole."""


def _by_planes(c: Lowering, x: Ref, axes: int, plane: Plane) -> Ref:
    """A pool over the last `axes` axes, with or without a batch before the channels."""
    shape = x.shape if x.rank == axes + 2 else (1, *x.shape)
    out = c.out_shape(0 if isinstance(c.node.meta["val"], tuple | list) else None)
    if axes == 2:
        return c.reshape(plane(c.reshape(x, shape), (0, 1)), out)
    if axes == 1:
        return c.reshape(plane(c.reshape(x, (*shape[:-1], 1, shape[-1])), (-1, 0)), out)
    n, channels, depth, height, width = shape
    y = plane(c.reshape(x, (n, dims.mul(channels, depth), height, width)), (1, 2))
    y = plane(c.reshape(y, (n, channels, depth, dims.mul(*y.shape[2:]))), (0, -1))
    return c.reshape(y, out)


def _pool(
    c: Lowering,
    op: str,
    x: Ref,
    axes: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    dilation: Any = None,
    **attrs: Any,
) -> Ref:
    sizes = {"kernel": numbers(kernel, axes), "stride": numbers(stride or kernel, axes)}
    if dilation is not None:
        sizes["dilation"] = numbers(dilation, axes)
    borders = numbers(padding, axes)

    def plane(image: Ref, places: tuple[int, ...]) -> Ref:
        own = {name: tuple(1 if at < 0 else size[at] for at in places) for name, size in sizes.items()}
        frame = tuple(0 if at < 0 else borders[at] for at in places for _ in (0, 1))
        if all(size == (1, 1) for name, size in own.items() if name != "dilation") and not any(frame):
            return image
        return c.emit(op, image, **own, padding=frame, ceil_mode=int(ceil_mode), **attrs)

    return _by_planes(c, x, axes, plane)


def _axes(c: Lowering) -> int:
    """Of an operation whose name says them: `max_pool3d`."""
    found = re.search(r"([123])d", str(c.node.target))
    assert found
    return int(found[1])


@lowers("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Ref:
    return _pool(c, "max_pool2d", x, _axes(c), kernel, stride, padding, ceil_mode, dilation)


@lowers("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool_with_indices(
    c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Lowered:
    return _pool(c, "max_pool2d", x, _axes(c), kernel, stride, padding, ceil_mode, dilation), None


@lowers("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool
) -> Ref:
    """A divisor of its own divides the mean of whole windows: what sticks out with ceil_mode is zeros."""
    axes, divisor = _axes(c), c.argument("divisor_override", None)
    if divisor is None:
        include = int(count_include_pad)
        return _pool(c, "avg_pool2d", x, axes, kernel, stride, padding, ceil_mode, count_include_pad=include)
    stride = stride or kernel
    if ceil_mode:
        x, kernel = _whole_windows(c, x, numbers(kernel, axes), numbers(stride, axes), numbers(padding, axes))
        padding = 0
    y = _pool(c, "avg_pool2d", x, axes, kernel, stride, padding, False, count_include_pad=1)
    count = math.prod(numbers(kernel, axes))
    return y if count == divisor else c.emit("mul", y, c.constant(count / float(divisor)))


def _whole_windows(
    c: Lowering, x: Ref, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[Ref, tuple[int, ...]]:
    """x with zeros around it, so that ceil_mode's windows lie in it; and the kernel, no larger than that needs."""
    axes = len(kernel)
    frame: list[Dim] = [0] * (2 * (x.rank - axes))
    fitting = list(kernel)
    for axis, (size, out) in enumerate(zip(x.shape[-axes:], c.out_shape()[-axes:], strict=True)):
        begin = padding[axis]
        if isinstance(size, int):
            fitting[axis] = min(kernel[axis], size + 2 * begin)
        reach = dims.add(dims.mul(dims.sub(out, 1), stride[axis]), fitting[axis])
        frame += [begin, dims.maximum(dims.sub(reach, dims.add(size, begin)), 0)]
    return c.emit("pad", x, padding=tuple(frame)), tuple(fitting)


def _adaptive(c: Lowering, op: str, x: Ref, axes: int, output_size: Any) -> Ref:
    """Where the size stays, nothing is pooled; None says so in torch's modules."""
    given = list(output_size) if isinstance(output_size, tuple | list) else [output_size]
    given = given * axes if len(given) == 1 else given

    def plane(image: Ref, places: tuple[int, ...]) -> Ref:
        here = image.shape[2:]
        size: tuple[Dim, ...] = tuple(old if at < 0 else given[at] for at, old in zip(places, here, strict=True))
        size = tuple(old if new is None else new for new, old in zip(size, here, strict=True))
        return image if size == here else c.emit(op, image, output_size=size)

    return _by_planes(c, x, axes, plane)


@lowers(
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"
)
def adaptive_avg_pool(c: Lowering, x: Ref, output_size: Any) -> Ref:
    return _adaptive(c, "adaptive_avg_pool2d", x, _axes(c), output_size)


@lowers("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(c: Lowering, x: Ref, output_size: Any) -> Lowered:
    return _adaptive(c, "adaptive_max_pool2d", x, _axes(c), output_size), None
