"""Four-bit codes, two a byte: the low nibble first, each output channel's codes in bytes of their own."""

from __future__ import annotations

import math

import numpy as np

from .errors import GraphError
from .ir import Array, Weight

MIDDLE = 8
"""What a nibble holds for zero where a weight is symmetric."""


def pack(weight: Weight) -> Array:
    """A four-bit weight's codes as u8 [channels, ceil(codes of a channel / 2)]."""
    rows = weight.codes.reshape(weight.codes.shape[0], -1)
    nibbles = (rows + (MIDDLE if weight.zero_points is None else 0)).astype(np.uint8)
    even = np.pad(nibbles, ((0, 0), (0, nibbles.shape[1] % 2)))
    packed: Array = np.ascontiguousarray(even[:, 0::2] | even[:, 1::2] << 4)
    return packed


def unpack(packed: Array, shape: tuple[int, ...], *, symmetric: bool) -> Array:
    """The codes, int8, of that shape. Raises GraphError where they do not fit it."""
    depth = math.prod(shape[1:])
    expected = (*shape[:1], (depth + 1) // 2)
    if packed.dtype != np.uint8 or packed.shape != expected:
        raise GraphError(f"packed codes are {packed.dtype} {list(packed.shape)}, must be uint8 {list(expected)}")
    codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)
    if codes[:, depth:].any():
        raise GraphError("the last nibble of a channel is beyond its codes, and must be zero")
    return (codes[:, :depth].astype(np.int8) - (MIDDLE if symmetric else 0)).astype(np.int8).reshape(shape)
