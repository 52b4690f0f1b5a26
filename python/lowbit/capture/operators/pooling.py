"""Pools."""

from __future__ import annotations

from typing import Any

from ..lower import Lowered, Lowering, Ref, Unlowerable, lowers
from .common import frame, images, pair


def _pool(
    c: Lowering,
    op: str,
    x: Ref,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    **attrs: Any,
) -> Ref:
    batch = images(c, x)
    y = c.emit(
        op,
        batch,
        kernel=pair(kernel),
        stride=pair(stride or kernel),
        padding=frame(padding),
        ceil_mode=int(ceil_mode),
        **attrs,
    )
    return y if batch is x else c.reshape(y, y.shape[1:])


@lowers("max_pool2d")
def max_pool2d(c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Ref:
    return _pool(c, "max_pool2d", x, kernel, stride, padding, ceil_mode, dilation=pair(dilation))


@lowers("max_pool2d_with_indices")
def max_pool2d_with_indices(
    c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Lowered:
    return max_pool2d(c, x, kernel, stride, padding, dilation, ceil_mode), None


@lowers("avg_pool2d")
def avg_pool2d(
    c: Lowering,
    x: Ref,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Ref:
    if divisor is not None:
        raise Unlowerable("average pooling with a divisor of its own", "multiply the pooled result by a constant")
    return _pool(c, "avg_pool2d", x, kernel, stride, padding, ceil_mode, count_include_pad=int(count_include_pad))


def _row(value: Any) -> tuple[int, int]:
    """The 1-d window as one over an image of height 1."""
    return (1, pair(value)[0])


@lowers("max_pool1d")
def max_pool1d(c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Ref:
    flat = c.reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    frame, dilation = (0, pair(padding)[0]), (1, pair(dilation)[0])
    y = _pool(c, "max_pool2d", flat, _row(kernel), _row(stride or kernel), frame, ceil_mode, dilation=dilation)
    return c.reshape(y)


@lowers("avg_pool1d")
def avg_pool1d(
    c: Lowering, x: Ref, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool
) -> Ref:
    flat = c.reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    frame, include = (0, pair(padding)[0]), int(count_include_pad)
    y = _pool(c, "avg_pool2d", flat, _row(kernel), _row(stride or kernel), frame, ceil_mode, count_include_pad=include)
    return c.reshape(y)


@lowers("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def adaptive_avg_pool2d(c: Lowering, x: Ref, output_size: Any) -> Ref:
    if any(isinstance(size, str) for size in output_size):
        raise Unlowerable("adaptive pooling to a size that is free")
    return c.reshape(c.emit("adaptive_avg_pool2d", images(c, x), output_size=pair(output_size)))


@lowers("adaptive_avg_pool1d")
def adaptive_avg_pool1d(c: Lowering, x: Ref, output_size: Any) -> Ref:
    flat = c.reshape(x, (*((1,) if x.rank == 2 else ()), *x.shape[:-1], 1, x.shape[-1]))
    return c.reshape(c.emit("adaptive_avg_pool2d", flat, output_size=_row(output_size)))
