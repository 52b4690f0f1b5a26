"""Operators on codes. References are exact: each float32 operation in the stated order, integer sums without rounding.

Integer products go through a float BLAS whose precision holds every partial sum (float32 below 2^24, else float64).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..graph import dims
from ..graph.ir import Array, Value
from .call import Call, broadcast
from .float import infer_adaptive
from .spec import CODE, FLAG, SCALE, Attr, Input, Op, choice, dim_list, integer, number
from .windows import (
    POOL_ATTRS,
    adaptive_sums,
    average_counts,
    box_sums,
    pool_shape,
)

F32 = np.float32
U8 = ("u8",)
MAX_MULTIPLIER = 1e27
MAX_BIAS = 1e37
"""In magnitude: a 32-bit sum times a multiplier, plus a bias, stays finite in float32."""
MULTIPLIER = number(-MAX_MULTIPLIER, MAX_MULTIPLIER)
OUTPUT_ATTRS: dict[str, Attr] = {
    "zero_point_y": integer(0, 255, default=0),
    "lo": integer(0, 255, default=0),
    "hi": integer(0, 255, default=255),
}


def codes_from_floats(t: Array, zero_point: Any, lo: int = 0, hi: int = 255) -> Array:
    """rne(clampf(t, lo - zero_point, hi - zero_point)) + zero_point as u8; NaN counts as 0 (cpp/base/numerics.h)."""
    zero = np.asarray(zero_point, np.int32)
    t = np.where(np.isnan(t), F32(0), t)
    t = np.minimum(np.maximum(t, (lo - zero).astype(F32)), (hi - zero).astype(F32))
    return (np.rint(t).astype(np.int32) + zero).astype(np.uint8)


def fma(a: Any, b: Any, c: Any) -> Array:
    """float32 a * b + c, rounded once; where the result is finite.

    The product is exact in float64. The sum is rounded to odd there, by the error of Knuth's TwoSum, after which
    rounding to float32 is as if there had been one (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums:
    proved algorithms using rounding to odd", 2008).
    """
    product = np.multiply(a, b, dtype=np.float64)
    c = np.asarray(c, np.float64)
    total = product + c
    shifted = total - product
    error = (product - (total - shifted)) + (c - shifted)
    even = total.view(np.int64) & 1 == 0
    odd = np.where((error != 0) & even, np.nextafter(total, np.copysign(np.inf, error)), total)
    rounded: Array = odd.astype(F32)
    return rounded


# ------------------------------------------------------------------------------------------- between numbers and codes


def quantize(x: Array, scale: float, zero_point: int) -> Array:
    """Codes of x: float32 reciprocal, one product, clamp, round half to even."""
    with np.errstate(all="ignore"):
        return codes_from_floats(x * (F32(1) / F32(scale)), zero_point)


def dequantize(codes: Array, scale: float, zero_point: int) -> Array:
    """float32 (codes - zero_point) * scale."""
    return (codes.astype(np.int32) - zero_point).astype(F32) * F32(scale)


def dynamic_quantize(
    x: Array, granularity: str, factors: Array | None = None, copies: Array | None = None
) -> tuple[Array, Array, Array]:
    """Codes, and scale and zero point of each row (last axis) or sample (axis 0), from its own range with 0 in it.

    The scale of one that holds NaN or infinity is NaN. factors [K]: each row is multiplied by them first. copies [E]:
    values of a row that have one more code each, behind those of all. A value with n codes counts as an n-th of itself
    for the range; what its first code, which saturates, leaves of it is the next one's.
    """
    shape = (math.prod(x.shape[:-1]), x.shape[-1]) if granularity == "row" else (x.shape[0], math.prod(x.shape[1:]))
    rows = x.reshape(shape)
    with np.errstate(all="ignore"):
        if factors is not None:
            rows = rows * factors
        bounded = rows
        if factors is not None and copies is not None:
            counts = 1 + np.bincount(copies, minlength=len(factors))
            bounded = x.reshape(shape) * (factors / counts.astype(F32))
        low, high = bounded.min(axis=1, initial=F32(0)), bounded.max(axis=1, initial=F32(0))
        scale = (high - low) / F32(255)
        scale = np.where(np.isfinite(scale), scale, high / F32(255) - low / F32(255))
        scale = np.where(scale == 0, F32(1), np.where(np.isfinite(scale), scale, F32(np.nan)))
        inverse = F32(1) / scale
        zero_point = codes_from_floats(-low * inverse, 0)
        zero = zero_point.astype(np.int32)[:, None]
        codes = codes_from_floats(rows * inverse[:, None], zero)
        if copies is not None:
            codes = np.concatenate([codes, _further_codes(rows * inverse[:, None], zero, copies)], axis=1)
    width = x.shape[-1] + (0 if copies is None else len(copies))
    return codes.reshape(*x.shape[:-1], width), scale, zero_point


def _further_codes(scaled: Array, zero_point: Array, copies: Array) -> Array:
    """The codes of copies: u8 [rows, E], of what the codes before leave of values over the scale."""
    made = np.empty((len(scaled), len(copies)), np.uint8)
    times = np.zeros(scaled.shape[1], np.int64)
    low, high = F32(0) - zero_point.astype(F32)[:, 0], F32(255) - zero_point.astype(F32)[:, 0]
    for place, source in enumerate(copies):
        times[source] += 1
        whole = np.rint(np.nan_to_num(scaled[:, source], nan=0.0, posinf=np.inf, neginf=-np.inf))
        above = np.clip(whole - times[source] * high, 0, high)
        below = np.clip(whole - times[source] * low, low, 0)
        made[:, place] = above + below - low
    return made


def _infer_dynamic(call: Call) -> Sequence[Value]:
    shape = call.shape(0)
    call.need(len(shape) >= 1, "input 0 must have at least one axis")
    by_row = call.attrs["granularity"] == "row"
    call.need(by_row or not call.is_present(1), "factors need granularity row")
    call.match(1, shape[-1:])
    count = (dims.mul(*(shape[:-1] if by_row else shape[:1])),)
    if call.is_present(2):
        call.need(call.is_present(1), "copies need factors")
        (copies,), (depth,) = call.fixed_shape(2, rank=1), call.fixed_shape(1, rank=1)
        call.need(copies <= depth, "there are more copies than values of a row")
        shape = (*shape[:-1], dims.add(shape[-1], copies))
    return [Value(dtype="u8", shape=shape), Value(dtype="f32", shape=count), Value(dtype="u8", shape=count)]


def quantize_groups(x: Array, group_size: int, factors: Array | None = None) -> tuple[Array, Array]:
    """Codes s8 of x, and the scale f32 [rows, groups] of each group of adjacent values of a row, around zero.

    The last group of a row may be shorter. The scale of one that holds NaN or infinity is NaN. factors [K]: each row is
    multiplied by them first.
    """
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    starts = range(0, rows.shape[1], group_size)
    with np.errstate(all="ignore"):
        rows = rows if factors is None else rows * factors
        tops = [np.abs(rows[:, k : k + group_size]).max(axis=1) for k in starts]
        scale = np.stack(tops, axis=1) / F32(127) if tops else np.empty((len(rows), 0), F32)
        scale = np.where(scale == 0, F32(1), np.where(np.isfinite(scale), scale, F32(np.nan)))
        scaled = rows * np.repeat(F32(1) / scale, group_size, axis=1)[:, : rows.shape[1]]
    scaled = np.where(np.isnan(scaled), F32(0), scaled)
    codes = np.rint(np.minimum(np.maximum(scaled, F32(-127)), F32(127))).astype(np.int8)
    return codes.reshape(x.shape), scale


def _infer_groups(call: Call) -> Sequence[Value]:
    shape = call.shape(0)
    call.need(len(shape) >= 1, "input 0 must have at least one axis")
    call.match(1, shape[-1:])
    size = call.attrs["group_size"]
    groups = dims.floordiv(dims.add(shape[-1], size - 1), size)
    return [Value(dtype="s8", shape=shape), Value(dtype="f32", shape=(dims.mul(*shape[:-1]), groups))]


def _infer_lookup(call: Call) -> Sequence[Value]:
    table = call.fixed_shape(1)
    call.need(len(table) in (1, 2) and table[-1] == 256, f"a table has shape {list(table)}, must be [256] or [C, 256]")
    if len(table) == 2:
        call.need(len(call.shape(0)) >= 2, "a table for each channel needs channels")
        call.same(call.shape(0)[1], table[0], "channels and tables do not fit")
    return [Value(dtype="u8", shape=call.shape(0))]


def _lookup(call: Call) -> Sequence[Array]:
    x, table = call.array(0), call.array(1)
    if table.ndim == 1:
        return [table[x]]
    channels = np.arange(x.shape[1]).reshape(-1, *(1,) * (x.ndim - 2))
    return [table[channels, x]]


def centred(call: Call, per_row: tuple[int, ...]) -> Array:
    """x - zero point (of rows, where it was found at run time), in int16."""
    zero_points = call.optional(7)
    zero: Any = call.attrs["zero_point_x"] if zero_points is None else zero_points.astype(np.int16).reshape(per_row)
    return call.array(0).astype(np.int16) - np.asarray(zero, np.int16)


# ------------------------------------------------------------------------------------------------------ add and pools


def _infer_pair_i8(call: Call) -> Sequence[Value]:
    call.match(2, (256,))
    call.need(call.attrs["lo"] <= call.attrs["hi"], f"lo {call.attrs['lo']} is above hi {call.attrs['hi']}")
    return [Value(dtype="u8", shape=broadcast(call, call.shape(0), call.shape(1)))]


def _add_i8(call: Call) -> Sequence[Array]:
    attrs = call.attrs
    a = (call.array(0).astype(np.int32) - attrs["zero_point_a"]).astype(F32) * F32(attrs["multiplier_a"])
    b = (call.array(1).astype(np.int32) - attrs["zero_point_b"]).astype(F32) * F32(attrs["multiplier_b"])
    return _pair_codes(call, a + b)


def _mul_i8(call: Call) -> Sequence[Array]:
    attrs = call.attrs
    a = call.array(0).astype(np.int32) - attrs["zero_point_a"]
    b = call.array(1).astype(np.int32) - attrs["zero_point_b"]
    return _pair_codes(call, (a * b).astype(F32) * F32(attrs["multiplier"]))


def _pair_codes(call: Call, t: Array) -> Sequence[Array]:
    attrs, table = call.attrs, call.optional(2)
    y = codes_from_floats(t, attrs["zero_point_y"], attrs["lo"], attrs["hi"])
    return [y if table is None else table[y]]


def _infer_pool_i8(call: Call) -> Sequence[Value]:
    shape = infer_adaptive(call) if "output_size" in call.attrs else pool_shape(call)
    call.need(call.attrs["lo"] <= call.attrs["hi"], f"lo {call.attrs['lo']} is above hi {call.attrs['hi']}")
    return [Value(dtype=call.attrs["output"], shape=shape)]


def _average(call: Call, acc: Array, counts: Array) -> Sequence[Array]:
    """float(acc) * multiplier / float(count), rounded after each."""
    attrs = call.attrs
    t = acc.astype(F32) * F32(attrs["multiplier"]) / counts.astype(F32)
    return [t if attrs["output"] == "f32" else codes_from_floats(t, attrs["zero_point_y"], attrs["lo"], attrs["hi"])]


def _avg_pool2d_i8(call: Call) -> Sequence[Array]:
    acc, out = box_sums(centred(call, ()), call.attrs, np.int32)
    return _average(call, acc, average_counts(call.array(0), call.attrs, out))


def _adaptive_avg_pool2d_i8(call: Call) -> Sequence[Array]:
    return _average(call, *adaptive_sums(centred(call, ()), call.attrs["output_size"], np.int32))


_X = Input(name="x", dtypes=U8)
_TABLE = Input(name="table", dtypes=U8, optional=True, constant=True)
_PAIR = (Input(name="a", dtypes=U8), Input(name="b", dtypes=U8), _TABLE)
_POOL_OUTPUT = {"zero_point_x": CODE, "multiplier": MULTIPLIER, "output": choice("u8", "f32"), **OUTPUT_ATTRS}


OPS = (
    Op(
        name="quantize",
        note="codes of x",
        inputs=(Input(name="x"),),
        attrs={"scale": SCALE, "zero_point": CODE},
        infer_rule=lambda call: [Value(dtype="u8", shape=call.shape(0))],
        reference_rule=lambda call: [quantize(call.array(0), call.attrs["scale"], call.attrs["zero_point"])],
    ),
    Op(
        name="dequantize",
        note="(x - zero_point) * scale",
        inputs=(_X,),
        attrs={"scale": SCALE, "zero_point": CODE},
        infer_rule=lambda call: [Value(dtype="f32", shape=call.shape(0))],
        reference_rule=lambda call: [dequantize(call.array(0), call.attrs["scale"], call.attrs["zero_point"])],
    ),
    Op(
        name="dynamic_quantize",
        note="a range for each row or sample, of x * factors; gives codes u8, scales f32, zero points u8; copies: which"
        " values of a row have one more code each, behind those of all",
        inputs=(
            Input(name="x"),
            Input(name="factors", optional=True, constant=True),
            Input(name="copies", dtypes=("i64",), optional=True, constant=True),
        ),
        attrs={"granularity": choice("row", "sample")},
        outputs=3,
        infer_rule=_infer_dynamic,
        reference_rule=lambda call: dynamic_quantize(
            call.array(0), call.attrs["granularity"], call.optional(1), call.optional(2)
        ),
    ),
    Op(
        name="quantize_groups",
        note="a scale for each group of adjacent values of a row, of x * factors, the last one may be shorter; gives "
        "codes s8, scales f32 [rows, groups]",
        inputs=(Input(name="x"), Input(name="factors", optional=True, constant=True)),
        attrs={"group_size": integer(1)},
        outputs=2,
        infer_rule=_infer_groups,
        reference_rule=lambda call: quantize_groups(call.array(0), call.attrs["group_size"], call.optional(1)),
    ),
    Op(
        name="lookup",
        note="table [256], or [C, 256] for each channel of x",
        inputs=(_X, Input(name="table", dtypes=U8, constant=True)),
        infer_rule=_infer_lookup,
        reference_rule=_lookup,
    ),
    Op(
        name="quantized_add",
        note="codes of the sum",
        inputs=_PAIR,
        attrs={
            "zero_point_a": CODE,
            "multiplier_a": MULTIPLIER,
            "zero_point_b": CODE,
            "multiplier_b": MULTIPLIER,
            **OUTPUT_ATTRS,
        },
        infer_rule=_infer_pair_i8,
        reference_rule=_add_i8,
    ),
    Op(
        name="quantized_mul",
        note="codes of the product",
        inputs=_PAIR,
        attrs={"zero_point_a": CODE, "zero_point_b": CODE, "multiplier": MULTIPLIER, **OUTPUT_ATTRS},
        infer_rule=_infer_pair_i8,
        reference_rule=_mul_i8,
    ),
    Op(
        name="quantized_avg_pool2d",
        note="as `avg_pool2d`, on codes",
        inputs=(_X,),
        attrs={**POOL_ATTRS, "count_include_pad": FLAG, **_POOL_OUTPUT},
        infer_rule=_infer_pool_i8,
        reference_rule=_avg_pool2d_i8,
    ),
    Op(
        name="quantized_adaptive_avg_pool2d",
        note="as `adaptive_avg_pool2d`, on codes",
        inputs=(_X,),
        attrs={"output_size": dim_list(2, minimum=1), **_POOL_OUTPUT},
        infer_rule=_infer_pool_i8,
        reference_rule=_adaptive_avg_pool2d_i8,
    ),
)
