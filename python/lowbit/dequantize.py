"""`lowbit::dequantize`: a torch operator that says what given codes mean, so that they reach a graph as they are.

    w = torch.ops.lowbit.dequantize(codes, scale, zero_point, g_idx, format, offset, values, rows)   float32, as codes

    format          codes                                      scale       w[n, k]
    "int8"          int8 [N, ...], -128 .. 127                 [N]         codes * scale[n]
    "int8"          the same                                   [N, G]      codes * scale[n, g] + offset[n, g]
    "int4"          int8 [N, K], -8 .. 7, or 0 .. 15           [N, G]      (codes - zero_point[n, g]) * scale[n, g]
    "int4"          int8 [N, K], 0 .. 15                       [N, G]      codes * scale[n, g] + offset[n, g]
    "int4-nibbles"  uint8 [N, K / 2], the low nibble first     [N, G]      the same for nibbles 0 .. 15
    "int3-eighths"  uint8 [N, 3 K / 8], from low bits on       [N, G]      the same for codes 0 .. 7
    "int4"          int8 [N, ...], 0 .. 15                     [N], [N, G] values[codes] * scale, with values [16]

g is k // (K / G), or g_idx[k]. zero_point is uint8 [N, G], or None: 0 for codes, 8 for nibbles. offset, of the scale's
shape, takes its place; of eight bits it may be None. Scales and offsets are any floats; a file holds them as float16
where they are such numbers, else as float32. What is said of "int4" holds for "int1" to "int3", with codes of as many
bits. rows: the layer rounds each row of its input by the row's own range. Codes in groups may have a convolution's
shape [N, C, kh, kw], as w has then: k counts [kh, kw, C], input channels innermost. Whatever a module computes its
weight with this from, `lowbit.convert` puts these very codes and scales into its layer.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, UnsupportedError
from .graph.ir import Array, Weight
from .graph.weights import FORMATS, highest, middle, problems, unpack

# A code an element, or packed as in a file: by the name of the format.
_LOOSE = {f"int{kind.bits}": kind for kind in FORMATS.values() if kind.grouped}
_PACKED = {kind.packed: kind for kind in _LOOSE.values() if kind.packed}
NAMES = (*_LOOSE, *_PACKED)
_SCHEMA = (
    "(Tensor codes, Tensor scale, Tensor? zero_point, Tensor? g_idx, str format, Tensor? offset=None, "
    "Tensor? values=None, bool rows=False) -> Tensor"
)


@torch.library.custom_op("lowbit::dequantize", mutates_args=(), schema=_SCHEMA)
def dequantize(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    g_idx: Tensor | None,
    format: str,
    offset: Tensor | None = None,
    values: Tensor | None = None,
    rows: bool = False,
) -> Tensor:
    """The float32 numbers that the codes stand for; see the head of this file."""
    if values is not None and scale.dim() == 1:
        return values.float()[codes.long()] * scale.float().reshape(-1, *(1,) * (codes.dim() - 1))
    if format == "int8" and scale.numel() == codes.shape[0]:
        numbers = codes.float() * scale.float().reshape(-1, *(1,) * (codes.dim() - 1))
        return numbers if offset is None else numbers + offset.float().reshape(-1, *(1,) * (codes.dim() - 1))
    centre = 0
    if format in _PACKED:
        bits = _PACKED[format].bits
        codes, centre = _unpacked(codes, bits), 0 if offset is not None else middle(bits)
    window = codes.shape[2:]
    codes = codes.movedim(1, -1).flatten(1)
    depth, groups = codes.shape[1], scale.shape[1]
    index = torch.arange(depth) // (depth // groups) if g_idx is None else g_idx.long()
    zero = torch.full_like(scale, centre) if zero_point is None else zero_point
    plain = codes.float() if values is None else values.float()[codes.long()]
    numbers = (plain - zero.float()[:, index]) * scale.float()[:, index]
    numbers = numbers if offset is None else numbers + offset.float()[:, index]
    return numbers.unflatten(1, (*window, -1)).movedim(-1, 1).contiguous() if window else numbers


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Codes [N, K] of rows of bytes; one of three bits may lie across two of these."""
    if 8 % bits == 0:
        return torch.stack([packed >> shift & highest(bits) for shift in range(0, 8, bits)], dim=-1).flatten(1)
    flat = (packed[..., None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1)
    depth = flat.shape[1] // bits
    places = torch.arange(bits, dtype=torch.uint8)
    codes: Tensor = (flat[:, : depth * bits].unflatten(1, (depth, bits)) << places).sum(-1)
    return codes


@dequantize.register_fake
def _shape(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    g_idx: Tensor | None,
    format: str,
    offset: Tensor | None = None,
    values: Tensor | None = None,
    rows: bool = False,
) -> Tensor:
    shape = (codes.shape[0], 8 * codes.shape[1] // _PACKED[format].bits) if format in _PACKED else codes.shape
    return codes.new_empty(shape, dtype=torch.float32)


def arrays(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, g_idx: Tensor | None
) -> tuple[Array, Array, Array | None, Array | None]:
    """The operator's tensors for NumPy: the same memory, but that NumPy has no bfloat16."""
    zero, index = (None if part is None else part.detach().numpy() for part in (zero_point, g_idx))
    return codes.detach().numpy(), scale.detach().float().numpy(), zero, index


def weight_of(
    codes: Array,
    scale: Array,
    zero_point: Array | None,
    g_idx: Array | None,
    format: str,
    offset: Array | None = None,
    values: Array | None = None,
) -> Weight:
    """The operator's arguments as the constant of a graph, bit for bit. Raises InputError, UnsupportedError."""
    if format not in NAMES or (values is not None and format not in _LOOSE):
        raise InputError(f"there is no format {format!r} of codes; there are {', '.join(NAMES)}")
    if format == "int8" and scale.size == len(codes) and offset is None:
        if g_idx is not None:
            raise InputError("g_idx is for codes in groups; this int8 has a scale an output channel")
        weight = Weight(codes=codes, scales=scale.astype(np.float32).reshape(-1), zero_points=zero_point)
    elif values is not None and scale.ndim == 1:
        weight = Weight(codes=codes, scales=scale.astype(np.float32), values=values, bits=_LOOSE[format].bits)
    else:
        is_packed = format in _PACKED
        bits = (_PACKED if is_packed else _LOOSE)[format].bits
        depth = math.prod(codes.shape[1:]) * (8 if is_packed else bits) // bits
        _refuse_unequal(codes, scale, g_idx, depth, most=2 if is_packed else 5)
        if is_packed:
            signed = zero_point is None and offset is None
            codes = unpack(codes, (codes.shape[0], depth), bits, signed=signed)
        weight = Weight(
            codes=codes,
            scales=shortest(scale),
            zero_points=zero_point,
            offsets=None if offset is None else shortest(offset),
            values=values,
            bits=bits,
            group_size=depth // scale.shape[1],
        )
    wrong = list(problems(weight))
    if wrong:
        raise InputError(f"lowbit::dequantize, format {format!r}: {'; '.join(wrong)}")
    return weight


def shortest(numbers: Array) -> Array:
    """As float16 where that holds the same numbers, else as float32."""
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16)
    return (
        halves if np.array_equal(halves.astype(numbers.dtype), numbers, equal_nan=True) else numbers.astype(np.float32)
    )


def _refuse_unequal(codes: Array, scale: Array, g_idx: Array | None, depth: int, *, most: int) -> None:
    """Codes of more axes, or without groups of adjacent columns of one size."""
    if (
        not 2 <= codes.ndim <= most
        or 0 in codes.shape
        or scale.ndim != 2
        or 0 in scale.shape
        or depth % scale.shape[1] != 0
    ):
        raise InputError(
            f"codes of {depth} columns with scales of shape {list(scale.shape)}: each row must "
            "have a scale for each group, and as many groups as divide the columns"
        )
    if g_idx is not None and not np.array_equal(g_idx, np.arange(depth) // (depth // scale.shape[1])):
        raise UnsupportedError(
            "g_idx spreads a group over columns that are not adjacent. Quantize with groups fixed beforehand (GPTQ: "
            "static_groups, or desc_act=False), or sort the columns by g_idx, and the layer's inputs with them"
        )
