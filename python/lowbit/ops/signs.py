"""Signs as bits that are compared and counted.

Source: Rastegari et al. 2016, "XNOR-Net" (https://arxiv.org/abs/1603.05279).

Packed, 32 numbers are two words of 32 bits, the lowest first: which of them are positive, and which are not zero.
Padding is zeros, as a sign may be, so that both add nothing. A weight's bit is 1 for 1 and 0 for -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..graph.ir import Array, Value, Weight
from .call import Call
from .spec import Input, Op, integer
from .windows import correlate

NUMBERS = 32
"""In a word."""
WORD_BYTES = 8
"""Of both words."""
MAX_DEPTH = 2**29
"""Of a channel: sums stay in 32 bits."""


def packed_size(numbers: int) -> int:
    """The bytes of so many numbers."""
    return -(-numbers // NUMBERS) * WORD_BYTES


def _infer_pack(call: Call) -> Sequence[Value]:
    axis = call.attrs["axis"]
    call.need(axis != 0, "axis must be 1, the channels of images, or -1")
    shape = list(call.shape(0, rank=4) if axis == 1 else call.shape(0))
    call.need(len(shape) > 0, "the input must have at least one axis")
    size = shape[axis]
    call.need(isinstance(size, int), f"the size of axis {axis} must be fixed, is {size}")
    shape[axis] = packed_size(int(size))
    return [Value(dtype="u8", shape=tuple(shape))]


def _pack(call: Call) -> Sequence[Array]:
    axis, zero = call.attrs["axis"], call.attrs["zero"]
    x = np.moveaxis(call.array(0), axis, -1)
    positive = (x >= 0) if zero == 1 else (x > 0)
    nonzero = np.ones_like(positive) if zero else (x > 0) | (x < 0)
    words = np.stack([_words(positive), _words(nonzero)], axis=-2)
    packed = words.reshape(*x.shape[:-1], words.shape[-3] * WORD_BYTES)
    return [np.ascontiguousarray(np.moveaxis(packed, -1, axis))]


def _words(bits: Array) -> Array:
    """[..., numbers] as [..., words, 4]."""
    beyond = -bits.shape[-1] % NUMBERS
    whole = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, beyond)])
    count = whole.shape[-1] // NUMBERS
    words: Array = np.packbits(whole.reshape(*bits.shape[:-1], count, NUMBERS), axis=-1, bitorder="little")
    return words


def sign_sums(packed: Array, weight: Weight, attrs: Any) -> Array:
    """Of images of words [N, bytes, h, w], exact: over bits, nonzero - 2 * (positive ^ (weight & nonzero))."""
    n, size, *rest = packed.shape
    words = packed.reshape(n, size // WORD_BYTES, 2, WORD_BYTES // 2, *rest)
    bits = np.unpackbits(words.astype(np.uint8), axis=3, bitorder="little").astype(np.float32)
    positive, nonzero = (bits[:, :, i].reshape(n, size * 4, *rest) for i in (0, 1))
    codes = np.pad(weight.codes, [(0, 0), (0, size * 4 - weight.codes.shape[1]), (0, 0), (0, 0)])
    always = correlate(nonzero - 2 * positive, np.ones((1, *codes.shape[1:]), np.float32), attrs, np.float64)
    return always + correlate((4 * positive - 2) * nonzero, codes, attrs, np.float64)


OPS = (
    Op(
        name="pack_signs",
        note="numerics.md has the bits; zero: what zeros count as; axis 1 is that of images",
        inputs=(Input(name="x"),),
        attrs={"axis": integer(-1, 1), "zero": integer(-1, 1, default=0)},
        infer_rule=_infer_pack,
        reference_rule=_pack,
    ),
)
