"""Weights of other programs as a `Weight`: unpacking, and what a weight here must be that a writer's need not.

Scales are positive here: a group with a negative one is mirrored, one with zero gets codes of its zero point. Zero
points are codes: others become offsets. None of it changes a number.
"""

from __future__ import annotations

import numpy as np

from ..dequantize import shortest
from ..errors import InputError, UnsupportedError
from ..graph.ir import Array, Weight
from ..graph.weights import few_bits, highest, middle, problems


def weight(
    codes: Array, scales: Array, zero_points: Array | None = None, offsets: Array | None = None, *, bits: int
) -> Weight:
    """(code - zero point) * scale, or code * scale + offset, of each group of adjacent columns.

    Args:
        codes: [N, K], 0 .. 2^bits - 1.
        scales: [N, G], any floats.
        zero_points: [N, G], whole numbers.
        offsets: [N, G], in their place.
        bits: 1 to 8.

    Raises:
        InputError: Parts that do not fit each other, or are not finite.
        UnsupportedError: A negative scale with an offset.
    """
    if codes.ndim != 2 or 0 in codes.shape or scales.ndim != 2 or 0 in scales.shape:
        raise InputError(f"codes {list(codes.shape)} and scales {list(scales.shape)} are none of a matrix in groups")
    if len(scales) != len(codes) or codes.shape[1] % scales.shape[1] != 0:
        raise InputError(f"scales {list(scales.shape)} do not fit codes {list(codes.shape)}")
    for part in (zero_points, offsets):
        if part is not None and part.shape != scales.shape:
            raise InputError(f"zero points or offsets {list(part.shape)} do not fit scales {list(scales.shape)}")
    scales, top = scales.astype(np.float32), highest(bits)
    groups = codes.astype(np.int16).reshape(*scales.shape, -1)
    zeros = None if zero_points is None else zero_points.astype(np.int32)
    added = None if offsets is None else offsets.astype(np.float32)
    negative = scales < 0
    if negative.any():
        if added is not None or zeros is None:
            raise UnsupportedError("a negative scale beside an offset: there is no code for its numbers")
        groups = np.where(negative[..., None], top - groups, groups)
        zeros, scales = np.where(negative, top - zeros, zeros), np.abs(scales)
    empty = scales == 0
    if empty.any():
        nothing = np.zeros_like(groups) if zeros is None else np.clip(zeros, 0, top)[..., None]
        groups, scales = np.where(empty[..., None], nothing, groups), np.where(empty, np.float32(1), scales)
        zeros = None if zeros is None else np.where(empty, np.clip(zeros, 0, top), zeros)
    made = _assembled(groups.reshape(codes.shape), scales, zeros, added, bits)
    wrong = list(problems(made))
    if wrong:
        raise InputError(f"a weight {list(codes.shape)} that lowbit cannot hold: {'; '.join(wrong)}")
    return made


def _assembled(codes: Array, scales: Array, zeros: Array | None, offsets: Array | None, bits: int) -> Weight:
    """The shortest of the forms that a weight can have."""
    width = next((few for few in few_bits() if few >= bits), 8)
    size = codes.shape[1] // scales.shape[1]
    if zeros is None and offsets is None:
        zeros = np.zeros(scales.shape, np.int32)
    centre = middle(bits)
    if width == 8:
        codes, zeros = codes - centre, None if zeros is None else zeros - centre
        if offsets is not None:
            offsets = offsets + centre * scales
        elif zeros is not None and zeros.any():
            offsets = -zeros * scales
        if offsets is None and scales.shape[1] == 1:
            return Weight(codes=codes.astype(np.int8), scales=scales.reshape(-1))
        kept = None if offsets is None else shortest(offsets.astype(np.float32))
        return Weight(codes=codes.astype(np.int8), scales=shortest(scales), offsets=kept, group_size=size)
    if zeros is not None and (zeros == zeros.flat[0]).all():
        signed = codes - zeros.flat[0]
        if signed.min() >= -middle(width) and signed.max() < middle(width):
            return Weight(codes=signed.astype(np.int8), scales=shortest(scales), bits=width, group_size=size)
    held, halves = codes.astype(np.int8), shortest(scales)
    if zeros is not None and zeros.min() >= 0 and zeros.max() <= highest(width):
        points = zeros.astype(np.uint8)
        return Weight(codes=held, scales=halves, zero_points=points, bits=width, group_size=size)
    added = (-zeros * scales).astype(np.float32) if offsets is None and zeros is not None else offsets
    assert added is not None
    beside = shortest(added.astype(np.float32))
    return Weight(codes=held, scales=halves, offsets=beside, bits=width, group_size=size)


def unpack(words: Array, bits: int, count: int) -> Array:
    """Codes [rows, count] of rows of 32-bit words, from the lowest bits on; a code may lie across two words."""
    if words.dtype != np.int32 or words.ndim != 2 or words.shape[1] * 32 < count * bits:
        raise InputError(f"packed codes are {words.dtype} {list(words.shape)}, must be int32 with {count} codes a row")
    data = np.ascontiguousarray(words).astype("<i4", copy=False).view(np.uint8)
    if bits == 8:
        return data[:, :count]
    if bits == 4:
        return np.stack([data & 15, data >> 4], axis=-1).reshape(len(words), -1)[:, :count]
    flat = np.unpackbits(data, axis=1, bitorder="little")[:, : count * bits].reshape(len(words), count, bits)
    codes: Array = (flat << np.arange(bits, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)
    return codes


def in_order(groups: Array | None, depth: int, count: int) -> Array | None:
    """The columns [depth] by their groups, or None if they lie so. Raises UnsupportedError for unequal groups."""
    if groups is None or depth % count != 0 or (groups < 0).all():
        return None
    expected = np.arange(depth) // (depth // count)
    if np.array_equal(groups, expected):
        return None
    order = np.argsort(groups, kind="stable")
    if groups.shape != (depth,) or not np.array_equal(groups[order], expected):
        raise UnsupportedError(f"g_idx gives {count} groups unlike numbers of the {depth} columns")
    return order
