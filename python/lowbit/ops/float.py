"""Float32 operators. The references sum in float64 and round once, so they bound a session's float error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..graph.ir import Array, Dim, Value
from .call import Call, reduced_axes
from .spec import FLAG, OPTIONAL_NUMBER, SIZE, Input, Op, choice, dim_list, integer, integers
from .windows import (
    CONV_ATTRS,
    POOL_ATTRS,
    adaptive_maxima,
    adaptive_sums,
    average_counts,
    box_sums,
    conv_attrs,
    conv_shape,
    correlate,
    pool_shape,
    pool_size,
    pool_windows,
)

F32, F64 = np.float32, np.float64
BOUNDS = {"activation_min": OPTIONAL_NUMBER, "activation_max": OPTIONAL_NUMBER}


def clamp(x: Array, attrs: Any, low: str, high: str) -> Array:
    """x within the bounds that are present; NaN stays NaN."""
    if low in attrs:
        x = np.maximum(x, F32(attrs[low]))
    if high in attrs:
        x = np.minimum(x, F32(attrs[high]))
    return x


# ---------------------------------------------------------------------------------------------- convolution and linear


def _finish(call: Call, total: Array, channel_shape: tuple[int, ...]) -> Sequence[Array]:
    """clamp(total + bias + residual) as float32."""
    bias, residual = call.optional(2), call.optional(3)
    if bias is not None:
        total = total + bias.reshape(channel_shape)
    if residual is not None:
        total = total + residual
    return [clamp(total.astype(F32), call.attrs, "activation_min", "activation_max")]


def _infer_conv(call: Call) -> Sequence[Value]:
    shape = conv_shape(call)
    call.match(2, shape[1:2])
    call.match(3, shape)
    return [Value(dtype="f32", shape=shape)]


def _conv(call: Call) -> Sequence[Array]:
    axes = call.array(1).ndim - 2
    return _finish(call, correlate(call.array(0), call.array(1), call.attrs, F64), (-1, *(1,) * axes))


def linear_shape(call: Call) -> tuple[Dim, ...]:
    """The output shape of input 0 [..., K] times input 1 [N, K]."""
    *rows, depth = call.shape(0) or (0,)
    call.need(len(call.shape(0)) >= 1, "input 0 must have at least one axis")
    outputs, inputs = call.fixed_shape(1, rank=2)
    call.need(min(outputs, inputs) >= 1, "the weight is empty")
    call.same(depth, inputs, "input features and weight do not fit")
    return (*rows, outputs)


def _infer_linear(call: Call) -> Sequence[Value]:
    shape = linear_shape(call)
    call.match(2, shape[-1:])
    call.match(3, shape)
    return [Value(dtype="f32", shape=shape)]


def _linear(call: Call) -> Sequence[Array]:
    return _finish(call, call.array(0).astype(F64) @ call.array(1).astype(F64).T, (-1,))


# --------------------------------------------------------------------------------------------------------- elementwise


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


_erf = np.vectorize(math.erf, otypes=[F64])
_erfc = np.vectorize(math.erfc, otypes=[F64])
_ROOT_2_OVER_PI = math.sqrt(2 / math.pi)

UNARY: dict[str, Callable[[Array, Callable[[str, float], float]], Array]] = {
    "relu": lambda x, a: np.where(x < 0, 0, x),
    "relu6": lambda x, a: np.where(x < 0, 0, np.minimum(x, 6)),
    "sigmoid": lambda x, a: sigmoid(x),
    "tanh": lambda x, a: np.tanh(x),
    "hardtanh": lambda x, a: np.minimum(np.maximum(x, a("min", -1.0)), a("max", 1.0)),
    "hardsigmoid": lambda x, a: np.minimum(np.maximum(x + 3, 0), 6) / 6,
    "hardswish": lambda x, a: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
    "silu": lambda x, a: x * sigmoid(x),
    "gelu": lambda x, a: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "fast_gelu": lambda x, a: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x, a: 0.5 * x * (1 + np.tanh(_ROOT_2_OVER_PI * (x + 0.044715 * x * x * x))),
    "elu": lambda x, a: np.where(x > 0, x, a("alpha", 1.0) * np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x, a: np.where(x > 0, x, a("alpha", 0.01) * x),
    "softplus": lambda x, a: _softplus(x * a("alpha", 1.0)) / a("alpha", 1.0),
    "mish": lambda x, a: x * np.tanh(_softplus(x)),
    "exp": lambda x, a: np.exp(x),
    "log": lambda x, a: np.log(x),
    "sqrt": lambda x, a: np.sqrt(x),
    "rsqrt": lambda x, a: 1 / np.sqrt(x),
    "reciprocal": lambda x, a: 1 / x,
    "square": lambda x, a: np.square(x),
    "neg": lambda x, a: -x,
    "abs": lambda x, a: np.abs(x),
    "erf": lambda x, a: _erf(x),
    "exp2": lambda x, a: np.exp2(x),
    "expm1": lambda x, a: np.expm1(x),
    "log2": lambda x, a: np.log2(x),
    "log1p": lambda x, a: np.log1p(x),
    "sin": lambda x, a: np.sin(x),
    "cos": lambda x, a: np.cos(x),
    "floor": lambda x, a: np.floor(x),
    "ceil": lambda x, a: np.ceil(x),
    "trunc": lambda x, a: np.trunc(x),
    "round": lambda x, a: np.rint(x),
    "sign": lambda x, a: np.where(np.isnan(x), 0, np.sign(x)),
    "atan": lambda x, a: np.arctan(x),
    "erfc": lambda x, a: _erfc(x),
}
"""kind -> f(x in float64, attribute with its default). alpha is elu's, leaky_relu's and softplus's (there: beta)."""


def unary(kind: str, x: Array, attrs: Any = None) -> Array:
    """float32 f(x), computed in float64: also what `lookup` tables are made of."""
    given = attrs or {}
    with np.errstate(all="ignore"):
        return UNARY[kind](x.astype(F64), lambda name, default: float(F32(given.get(name, default)))).astype(F32)


def _same(call: Call) -> Sequence[Value]:
    return [Value(dtype=call.value(0).dtype, shape=call.shape(0))]


# ------------------------------------------------------------------------------------------------ pools and reductions


def _infer_pool(call: Call) -> Sequence[Value]:
    return [Value(dtype=call.value(0).dtype, shape=pool_shape(call))]


def _max_pool2d(call: Call) -> Sequence[Array]:
    x = call.array(0)
    lowest: Any = -np.inf if x.dtype == F32 else 0
    best = np.full((*x.shape[:2], *pool_size(x, call.attrs)), lowest, x.dtype)
    for view in pool_windows(x, call.attrs, lowest):
        np.maximum(best, view, out=best)
    return [best]


def _avg_pool2d(call: Call) -> Sequence[Array]:
    total, out = box_sums(call.array(0), call.attrs, F64)
    return [(total / average_counts(call.array(0), call.attrs, out)).astype(F32)]


def infer_adaptive(call: Call) -> tuple[Dim, ...]:
    """The output shape of an adaptive pool of input 0 [N, C, H, W]."""
    *lead, height, width = call.shape(0, rank=4)
    for size in (height, width):
        call.at_least(size, 1, "the input is empty")
    for size in call.attrs["output_size"]:
        call.at_least(size, 1, "the output is empty")
    return (*lead, *call.attrs["output_size"])


def _adaptive_avg_pool2d(call: Call) -> Sequence[Array]:
    total, counts = adaptive_sums(call.array(0), call.attrs["output_size"], F64)
    return [(total / counts).astype(F32)]


def _infer_mean(call: Call) -> Sequence[Value]:
    shape = call.shape(0)
    axes = reduced_axes(call, len(shape))
    for axis in axes:
        if isinstance(shape[axis], str):
            call.at_least(shape[axis], 1, "the mean is over no elements")
    kept = [1 if axis in axes else size for axis, size in enumerate(shape) if call.attrs["keepdim"] or axis not in axes]
    return [Value(dtype="f32", shape=tuple(kept))]


def _mean(call: Call) -> Sequence[Array]:
    x = call.array(0)
    axes = reduced_axes(call, x.ndim)
    total = np.sum(x, axis=axes, dtype=F64, keepdims=bool(call.attrs["keepdim"]))
    with np.errstate(invalid="ignore"):  # 0 / 0 is the mean of no elements
        return [np.asarray(total / np.float64(math.prod(x.shape[axis] for axis in axes)), dtype=F32)]


def _infer_softmax(call: Call) -> Sequence[Value]:
    call.axis(len(call.shape(0)))
    return _same(call)


def _softmax(call: Call) -> Sequence[Array]:
    x, axis = call.array(0).astype(F64), call.attrs["axis"]
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return [(e / e.sum(axis=axis, keepdims=True)).astype(F32)]


_X = Input(name="x")
_CONV_INPUTS = (
    _X,
    Input(name="w", constant=True),
    Input(name="b", optional=True, constant=True),
    Input(name="residual", optional=True),
)


def _convolution(name: str, axes: int, *, note: str, transposed: bool = False) -> Op:
    attrs = {**conv_attrs(axes, transposed=transposed), **BOUNDS}
    return Op(name=name, note=note, inputs=_CONV_INPUTS, attrs=attrs, infer_rule=_infer_conv, reference_rule=_conv)


OPS = (
    _convolution(
        "conv2d", 2, note="w is [filters, channels of a group, height, width]; padding: top, bottom, left, right"
    ),
    _convolution("conv3d", 3, note="as `conv2d`, over depth, height and width"),
    _convolution(
        "conv_transpose2d",
        2,
        transposed=True,
        note="each input is spread over outputs a stride apart; w as of `conv2d`",
    ),
    _convolution("conv_transpose3d", 3, transposed=True, note="as `conv_transpose2d`, over depth, height and width"),
    Op(
        name="linear",
        note="x w^T + b + residual, between the bounds; w is [outputs, inputs]",
        inputs=_CONV_INPUTS,
        attrs=BOUNDS,
        infer_rule=_infer_linear,
        reference_rule=_linear,
    ),
    Op(
        name="unary",
        note="one function of each element; alpha, min and max are parameters of some",
        inputs=(_X,),
        attrs={"kind": choice(*UNARY), "alpha": OPTIONAL_NUMBER, "min": OPTIONAL_NUMBER, "max": OPTIONAL_NUMBER},
        infer_rule=_same,
        reference_rule=lambda call: [unary(call.attrs["kind"], call.array(0), call.attrs)],
    ),
    Op(
        name="clip",
        note="an absent bound is none",
        inputs=(_X,),
        attrs={"min": OPTIONAL_NUMBER, "max": OPTIONAL_NUMBER},
        infer_rule=_same,
        reference_rule=lambda call: [clamp(call.array(0), call.attrs, "min", "max")],
    ),
    Op(
        name="max_pool2d",
        note="the maximum of each window",
        inputs=(Input(name="x", dtypes=("f32", "u8")),),
        attrs={**POOL_ATTRS, "dilation": CONV_ATTRS["dilation"]},
        infer_rule=_infer_pool,
        reference_rule=_max_pool2d,
    ),
    Op(
        name="avg_pool2d",
        note="the mean of each window; count_include_pad: padding counts as elements",
        inputs=(_X,),
        attrs={**POOL_ATTRS, "count_include_pad": FLAG},
        infer_rule=_infer_pool,
        reference_rule=_avg_pool2d,
    ),
    Op(
        name="adaptive_avg_pool2d",
        note="windows that divide the image into output_size parts",
        inputs=(_X,),
        attrs={"output_size": dim_list(2, minimum=1)},
        infer_rule=lambda call: [Value(dtype="f32", shape=infer_adaptive(call))],
        reference_rule=_adaptive_avg_pool2d,
    ),
    Op(
        name="adaptive_max_pool2d",
        note="as `adaptive_avg_pool2d`, maxima",
        inputs=(Input(name="x", dtypes=("f32", "u8")),),
        attrs={"output_size": dim_list(2, minimum=1)},
        infer_rule=lambda call: [Value(dtype=call.value(0).dtype, shape=infer_adaptive(call))],
        reference_rule=lambda call: [adaptive_maxima(call.array(0), call.attrs["output_size"])],
    ),
    Op(
        name="mean",
        note="over axes",
        inputs=(_X,),
        attrs={"axes": integers(None, -SIZE), "keepdim": FLAG},
        infer_rule=_infer_mean,
        reference_rule=_mean,
    ),
    Op(
        name="softmax",
        note="along the axis",
        inputs=(_X,),
        attrs={"axis": integer()},
        infer_rule=_infer_softmax,
        reference_rule=_softmax,
    ),
)
