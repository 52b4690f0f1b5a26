"""Operators that read quantized weights: layers on codes, and rows of a table; one operator each for all formats.

What a format's codes mean changes how its products are summed, and nothing else; `KERNELS` says in which operators a
format can be read. References are exact, as those of `integer.py`; sums in groups follow cpp/kernels/gemm_i4/gemm_i4.h
operation by operation. Groups of adjacent weights are groups of adjacent inputs: channels are innermost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..graph import dims
from ..graph.ir import Array, Node, Value, Weight, replace
from ..graph.weights import FORMATS, MAX_GROUPS, Format, as_read, describe, format_of, middle
from . import recurrent
from .call import Call
from .float import linear_shape
from .indexing import BAG_ATTRS, OFFSETS, WEIGHTS, bags_of, check_indices, infer_bags
from .integer import MAX_MULTIPLIER, OUTPUT_ATTRS, U8, centred, codes_from_floats, fma
from .signs import MAX_DEPTH, packed_size, sign_sums
from .spec import OPTIONAL_NUMBER, Attr, Input, Op, attributes, choice, integer, number
from .windows import conv_attrs, conv_shape, correlate, out_size, pad_image, taps

QUANTIZED = "quantized_"
"""How the names of operators on codes begin."""
SIGNS = "sign_"
"""How those of layers of signs do."""
F32 = np.float32
MAX_SLOPE = 16.0
"""In magnitude, of what results below zero are multiplied by."""
GROUP_SIZE = "x_group_size"
"""The attribute that says how many adjacent codes of a row share a scale; 0: all, and they are u8."""
MAX_GROUP_SIZE = 2**16
EPILOGUE_ATTRS: dict[str, Attr] = {
    "zero_point_x": integer(0, 255, default=0),
    "output": choice("u8", "f32"),
    **OUTPUT_ATTRS,
    "min": OPTIONAL_NUMBER,
    "max": OPTIONAL_NUMBER,
    "residual_multiplier": number(-MAX_MULTIPLIER, MAX_MULTIPLIER, default=0.0),
    "residual_zero_point": integer(0, 255, default=0),
}

# ------------------------------------------------------------------------------------------------------------- epilogue


def infer_epilogue(call: Call, shape: Any, rows: Any, channel_axis: int, groups: Any = None) -> Sequence[Value]:
    """The output of a layer on codes, of that shape, with `rows` rows or samples; the inputs after the weight fit.

    groups: of x, in each row; then there are scales for them, and no zero points.
    """
    channels = (shape[channel_axis],)
    call.match(2, channels)
    call.match(3, channels)
    call.match(4, shape)
    call.match(5, (256,))
    call.match(6, (rows,) if groups is None else (rows, groups))
    call.match(7, (rows,))
    call.match(8, channels)
    output, dynamic = call.attrs["output"], call.is_present(6)
    if groups is None:
        call.need(dynamic == call.is_present(7), "x_scale and x_zero_point go together")
    else:
        call.need(dynamic and not call.is_present(7), "codes in groups have scales x_scale, and no zero points")
    call.need(not dynamic or output == "f32", "dynamic quantization needs output f32")
    call.need(output == "u8" or not call.is_present(5), "a table needs output u8")
    call.need(call.attrs["lo"] <= call.attrs["hi"], f"lo {call.attrs['lo']} is above hi {call.attrs['hi']}")
    call.need(
        not call.is_present(4) or "residual_multiplier" in call.node.attrs, "a residual needs residual_multiplier"
    )
    return [Value(dtype=output, shape=shape)]


def epilogue(call: Call, acc: Array, channel: tuple[int, ...], row: tuple[int, ...]) -> Array:
    """kernels/kernel.h, Epilogue, of sums `acc`: every operation rounded to float32 once, in this order."""
    attrs, residual, table = call.attrs, call.optional(4), call.optional(5)
    row_scale = None if attrs.get(GROUP_SIZE) else call.optional(6)
    slope, is_coded = call.optional(8), call.attrs["output"] == "u8"
    factor, bias, t = call.array(2).reshape(channel), call.array(3).reshape(channel), acc.astype(F32)
    residual_multiplier = F32(attrs["residual_multiplier"])
    if residual is not None:
        bias = fma(F32(-attrs["residual_zero_point"]), residual_multiplier, bias)
    if is_coded and slope is None:
        bias = bias + F32(attrs["zero_point_y"])
    t = fma(t, factor, bias) if row_scale is None else fma(t * factor, row_scale.reshape(row), bias)
    if residual is not None:
        t = fma(residual.astype(F32).reshape(t.shape), residual_multiplier, t)
    if slope is not None:
        factor = np.where(t < 0, slope.reshape(channel), F32(1))
        t = fma(t, factor, F32(attrs["zero_point_y"] if is_coded else 0))
    if is_coded:
        y = codes_from_floats(t, 0, attrs["lo"], attrs["hi"])
        return y if table is None else table[y]
    t = np.maximum(t, F32(attrs["min"])) if "min" in attrs else t
    return np.minimum(t, F32(attrs["max"])) if "max" in attrs else t


# ------------------------------------------------------------------------------------------------ sums, by their format


def _exact_type(w: Array) -> Any:
    """The float type in which every partial sum of u8 differences times `w` is exact."""
    bound = 255 * int(np.abs(w.astype(np.int32)).reshape(w.shape[0], -1).sum(axis=1).max(initial=0))
    return np.float32 if bound < 2**24 else np.float64


def _linear_by_channel(call: Call) -> Array:
    """Sums [rows, N] of products of codes, exact."""
    w, x = call.weight(1).codes, call.array(0)
    dtype = _exact_type(w)
    zero_points = call.optional(7)
    rows = x.reshape(-1, x.shape[-1]).astype(np.int16)
    zero: Any = call.attrs["zero_point_x"] if zero_points is None else zero_points.astype(np.int16)[:, None]
    sums: Array = (rows - np.asarray(zero, np.int16)).astype(dtype) @ w.T.astype(dtype)
    return sums


def _conv_by_channel(call: Call) -> Array:
    """Sums [samples, N, ...] of products of codes, exact."""
    w = call.weight(1).codes
    ones = (1,) * (w.ndim - 2)
    return correlate(centred(call, (-1, 1, *ones)), w, call.attrs, _exact_type(w))


def _group_sums(weight: Weight, rows: Array, x_zero: Any) -> Array:
    """Of rows [R, K] with x_zero, one or [R, 1]: t = fma(float(sum over a group of x * (q - z)), scale, t) [R, N],
    group after group, from -x_zero * offset; where groups have offsets, then t = fma(float(sum of x), offset, t)."""
    terms = list(_terms(weight))
    n, groups = weight.scales.shape
    offset = np.zeros(n)
    for _, codes, scales, offsets in terms:
        offset += scales.astype(np.float64) * codes.sum(axis=1)
        offset += 0 if offsets is None else offsets.astype(np.float64) * weight.group_size
    t = -np.asarray(x_zero, F32) * offset.astype(F32)
    parts = rows.reshape(len(rows), groups, weight.group_size).astype(np.float64)
    for g, codes, scales, offsets in terms:
        t = fma((parts[:, g] @ codes.T).astype(F32), scales, t)
        if offsets is not None:
            t = fma(parts[:, g].sum(axis=1)[:, None].astype(F32), offsets, t)
    return np.broadcast_to(t, (len(rows), n))


def _terms(weight: Weight) -> Iterator[tuple[int, Array, Array, Array | None]]:
    """What kernels add up, of four bits each: the group, codes [N, size], scales [N] and offsets [N], if it has such.

    Half-float scales go with zero points, which the codes here are without, or with half-float offsets; else all are
    floats, and zero points are offsets. A code of eight bits is 16 * high + low, and its group two terms.
    """
    codes, scales, offsets = _operands(weight)
    if weight.bits == 8:
        high, low = np.divmod(codes, 16)
        halves = weight.scales.dtype == np.float16
        fits = halves and offsets is None and bool((16 * scales).max() < 65520)
        below = np.zeros_like(scales) if offsets is None else offsets
        for g in range(scales.shape[1]):
            yield g, high[:, g] + (0 if fits else 8), 16 * scales[:, g], None if fits else -128 * scales[:, g]
            yield g, low[:, g], scales[:, g], None if fits else below[:, g]
        return
    for g in range(scales.shape[1]):
        yield g, codes[:, g], scales[:, g], None if offsets is None else offsets[:, g]


def _operands(weight: Weight) -> tuple[Array, Array, Array | None]:
    """Codes [N, groups, size] as kernels multiply them, and scales and offsets [N, groups]."""
    codes = weight.rows.reshape(*weight.scales.shape, -1).astype(np.float64)
    scales, zeros = weight.scales.astype(F32), weight.zero_points
    if weight.offsets is not None:
        return codes, scales, weight.offsets.astype(F32)
    if weight.scales.dtype == np.float16:
        return codes if zeros is None else codes - zeros[:, :, None], scales, None
    if weight.bits == 8:
        return codes, scales, np.zeros_like(scales)
    middles = np.full_like(scales, middle(weight.bits)) if zeros is None else zeros.astype(F32)
    return codes + (middle(weight.bits) if zeros is None else 0), scales, -middles * scales


def _linear_of_groups(call: Call) -> Array:
    """Of x in groups, whatever the weight: float32 sums [rows, N] (cpp/kernels/gemm_s8/gemm_s8.h)."""
    weight, size = call.weight(1), call.attrs[GROUP_SIZE]
    rows = call.array(0).reshape(-1, weight.shape[1]).astype(np.float64)
    x_scales = call.array(6)
    codes, scales, offsets = (
        (weight.codes.astype(np.float64), None, None) if not weight.group_size else _operands(weight)
    )
    codes = codes.reshape(weight.shape)
    t = np.zeros((len(rows), weight.shape[0]), F32)
    for j, first in enumerate(range(0, weight.shape[1], size)):
        part, factor = rows[:, first : first + size], x_scales[:, j : j + 1]
        sums = (part @ codes[:, first : first + size].T).astype(F32)
        if scales is None:
            t = fma(sums, factor, t)
            continue
        g = first // weight.group_size
        t = fma(sums * factor, scales[:, g], t)
        if offsets is not None:
            t = fma(part.sum(axis=1, keepdims=True).astype(F32) * factor, offsets[:, g], t)
    return t


def _linear_by_group(call: Call) -> Array:
    """Float32 sums [rows, N]."""
    x, zero_points, weight = call.array(0), call.optional(7), call.weight(1)
    zero: Any = call.attrs["zero_point_x"] if zero_points is None else zero_points[:, None]
    return _group_sums(weight, x.reshape(-1, weight.shape[1]), zero)


def _conv_by_group(call: Call) -> Array:
    """Sample by sample, with a row of what each output pixel meets, padding as zero points."""
    x, attrs, zero_points, weight = call.array(0), call.attrs, call.optional(7), call.weight(1)
    n, depth, *kernel = weight.shape
    out = out_size(x.shape[2:], attrs, kernel)
    t = np.empty((len(x), n, *out), F32)
    for sample in range(len(x)):
        zero = attrs["zero_point_x"] if zero_points is None else zero_points[sample]
        image = pad_image(x[sample : sample + 1], attrs["padding"], zero)[0]
        columns = np.empty((*kernel, depth, *out), np.uint8)
        for position, view in taps(image, kernel, attrs["stride"], attrs["dilation"], out):
            columns[position] = view
        t[sample] = _group_sums(weight, columns.reshape(-1, math.prod(out)).T, zero).T.reshape(n, *out)
    return t


def _linear_of_signs(call: Call) -> Array:
    """Sums [rows, N], exact."""
    x, weight = call.array(0), call.weight(1)
    image = replace(weight, codes=weight.codes[:, :, None, None])
    attrs = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    return sign_sums(x.reshape(-1, x.shape[-1], 1, 1), image, attrs)[:, :, 0, 0]


def _conv_of_signs(call: Call) -> Array:
    """Sums [samples, N, h, w], exact."""
    return sign_sums(call.array(0), call.weight(1), call.attrs)


def _rows(weight: Weight, rows: Array) -> tuple[Array, Array, Array | None]:
    """Codes [*rows, groups, size of a group] less their zero points, scales and offsets [*rows, groups, 1]: float32."""
    scales = weight.scales.reshape(len(weight.scales), -1)[rows].astype(F32)
    offsets = None if weight.offsets is None else weight.offsets[rows].astype(F32)[..., None]
    codes = weight.codes[rows].astype(np.int16).reshape(*scales.shape, weight.group_size or weight.shape[1])
    if weight.zero_points is not None:
        codes = codes - weight.zero_points[rows][..., None]
    return codes.astype(F32), scales[..., None], offsets


def _table(call: Call) -> Array:
    """Rows of real numbers."""
    weight = call.weight(1)
    rows = check_indices(call, call.array(0), 0, weight.shape[0])
    codes, scales, offsets = _rows(weight, rows)
    numbers = codes * scales if offsets is None else codes * scales + offsets
    return numbers.reshape(*rows.shape, weight.shape[1])


def _bags(call: Call) -> Array:
    """t = fma(code, scale * weight, t) from row to row of a bag, and with offsets then t = fma(offset, weight, t); a
    mean is divided by their number."""
    weight, weights = call.weight(1), call.optional(3)
    rows = check_indices(call, call.array(0), 0, weight.shape[0])
    bags = bags_of(call, rows)
    sums = np.zeros((len(bags), weight.shape[1]), F32)
    for t, places in zip(sums, bags, strict=True):
        for place in places.tolist():
            codes, scales, offsets = _rows(weight, rows[place])
            factor = F32(1) if weights is None else weights[place]
            parts = fma(codes, scales * factor, t.reshape(codes.shape))
            t[:] = (parts if offsets is None else fma(offsets, factor, parts)).reshape(-1)
        if call.attrs["mode"] == "mean" and places.size:
            t /= F32(places.size)
    return sums


_CONVOLUTIONS = {
    f"quantized_{kind}{axes}d": (axes, kind == "conv_transpose")
    for kind in ("conv", "conv_transpose")
    for axes in (2, 3)
}
KERNELS: Mapping[tuple[str, str], Callable[[Call], Any]] = {
    ("quantized_linear", "int8"): _linear_by_channel,
    **{(op, "int8"): _conv_by_channel for op in _CONVOLUTIONS},
    ("quantized_linear", "int8-groups"): _linear_by_group,
    ("quantized_linear", "int4"): _linear_by_group,
    ("quantized_conv2d", "int4"): _conv_by_group,
    **{("quantized_linear", name): _linear_by_group for name in ("int3", "int2", "int1")},
    **{("quantized_conv2d", name): _conv_by_group for name in ("int3", "int2", "int1")},
    **{("quantized_embedding", name): _table for name in ("int8", "int8-groups", "int4", "int3", "int2", "int1")},
    **{("quantized_embedding_bag", name): _bags for name in ("int8", "int8-groups", "int4", "int3", "int2", "int1")},
    ("sign_linear", "signs"): _linear_of_signs,
    ("sign_conv2d", "signs"): _conv_of_signs,
    **{(op.name, "int8"): recurrent.share_of for op in recurrent.CODED},
}
"""What the kernels of an operator compute from weights of a format, before the epilogue."""


def unreadable(node: Node, weight: Weight) -> str:
    """Why no kernel of a node's operator reads a weight, or ""."""
    kind = _kind(node.op, weight)
    if kind is None or (node.op, kind.name) not in KERNELS:
        known = [describe_kind(name) for op, name in KERNELS if op == node.op]
        return f"no kernel of {node.op} reads {describe(weight)} yet; it reads {' or '.join(known)}"
    attrs = attributes(OPERATORS[node.op], node)
    if kind.grouped and attrs.get("groups", 1) != 1:
        return f"no kernel reads {describe(weight)} where groups is not 1"
    size = attrs.get(GROUP_SIZE, 0)
    if size and weight.group_size not in (0, weight.shape[1]) and weight.group_size % size != 0:
        return f"its input's groups of {size} do not divide those of its weight, {weight.group_size}"
    return ""


def _kind(op: str, weight: Weight) -> Format | None:
    """The format in which an operator reads a weight: signs are those of layers of signs alone."""
    signs = FORMATS["signs"]
    return signs if (op, signs.name) in KERNELS and signs.fits(weight) else format_of(weight)


def describe_kind(name: str) -> str:
    """A format in words."""
    kind = FORMATS[name]
    return (
        f"{kind.bits}-bit codes with {' or '.join(kind.scales)} scales {'in groups' if kind.grouped else 'a channel'}"
    )


def reads(op: str, bits: int) -> bool:
    """Whether an operator has kernels for weights of so many bits in groups."""
    return any(name == op and FORMATS[kind].bits == bits and FORMATS[kind].grouped for name, kind in KERNELS)


def _sums(call: Call) -> Array:
    kind = _kind(call.node.op, call.weight(1))
    call.need(kind is not None and (call.node.op, kind.name) in KERNELS, unreadable(call.node, call.weight(1)))
    assert kind is not None
    if call.attrs.get(GROUP_SIZE):
        return _linear_of_groups(_as_read(call))
    sums: Array = KERNELS[call.node.op, kind.name](call if kind.values else _as_read(call))
    return sums


def _as_read(call: Call) -> Call:
    """The call with its weight as kernels read it."""
    return replace(call, arrays=(*call.arrays[:1], as_read(call.weight(1)), *call.arrays[2:]))


# ------------------------------------------------------------------------------------------------------------ operators


def _infer_linear(call: Call) -> Sequence[Value]:
    shape, size = linear_shape(call), call.attrs[GROUP_SIZE]
    call.need((call.value(0).dtype == "s8") == (size > 0), f"codes s8 and {GROUP_SIZE} go together")
    if not size:
        return infer_epilogue(call, shape, dims.mul(*shape[:-1]), -1)
    call.need(size % 8 == 0, f"{GROUP_SIZE} {size} is no multiple of 8")
    groups = -(-call.fixed_shape(1)[1] // size)
    call.need(groups <= MAX_GROUPS, f"{groups} groups are more than {MAX_GROUPS}")
    return infer_epilogue(call, shape, dims.mul(*shape[:-1]), -1, groups)


def _linear(call: Call) -> Sequence[Array]:
    sums, x = _sums(call), call.array(0)
    return [epilogue(call, sums, (-1,), (-1, 1)).reshape(*x.shape[:-1], sums.shape[1])]


def _infer_conv(call: Call) -> Sequence[Value]:
    shape = conv_shape(call)
    return infer_epilogue(call, shape, shape[0], 1)


def _conv(call: Call) -> Sequence[Array]:
    ones = (1,) * (call.weight(1).codes.ndim - 2)
    return [epilogue(call, _sums(call), (-1, *ones), (-1, 1, *ones))]


def _words_shape(call: Call, rank: int) -> tuple[int, ...]:
    """That of a weight of signs with its inputs as bytes of words."""
    filters, depth, *kernel = call.fixed_shape(1, rank=rank)
    call.need(min(filters, depth, *kernel) >= 1, "the weight is empty")
    call.need(math.prod((depth, *kernel)) < MAX_DEPTH, "the weight is too deep")
    return (filters, packed_size(depth), *kernel)


def _infer_sign_linear(call: Call) -> Sequence[Value]:
    filters, size = _words_shape(call, 2)
    *rows, depth = call.shape(0) or (0,)
    call.same(depth, size, "the input's words and the weight do not fit")
    return infer_epilogue(call, (*rows, filters), dims.mul(*rows), -1)


def _infer_sign_conv(call: Call) -> Sequence[Value]:
    call.need(call.attrs["groups"] == 1, "no kernel reads signs with groups")
    shape = conv_shape(call, _words_shape(call, 4))
    return infer_epilogue(call, shape, shape[0], 1)


def _infer_embedding(call: Call) -> Sequence[Value]:
    _, width = call.fixed_shape(1, 2)
    return [Value(dtype="f32", shape=(*call.shape(0), width))]


_WEIGHT = Input(name="w", constant=True, weight=True)
_INPUTS = (
    Input(name="x", dtypes=U8),
    _WEIGHT,
    Input(name="multiplier", constant=True),
    Input(name="bias", constant=True),
    Input(name="residual", dtypes=U8, optional=True),
    Input(name="table", dtypes=U8, optional=True, constant=True),
    Input(name="x_scale", optional=True),
    Input(name="x_zero_point", dtypes=U8, optional=True),
    Input(name="slope", optional=True, constant=True),
)
_NOTES = ("numerics.md has the equation; table [256], slope [filters]", *["as `quantized_conv2d`"] * 3)


OPS = (
    *(
        Op(
            name=name,
            note=note,
            inputs=_INPUTS,
            attrs={**conv_attrs(axes, transposed=transposed), **EPILOGUE_ATTRS},
            infer_rule=_infer_conv,
            reference_rule=_conv,
        )
        for (name, (axes, transposed)), note in zip(_CONVOLUTIONS.items(), _NOTES, strict=True)
    ),
    Op(
        name="quantized_linear",
        note="as `quantized_conv2d`; with x_group_size, x of `quantize_groups`, and x_scale [rows, groups]",
        inputs=(Input(name="x", dtypes=("u8", "s8")), *_INPUTS[1:]),
        attrs={**EPILOGUE_ATTRS, GROUP_SIZE: integer(0, MAX_GROUP_SIZE, default=0)},
        infer_rule=_infer_linear,
        reference_rule=_linear,
    ),
    Op(
        name="sign_conv2d",
        note="x of `pack_signs`, a weight of one bit with the values -1 and 1; the rest as `quantized_conv2d`",
        inputs=_INPUTS,
        attrs={**conv_attrs(2), **EPILOGUE_ATTRS},
        infer_rule=_infer_sign_conv,
        reference_rule=_conv,
    ),
    Op(
        name="sign_linear",
        note="as `sign_conv2d`",
        inputs=_INPUTS,
        attrs=EPILOGUE_ATTRS,
        infer_rule=_infer_sign_linear,
        reference_rule=_linear,
    ),
    Op(
        name="quantized_embedding",
        note="w's rows as f32",
        inputs=(Input(name="indices", dtypes=("i64", "i32")), _WEIGHT),
        infer_rule=_infer_embedding,
        reference_rule=lambda call: [_sums(call)],
    ),
    Op(
        name="quantized_embedding_bag",
        note="as `embedding_bag`, with w's rows as its table",
        inputs=(Input(name="indices", dtypes=("i64", "i32")), _WEIGHT, OFFSETS, WEIGHTS),
        attrs={"mode": choice("sum", "mean"), **BAG_ATTRS},
        infer_rule=lambda call: infer_bags(call, 0, call.fixed_shape(1, 2)[1]),
        reference_rule=lambda call: [_sums(call)],
    ),
)
OPERATORS: Mapping[str, Op] = {op.name: op for op in (*OPS, *recurrent.CODED)}
