"""Patterns of zeros: what a block of weights is, which blocks are all zero, and how few bytes the others take.

A weight [O, I, ...] is seen as a matrix [O, K] whose input channels are innermost: a linear layer's as it is, a
convolution's as [O, kh * kw * I]. A block of "4x4" is 4 output channels by 4 input channels at one place of the kernel,
what one step of an int8 product reads. "unstructured" is blocks of one weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GraphError

Array = npt.NDArray[Any]

PATTERNS: Mapping[str, tuple[int, int]] = {
    "32x4": (32, 4),
    "16x4": (16, 4),
    "8x4": (8, 4),
    "4x4": (4, 4),
    "1x4": (1, 4),
    "unstructured": (1, 1),
}
"""(output channels, input channels) of a block, the coarsest first."""
MOST = 128
"""Codes that a stored byte may stand for, so that a small file cannot ask for a large memory."""


def fits(shape: tuple[int, ...], pattern: str) -> bool:
    """Whether a weight of that shape consists of whole blocks, one at least."""
    rows, columns = PATTERNS[pattern]
    return len(shape) >= 2 and 0 not in shape and shape[0] % rows == 0 and shape[1] % columns == 0


def blocks_of(weight: Array, pattern: str) -> Array:
    """A weight [O, I, ...] as [O / rows, K / columns, rows, columns], a copy or a view. It must fit."""
    rows, columns = PATTERNS[pattern]
    matrix = np.moveaxis(weight, 1, -1).reshape(weight.shape[0] // rows, rows, -1, columns)
    return matrix.swapaxes(1, 2)


def stored_bytes(shape: tuple[int, ...], pattern: str, kept: int) -> int:
    """Bytes of a bit for each block and a byte for each weight of the `kept` ones."""
    size = math.prod(PATTERNS[pattern])
    return -(-math.prod(shape) // size // 8) + kept * size


def pack(codes: Array, pattern: str) -> tuple[Array, Array]:
    """(mask, values): a bit for each block, the first in a byte's lowest, and int8 [blocks with a non-zero, size]."""
    blocks = blocks_of(codes, pattern).reshape(-1, math.prod(PATTERNS[pattern]))
    kept = blocks.any(axis=1)
    return np.packbits(kept, bitorder="little"), blocks[kept]


def unpack(mask: Array, values: Array, shape: tuple[int, ...], pattern: str) -> Array:
    """The codes, int8, of that shape. Raises GraphError where mask, values, shape and pattern do not agree."""
    _check_pattern(shape, pattern)
    rows, columns = PATTERNS[pattern]
    count = math.prod(shape) // (rows * columns)
    if mask.dtype != np.uint8 or mask.shape != ((count + 7) // 8,):
        raise GraphError(f"the mask is {mask.dtype} {list(mask.shape)}, must be uint8 [{(count + 7) // 8}]")
    bits = np.unpackbits(mask, bitorder="little")
    if bits[count:].any():
        raise GraphError(f"the mask has bits set beyond its {count} blocks")
    kept = bits[:count].view(np.bool_)
    expected = (int(kept.sum()), rows * columns)
    if values.dtype != np.int8 or values.shape != expected:
        raise GraphError(f"the values are {values.dtype} {list(values.shape)}, the mask keeps int8 {list(expected)}")
    if not values.any(axis=1).all():
        raise GraphError("the mask keeps a block whose values are all zero")
    _check_size(shape, pattern, expected[0])
    blocks = np.zeros((count, rows * columns), np.int8)
    blocks[kept] = values
    matrix = blocks.reshape(shape[0] // rows, -1, rows, columns).swapaxes(1, 2)
    return np.ascontiguousarray(np.moveaxis(matrix.reshape(shape[0], *shape[2:], shape[1]), -1, 1))


def check(codes: Array, pattern: str) -> None:
    """Raises GraphError where codes cannot be kept in blocks of that pattern."""
    _check_pattern(codes.shape, pattern)
    _check_size(codes.shape, pattern, int(blocks_of(codes, pattern).any(axis=(2, 3)).sum()))


def _check_pattern(shape: tuple[int, ...], pattern: str) -> None:
    if pattern not in PATTERNS:
        raise GraphError(f"the pattern {pattern[:40]!r} is none of {', '.join(PATTERNS)}")
    if not fits(shape, pattern):
        raise GraphError(f"the shape {list(shape)} does not consist of {pattern} blocks")


def _check_size(shape: tuple[int, ...], pattern: str, kept: int) -> None:
    stored = stored_bytes(shape, pattern, kept)
    if math.prod(shape) > MOST * stored:
        raise GraphError(
            f"{stored} bytes in {pattern} blocks stand for more than {MOST} codes each: take a finer pattern"
        )
