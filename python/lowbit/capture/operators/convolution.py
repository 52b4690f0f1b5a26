"""Convolutions."""

from __future__ import annotations

from typing import Any

from ..lower import Lowering, Ref, Unlowerable, lowers
from .common import frame, images, pair


@lowers("conv2d")
def conv2d(
    c: Lowering, x: Ref, weight: Ref, bias: Ref | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Ref:
    c.array(weight, "the weight")
    attrs: dict[str, Any] = {"stride": pair(stride), "dilation": pair(dilation), "groups": int(groups)}
    y = c.emit("conv2d", images(c, x), weight, bias, padding=_conv_padding(weight, padding, dilation), **attrs)
    return c.reshape(y)


def _conv_padding(weight: Ref, padding: Any, dilation: Any) -> tuple[int, ...]:
    """Four numbers; "same" puts the odd one at the end, as torch does."""
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        totals = [d * (int(k) - 1) for d, k in zip(pair(dilation), weight.shape[2:], strict=True)]
        return tuple(side for total in totals for side in (total // 2, total - total // 2))
    return frame(padding)


@lowers("conv1d")
def conv1d(
    c: Lowering, x: Ref, weight: Ref, bias: Ref | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Ref:
    """A 2-d convolution over an image of height 1."""
    flat = c.reshape(x, (*((1,) if x.rank == 2 else ()), *x.shape[:-1], 1, x.shape[-1]))
    kernel = c.constant(c.array(weight, "the weight")[:, :, None, :], f"{weight.name}.2d")
    s, d = pair(stride)[1], pair(dilation)[1]
    frame = (0, 0, *_conv_padding(kernel, padding if isinstance(padding, str) else (0, pair(padding)[1]), (1, d))[2:])
    return c.reshape(
        c.emit("conv2d", flat, kernel, bias, stride=(1, s), padding=frame, dilation=(1, d), groups=int(groups))
    )


@lowers("convolution", "_convolution")
def convolution(
    c: Lowering,
    x: Ref,
    weight: Ref,
    bias: Ref | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Ref:
    if transposed:
        raise Unlowerable("lowbit has no transposed convolution")
    if weight.rank not in (3, 4):
        raise Unlowerable(f"lowbit has no convolution over {weight.rank - 2} axes")
    function = conv2d if weight.rank == 4 else conv1d
    return function(c, x, weight, bias, stride, padding, dilation, groups)
