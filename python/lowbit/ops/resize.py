"""Interpolation of images and volumes: which inputs an output is made of, on each axis by itself, and their blend.

Indices and weights are float32 arithmetic in torch's order (aten/src/ATen/native/UpSample.h), so that where torch's
rounding puts an output between the same two inputs, this does too. The blend is exact in its order of operations:
codes may be blended as they are, since the weights of an output add up to 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..graph.ir import Array, Value, replace
from .call import Call
from .spec import FLAG, SIZE, SIZE_OR_NUMBER, Attr, Input, Op, choice, dim_list, integer, number
from .windows import at

F32 = np.float32
MODES = ("nearest", "nearest_exact", "linear", "cubic")
SCALE_LIMIT = 1e6


def _infer(call: Call) -> Sequence[Value]:
    sizes = call.attrs["size"]
    shape = call.shape(0, rank=2 + len(sizes))
    call.need(len(sizes) in (2, 3), f"size has {len(sizes)} items, must have 2 or 3")
    call.need(call.attrs["mode"] != "cubic" or len(sizes) == 2, "mode cubic is for images")
    scales = call.attrs.get("scales", sizes)
    call.need(len(scales) == len(sizes), f"scales has {len(scales)} items, size {len(sizes)}")
    for before, after in zip(shape[2:], sizes, strict=True):
        for size in (before, after):
            call.at_least(size, 1, f"cannot resize {before} elements to {after}")
    return [Value(dtype=call.value(0).dtype, shape=(*shape[:2], *sizes))]


def axis_scales(attrs: Mapping[str, Any], before: Sequence[int], after: Sequence[int]) -> list[float | None]:
    """For each axis the factor that counts in place of output / input size, or None.

    torch's nearest takes a size that stays or doubles for a factor of 1 or 2, whatever was asked for; but only in those
    of its kernels that serve small images, or channels that lie together. `snap` is the largest sum of output sizes.
    """
    scales: list[float | None] = list(attrs.get("scales", (None,) * len(after)))
    if attrs["mode"] != "nearest" or sum(after) > attrs["snap"]:
        return scales
    return [None if new in (old, 2 * old) else scale for scale, old, new in zip(scales, before, after, strict=True)]


def axis_taps(size: int, outputs: int, mode: str, align: bool, scale: float | None) -> tuple[Array, Array]:
    """For each output of one axis the inputs and their weights: int64 and float32 [outputs, taps]."""
    i = np.arange(outputs, dtype=F32)
    if size == outputs and (mode == "linear" or align or scale in (None, 1.0)):
        return np.arange(outputs)[:, None], np.ones((outputs, 1), F32)
    if align:
        step = F32(size - 1) / F32(outputs - 1) if outputs > 1 else F32(0)
    else:
        step = F32(1 / scale) if scale is not None else F32(size) / F32(outputs)
    real = step * i if mode == "nearest" or align else step * (i + F32(0.5)) - F32(0.5)
    if mode != "cubic":
        real = np.maximum(real, F32(0))
    floor = np.floor(real + F32(0.5) if mode == "nearest_exact" else real)
    first = np.minimum(np.minimum(floor, F32(2**31)).astype(np.int64), size - 1)
    part = np.clip(real - first.astype(F32), F32(0), F32(1))
    if mode.startswith("nearest"):
        return first[:, None], np.ones((outputs, 1), F32)
    if mode == "linear":
        return np.stack([first, np.minimum(first + 1, size - 1)], 1), np.stack([F32(1) - part, part], 1)
    index = np.clip(first[:, None] + np.arange(-1, 3), 0, size - 1)
    return index, cubic_weights(part)


def cubic_weights(part: Array) -> Array:
    """Keys' cubic, A = -0.75, for the four elements around a position, `part` behind the second: [..., 4]."""
    rest = F32(1) - part
    inner = [((F32(1.25) * x - F32(2.25)) * x) * x + F32(1) for x in (part, rest)]
    outer = [((F32(-0.75) * x + F32(3.75)) * x - F32(6)) * x + F32(3) for x in (part + F32(1), rest + F32(1))]
    return np.stack([outer[0], *inner, outer[1]], -1)


def _resize(call: Call) -> Sequence[Array]:
    x, attrs = call.array(0), call.attrs
    sizes, mode = attrs["size"], attrs["mode"]
    scales = axis_scales(attrs, x.shape[2:], sizes)
    call.need(min(*x.shape[2:], *sizes) >= 1, f"cannot resize {list(x.shape[2:])} to {list(sizes)}")
    tables = [
        axis_taps(before, after, mode, bool(attrs["align_corners"]), scale)
        for before, after, scale in zip(x.shape[2:], sizes, scales, strict=True)
    ]
    total: Any = None
    for taps in itertools.product(*(range(index.shape[1]) for index, _ in tables)):
        chosen = [index[:, k] for (index, _), k in zip(tables, taps, strict=True)]
        weights = [weight[:, k] for (_, weight), k in zip(tables, taps, strict=True)]
        picked = x[at(slice(None), slice(None), *np.ix_(*chosen))]
        if mode.startswith("nearest"):
            return [picked]
        factor = weights[0]
        for weight in weights[1:]:
            factor = factor[..., None] * weight
        product = factor * picked.astype(F32)
        total = product if total is None else total + product
    if x.dtype == np.uint8:
        return [np.rint(np.clip(total, F32(0), F32(255))).astype(np.uint8)]
    return [total]


def _infer_resample(call: Call) -> Sequence[Value]:
    shape, axis, size = list(call.shape(0, rank=4)), call.attrs["axis"], call.attrs["size"]
    for each in (shape[axis], size):
        call.at_least(each, 1, f"cannot resize {shape[axis]} elements to {size}")
    shape[axis] = size
    return [Value(dtype=call.value(0).dtype, shape=tuple(shape))]


def antialias_taps(size: int, outputs: int, mode: str, align: bool, scale: float | None) -> tuple[Array, Array, Array]:
    """For each output of one axis the first input, how many, and their weights: [outputs], [outputs], [outputs, taps].

    The window of the interpolation widens with the distance of the outputs, so that it sees every input
    (aten/src/ATen/native/cpu/UpSampleKernel.cpp); what of it lies outside is left out. A size that stays is left alone.
    """
    if align:
        step = F32(size - 1) / F32(outputs - 1) if outputs > 1 else F32(0)
    else:
        step = F32(1 / scale) if scale is not None and size != outputs else F32(size) / F32(outputs)
    reach = F32(1 if mode == "linear" else 2) * np.maximum(step, F32(1))
    narrow = F32(1) / np.maximum(step, F32(1))
    centre = step * (np.arange(outputs, dtype=F32) + F32(0.5))
    first = np.minimum(np.maximum(centre - reach + F32(0.5), F32(0)), F32(size)).astype(np.int64)
    last = np.minimum(centre + reach + F32(0.5), F32(size)).astype(np.int64)
    most = min(size, 2 * int(np.ceil(reach)) + 1)
    counts = np.clip(np.minimum(last, size) - first, 0, most)
    place = np.arange(most, dtype=F32)
    x = np.abs((place + (first.astype(F32) - centre)[:, None] + F32(0.5)) * narrow)
    if mode == "linear":
        weights = np.maximum(F32(1) - x, F32(0))
    else:  # Keys' cubic with A = -0.5
        near = (F32(1.5) * x - F32(2.5)) * x * x + F32(1)
        far = ((F32(-0.5) * x + F32(2.5)) * x - F32(4)) * x + F32(2)
        weights = np.where(x < 1, near, np.where(x < 2, far, F32(0)))
    weights = np.where(np.arange(most) < counts[:, None], weights, F32(0))
    total = np.cumsum(weights, axis=1, dtype=F32)[:, -1:]
    return first, counts, weights / np.where(total == 0, F32(1), total)


def _resample(call: Call) -> Sequence[Array]:
    x, attrs = call.array(0), call.attrs
    axis, outputs = attrs["axis"], attrs["size"]
    call.need(min(x.shape[axis], outputs) >= 1, f"cannot resize {x.shape[axis]} elements to {outputs}")
    align, scale = bool(attrs["align_corners"]), attrs.get("scale")
    first, counts, weights = antialias_taps(x.shape[axis], outputs, attrs["mode"], align, scale)
    aside = [-1 if place == axis else 1 for place in range(4)]
    total = np.zeros([outputs if place == axis else size for place, size in enumerate(x.shape)], F32)
    for k in range(weights.shape[1]):
        index = np.minimum(first + k, x.shape[axis] - 1)
        product = weights[:, k].reshape(aside) * np.take(x, index, axis).astype(F32)
        total = np.where((k < counts).reshape(aside), total + product if k else product, total)
    if x.dtype == np.uint8:
        return [np.rint(np.clip(total, F32(0), F32(255))).astype(np.uint8)]
    return [total]


OPS = (
    Op(
        name="resample",
        note="one axis, antialiased; scale, if given, stands for output / input size where the size changes",
        inputs=(Input(name="x", dtypes=("f32", "u8")),),
        attrs={
            "axis": integer(2, 3),
            "size": replace(SIZE_OR_NUMBER, minimum=1),
            "mode": choice("linear", "cubic"),
            "align_corners": FLAG,
            "scale": number(1 / SCALE_LIMIT, SCALE_LIMIT, optional=True),
        },
        infer_rule=_infer_resample,
        reference_rule=_resample,
    ),
    Op(
        name="resize",
        note=(
            "the last 2 or 3 axes; scales stand for output / input size; snap: with nearest, if the output "
            "sizes add up to no more, scales do not count on an axis that stays or doubles"
        ),
        inputs=(Input(name="x", dtypes=("f32", "u8")),),
        attrs={
            "size": dim_list(minimum=1),
            "mode": choice(*MODES),
            "align_corners": FLAG,
            "scales": Attr(kind="floats", optional=True, minimum=1 / SCALE_LIMIT, maximum=SCALE_LIMIT),
            "snap": integer(0, SIZE, default=0),
        },
        infer_rule=_infer,
        reference_rule=_resize,
    ),
)
