"""Interpolation."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Dim
from ..lower import Lowering, Ref, Unlowerable, lowers

_MODES = {
    "upsample_nearest": "nearest",
    "_upsample_nearest_exact": "nearest_exact",
    "upsample_linear": "linear",
    "upsample_bilinear": "linear",
    "upsample_trilinear": "linear",
    "upsample_bicubic": "cubic",
}
"""By the operation's name without its number of axes."""


@lowers(*(f"{name}{axes}d" for name in _MODES for axes in (1, 2, 3)))
def resize(c: Lowering, x: Ref) -> Ref:
    """torch says the size; over one axis it is an image of height 1."""
    name = str(c.node.target).removeprefix("aten.").partition(".")[0]
    align = bool(c.argument("align_corners", False))
    scales = _scales(c)
    size: tuple[Dim, ...] = c.out_shape()[2:]
    image = c.operand(x, "f32")
    if x.rank == 3:
        image, size = c.reshape(image, (*x.shape[:2], 1, x.shape[2])), (1, *size)
        scales = scales and (1.0, *scales)
    mode = _MODES[name[:-2]]
    return c.reshape(c.emit("resize", image, size=size, mode=mode, align_corners=int(align), scales=scales))


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
    raise Unlowerable("interpolation with antialias", "resize without antialias, or before the converted module")
