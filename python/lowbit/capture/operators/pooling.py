"""Pools over one, two and three axes. All are 2-d pools: a volume is pooled over its planes, then over its depth."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from ...graph import dims
from ...graph.ir import Attribute, Dim
from ..builder import Ref
from ..lowering import Lowering
from ..registry import Lowered, lowers
from .common import numbers

Plane = Callable[[Ref, tuple[int, ...]], Ref]
"""Pools an image over height and width, which are these axes of the whole."""
Window = Callable[[tuple[int, ...], Sequence[Dim]], dict[str, Any]]
"""A pool's attributes over height and width of these sizes, which are these axes of the whole (-1: none)."""


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


def _window(
    axes: int, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, dilation: Any = None, **attrs: Attribute
) -> Window:
    """A sliding pool's attributes."""
    sizes = {"kernel": numbers(kernel, axes), "stride": numbers(stride or kernel, axes)}
    if dilation is not None:
        sizes["dilation"] = numbers(dilation, axes)
    borders = numbers(padding, axes)

    def window(places: tuple[int, ...], _: Sequence[Dim]) -> dict[str, Attribute]:
        own = {name: tuple(1 if at < 0 else size[at] for at in places) for name, size in sizes.items()}
        frame = tuple(0 if at < 0 else borders[at] for at in places for _ in (0, 1))
        return {**own, "padding": frame, "ceil_mode": int(ceil_mode), **attrs}

    return window


def _pool(c: Lowering, op: str, x: Ref, axes: int, window: Window) -> Ref:
    def plane(image: Ref, places: tuple[int, ...]) -> Ref:
        own = window(places, image.shape[2:])
        moves = any(own[name] != (1, 1) for name in ("kernel", "stride")) or any(own["padding"])
        return c.emit(op, image, **own) if moves else image

    return _by_planes(c, x, axes, plane)


def _axes(c: Lowering) -> int:
    """Of an operation whose name says them: `max_pool3d`."""
    found = re.search(r"([123])d", str(c.node.target))
    assert found
    return int(found[1])


@lowers("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Ref:
    axes = _axes(c)
    return _pool(c, "max_pool2d", x, axes, _window(axes, kernel, stride, padding, ceil_mode, dilation))


@lowers("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool_with_indices(
    c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Lowered:
    axes = _axes(c)
    window = _window(axes, kernel, stride, padding, ceil_mode, dilation)
    if _indices_are_read(c):
        return _with_indices(c, "max_pool2d_with_indices", x, axes, window)
    return _pool(c, "max_pool2d", x, axes, window), None


def _indices_are_read(c: Lowering) -> bool:
    return any(user.target is operator.getitem and user.args[1] == 1 and user.users for user in c.node.users)


def _with_indices(c: Lowering, op: str, x: Ref, axes: int, window: Window) -> Lowered:
    """Maxima and their places. A volume is pooled over planes, then over depth, where the places are looked up."""
    shape = x.shape if x.rank == axes + 2 else (1, *x.shape)
    out = c.out_shape(0)
    if axes < 3:
        image, places = (shape, (0, 1)) if axes == 2 else ((*shape[:-1], 1, shape[-1]), (-1, 0))
        y, index = c.emit_all(op, c.reshape(x, image), **window(places, image[2:]))
        return c.reshape(y, out), c.reshape(index, out)
    n, channels, depth, height, width = shape
    planes = (n, dims.mul(channels, depth), height, width)
    y, index = c.emit_all(op, c.reshape(x, planes), **window((1, 2), planes[2:]))
    area = dims.mul(*y.shape[2:])
    columns = (n, channels, depth, area)
    y, deep = c.emit_all(op, c.reshape(y, columns), **window((0, -1), columns[2:]))
    flat = (n, channels, dims.mul(*deep.shape[2:]))
    deep = c.reshape(deep, flat)
    inside = c.emit("gather", c.reshape(index, (n, channels, dims.mul(depth, area))), deep, axis=2)
    level = c.emit("floor_div", deep, c.operand(area, "i64"))
    index = c.emit("add", c.emit("mul", level, c.operand(dims.mul(height, width), "i64")), inside)
    return c.reshape(y, out), c.reshape(index, out)


@lowers("max_unpool2d", "max_unpool3d")
def max_unpool(c: Lowering, x: Ref, indices: Ref, output_size: Any) -> Ref:
    """Places are counted over all axes at once, so a volume is an image of height depth."""
    axes, out = _axes(c), c.out_shape()
    *lead, height, width = x.shape if axes == 2 else (*x.shape[:-2], dims.mul(*x.shape[-2:]))
    image = (*(lead if len(lead) == 2 else (1, *lead)), height, width)
    size = out[-2:] if axes == 2 else (out[-3], dims.mul(*out[-2:]))
    y = c.emit("max_unpool2d", c.reshape(c.cast(x, "f32"), image), c.reshape(indices, image), output_size=size)
    return c.reshape(y, out)


@lowers("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool
) -> Ref:
    """A divisor of its own divides the mean of whole windows: what sticks out with ceil_mode is zeros."""
    axes, divisor = _axes(c), c.argument("divisor_override", None)
    if divisor is None:
        include = int(count_include_pad)
        window = _window(axes, kernel, stride, padding, ceil_mode, count_include_pad=include)
        return _pool(c, "avg_pool2d", x, axes, window)
    stride = stride or kernel
    if ceil_mode:
        x, kernel = _whole_windows(c, x, numbers(kernel, axes), numbers(stride, axes), numbers(padding, axes))
        padding = 0
    y = _pool(c, "avg_pool2d", x, axes, _window(axes, kernel, stride, padding, False, count_include_pad=1))
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


def _adaptive_window(axes: int, output_size: Any) -> Window:
    """An adaptive pool's attributes; None says in torch's modules that a size stays."""
    given = list(output_size) if isinstance(output_size, tuple | list) else [output_size]
    given = given * axes if len(given) == 1 else given

    def window(places: tuple[int, ...], here: Sequence[Dim]) -> dict[str, Any]:
        size = [None if at < 0 else given[at] for at in places]
        return {"output_size": tuple(old if new is None else new for new, old in zip(size, here, strict=True))}

    return window


def _adaptive(c: Lowering, op: str, x: Ref, axes: int, window: Window) -> Ref:
    """Where the size stays, nothing is pooled."""

    def plane(image: Ref, places: tuple[int, ...]) -> Ref:
        own = window(places, image.shape[2:])
        return image if own["output_size"] == image.shape[2:] else c.emit(op, image, **own)

    return _by_planes(c, x, axes, plane)


@lowers(
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"
)
def adaptive_avg_pool(c: Lowering, x: Ref, output_size: Any) -> Ref:
    axes = _axes(c)
    return _adaptive(c, "adaptive_avg_pool2d", x, axes, _adaptive_window(axes, output_size))


@lowers("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(c: Lowering, x: Ref, output_size: Any) -> Lowered:
    axes = _axes(c)
    window = _adaptive_window(axes, output_size)
    if _indices_are_read(c):
        return _with_indices(c, "adaptive_max_pool2d_with_indices", x, axes, window)
    return _adaptive(c, "adaptive_max_pool2d", x, axes, window), None
