"""Layers whose weights have four bits: codes 0 .. 15 with a half-float scale, and perhaps a zero point, for each group.

References follow cpp/kernels/gemm_i4/gemm_i4.h operation by operation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Array, Value, replace
from .integer import EPILOGUE_ATTRS, GEMM_INPUTS, epilogue, fma, infer_linear_i8
from .spec import Call, Op

F32 = np.float32


def _infer(call: Call) -> Sequence[Value]:
    call.fixed_shape(1, 2)
    return infer_linear_i8(call)


def _linear_i4(call: Call) -> Sequence[Array]:
    """t = fma(float(sum over a group of x * (q - z)), scale, t), group after group, from -x_zero_point * offset."""
    x, weight, zero_points = call.array(0), call.weight(1), call.optional(7)
    n, depth = weight.shape
    rows = x.reshape(-1, depth)
    groups = weight.scales.shape[1]
    zero = np.zeros((n, groups), np.int8) if weight.zero_points is None else weight.zero_points
    centred = weight.codes.reshape(n, groups, -1).astype(np.float64) - zero[:, :, None]
    scales = weight.scales.astype(F32)
    offset = np.zeros(n)
    for g in range(groups):
        offset += scales[:, g].astype(np.float64) * centred[:, g].sum(axis=1)
    x_zero = call.attrs["zero_point_x"] if zero_points is None else zero_points[:, None]
    t = -np.asarray(x_zero, F32) * offset.astype(F32)
    parts = rows.reshape(len(rows), groups, -1).astype(np.float64)
    for g in range(groups):
        t = fma((parts[:, g] @ centred[:, g].T).astype(F32), scales[:, g], t)
    return [epilogue(call, np.broadcast_to(t, (len(rows), n)), (-1,), (-1, 1)).reshape(*x.shape[:-1], n)]


_INPUTS = (GEMM_INPUTS[0], replace(GEMM_INPUTS[1], bits=4), *GEMM_INPUTS[2:])
OPS = (Op(name="linear_i4", inputs=_INPUTS, attrs=EPILOGUE_ATTRS, infer_rule=_infer, reference_rule=_linear_i4),)
