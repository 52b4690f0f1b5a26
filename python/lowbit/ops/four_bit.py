"""Layers whose weights have four bits: codes 0 .. 15 with a half-float scale, and perhaps a zero point, for each group.

References follow cpp/kernels/gemm_i4/gemm_i4.h operation by operation. A linear weight is [N, K]; a convolution's is
[N, kh, kw, channels], so that groups of adjacent weights are groups of adjacent inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..graph.ir import Array, Value, replace
from .indexing import check_indices
from .integer import EPILOGUE_ATTRS, GEMM_INPUTS, epilogue, fma, infer_epilogue, infer_linear_i8
from .spec import Call, Input, Op, integer
from .windows import conv_attrs, conv_shape, out_size, pad_image, taps

F32 = np.float32


def _infer_linear(call: Call) -> Sequence[Value]:
    call.fixed_shape(1, 2)
    return infer_linear_i8(call)


def _infer_conv(call: Call) -> Sequence[Value]:
    filters, *kernel, depth = call.fixed_shape(1, 4)
    shape = conv_shape(call, (filters, depth, *kernel))
    return infer_epilogue(call, shape, shape[0], 1)


def _sums(call: Call, rows: Array, x_zero: Any) -> Array:
    """Of rows [R, K] with x_zero, one or [R, 1]: t = fma(float(sum over a group of x * (q - z)), scale, t) [R, N],
    group after group, from -x_zero * offset."""
    weight = call.weight(1)
    n, groups = weight.scales.shape
    zero = np.zeros((n, groups), np.int8) if weight.zero_points is None else weight.zero_points
    centred = weight.codes.reshape(n, groups, -1).astype(np.float64) - zero[:, :, None]
    scales = weight.scales.astype(F32)
    offset = np.zeros(n)
    for g in range(groups):
        offset += scales[:, g].astype(np.float64) * centred[:, g].sum(axis=1)
    t = -np.asarray(x_zero, F32) * offset.astype(F32)
    parts = rows.reshape(len(rows), groups, weight.group_size).astype(np.float64)
    for g in range(groups):
        t = fma((parts[:, g] @ centred[:, g].T).astype(F32), scales[:, g], t)
    return np.broadcast_to(t, (len(rows), n))


def _linear_i4(call: Call) -> Sequence[Array]:
    x, zero_points = call.array(0), call.optional(7)
    n, depth = call.weight(1).shape
    zero: Any = call.attrs["zero_point_x"] if zero_points is None else zero_points[:, None]
    t = _sums(call, x.reshape(-1, depth), zero)
    return [epilogue(call, t, (-1,), (-1, 1)).reshape(*x.shape[:-1], n)]


def _conv_i4(call: Call) -> Sequence[Array]:
    """Sample by sample, with a row of what each output pixel meets, padding as zero points."""
    x, attrs, zero_points = call.array(0), call.attrs, call.optional(7)
    n, *kernel, depth = call.weight(1).shape
    out = out_size(x.shape[2:], attrs, kernel)
    t = np.empty((len(x), n, *out), F32)
    for sample in range(len(x)):
        zero = attrs["zero_point_x"] if zero_points is None else zero_points[sample]
        image = pad_image(x[sample : sample + 1], attrs["padding"], zero)[0]
        columns = np.empty((*kernel, depth, *out), np.uint8)
        for position, view in taps(image, kernel, attrs["stride"], attrs["dilation"], out):
            columns[position] = view
        t[sample] = _sums(call, columns.reshape(-1, math.prod(out)).T, zero).T.reshape(n, *out)
    return [epilogue(call, t, (-1, 1, 1), (-1, 1, 1, 1))]


def _infer_embedding(call: Call) -> Sequence[Value]:
    _, width = call.fixed_shape(1, 2)
    return [Value(dtype="f32", shape=(*call.shape(0), width))]


def _embedding_i4(call: Call) -> Sequence[Array]:
    """Rows of real numbers; a code times a half-float is exact in float32."""
    weight = call.weight(1)
    rows = check_indices(call, call.array(0), 0, weight.shape[0])
    groups = weight.codes[rows].astype(np.int16).reshape(*weight.scales[rows].shape, weight.group_size)
    if weight.zero_points is not None:
        groups = groups - weight.zero_points[rows][..., None]
    return [(groups.astype(F32) * weight.scales[rows].astype(F32)[..., None]).reshape(*rows.shape, weight.shape[1])]


_INPUTS = (GEMM_INPUTS[0], replace(GEMM_INPUTS[1], bits=4), *GEMM_INPUTS[2:])
OPS = (
    Op(name="linear_i4", inputs=_INPUTS, attrs=EPILOGUE_ATTRS, infer_rule=_infer_linear, reference_rule=_linear_i4),
    Op(
        name="conv2d_i4",
        inputs=_INPUTS,
        attrs={**conv_attrs(2), "groups": integer(1, 1, default=1), **EPILOGUE_ATTRS},
        infer_rule=_infer_conv,
        reference_rule=_conv_i4,
    ),
    Op(
        name="embedding_i4",
        inputs=(Input(name="indices", dtypes=("i64", "i32")), _INPUTS[1]),
        infer_rule=_infer_embedding,
        reference_rule=_embedding_i4,
    ),
)
