"""Weights of other programs as a `Weight`: unpacking, and what a weight here must be that a writer's need not.

Scales are positive here: a group with a negative one is mirrored, one with zero gets codes of its zero point. None of
it changes a number; what would need other forms than kernels read (float32 scales, eight bits in groups) is refused.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError, UnsupportedError
from ..graph.ir import Array, Weight
from ..graph.weights import highest, middle, problems

FEW = 4
"""Codes of fewer bits are held with so many."""


def weight(codes: Array, scales: Array, zero_points: Array, *, bits: int) -> Weight:
    """(code - zero point) * scale of each group of adjacent columns.

    Args:
        codes: [N, K], 0 .. 2^bits - 1.
        scales: [N, G], any floats.
        zero_points: [N, G], whole numbers.
        bits: 1 to 8.

    Raises:
        InputError: Parts that do not fit each other, or are not finite.
        UnsupportedError: Weights that no kernel reads.
    """
    if codes.ndim != 2 or 0 in codes.shape or scales.ndim != 2 or 0 in scales.shape:
        raise InputError(f"codes {list(codes.shape)} and scales {list(scales.shape)} are none of a matrix in groups")
    if len(scales) != len(codes) or codes.shape[1] % scales.shape[1] != 0 or zero_points.shape != scales.shape:
        parts = f"scales {list(scales.shape)} and zero points {list(zero_points.shape)}"
        raise InputError(f"{parts} do not fit codes {list(codes.shape)}")
    scales, top = scales.astype(np.float32), highest(bits)
    if not np.isfinite(scales).all():
        raise InputError("a scale is not finite")
    zeros, groups = zero_points.astype(np.int32), codes.astype(np.int16).reshape(*scales.shape, -1)
    negative, empty = scales < 0, scales == 0
    if negative.any():
        groups = np.where(negative[..., None], top - groups, groups)
        zeros, scales = np.where(negative, top - zeros, zeros), np.abs(scales)
    if empty.any():
        zeros = np.where(empty, middle(bits), zeros)
        groups, scales = np.where(empty[..., None], middle(bits), groups), np.where(empty, np.float32(1), scales)
    made = _assembled(groups.reshape(codes.shape), scales, zeros, bits)
    wrong = list(problems(made))
    if wrong:
        raise InputError(f"a weight {list(codes.shape)} that lowbit cannot hold: {'; '.join(wrong)}")
    return made


def _assembled(codes: Array, scales: Array, zeros: Array, bits: int) -> Weight:
    """In the form that kernels read."""
    centre = middle(bits)
    if bits > FEW:
        if scales.shape[1] != 1 or (zeros != centre).any():
            raise UnsupportedError(f"codes of {bits} bits in groups, or with zero points: no kernel reads such yet")
        return Weight(codes=(codes - centre).astype(np.int8), scales=scales.reshape(-1))
    size = codes.shape[1] // scales.shape[1]
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16)
    if not np.array_equal(halves.astype(np.float32), scales):
        raise UnsupportedError("scales of codes in groups that are not float16 numbers: no kernel reads such yet")
    if (zeros == centre).all():
        return Weight(codes=(codes - centre).astype(np.int8), scales=halves, bits=FEW, group_size=size)
    if zeros.min() < 0 or zeros.max() > highest(FEW):
        raise UnsupportedError(f"a zero point is not in 0 .. {highest(FEW)}: no kernel reads such yet")
    points = zeros.astype(np.uint8)
    return Weight(codes=codes.astype(np.int8), scales=halves, zero_points=points, bits=FEW, group_size=size)


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
