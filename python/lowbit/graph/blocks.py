"""Patterns of zeros: what a block of weights is, which blocks are all zero, and how few bytes the others take.

A weight [O, I, ...] is seen as a matrix [O, K] whose input channels are innermost: a linear layer's as it is, a
convolution's as [O, kh * kw * I]. A block of "4x4" is 4 output channels by 4 input channels at one place of the kernel,
what one step of an int8 product reads. "unstructured" is blocks of one weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
AT_ONCE = 40 << 15
"""Codes that are packed or unpacked at once, which bounds the memory it takes: whole bytes, whatever their bits."""
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
    if count % 8 and mask[-1] >> count % 8:
        raise GraphError(f"the mask has bits set beyond its {count} blocks")
    set_bits = sum(int(np.unpackbits(mask[at : at + AT_ONCE // 8]).sum()) for at in range(0, len(mask), AT_ONCE // 8))
    expected = (set_bits, rows * columns)
    if values.dtype != np.int8 or values.shape != expected:
        raise GraphError(f"the values are {values.dtype} {list(values.shape)}, the mask keeps int8 {list(expected)}")
    if not values.any(axis=1).all():
        raise GraphError("the mask keeps a block whose values are all zero")
    _check_size(shape, pattern, expected[0])
    codes, each, taken = np.empty(shape, np.int8), count * rows // shape[0], 0
    for some in _channels(shape, rows):
        first, last = some.start // rows * each, some.stop // rows * each
        bits = np.unpackbits(mask[first // 8 : (last + 7) // 8], bitorder="little")
        is_kept = bits[first % 8 : first % 8 + last - first].view(np.bool_)
        blocks, found = np.zeros((last - first, rows * columns), np.int8), int(is_kept.sum())
        blocks[is_kept] = values[taken : taken + found]
        taken += found
        matrix = blocks.reshape(-1, each, rows, columns).swapaxes(1, 2)
        codes[some] = np.moveaxis(matrix.reshape(some.stop - some.start, *shape[2:], shape[1]), -1, 1)
    return codes


def kept(codes: Array, pattern: str) -> int:
    """How many blocks of a weight hold a number that is not zero. It must fit."""
    if math.prod(PATTERNS[pattern]) == 1:
        return int(np.count_nonzero(codes))
    some = _channels(codes.shape, PATTERNS[pattern][0])
    return sum(int(blocks_of(codes[channels], pattern).any(axis=(2, 3)).sum()) for channels in some)


def _channels(shape: tuple[int, ...], rows: int) -> Iterator[slice]:
    """Output channels of whole blocks, one block's at least, else about `AT_ONCE` weights, at a time."""
    step = max(1, AT_ONCE // (rows * math.prod(shape[1:]))) * rows
    for at in range(0, shape[0], step):
        yield slice(at, min(at + step, shape[0]))


def check(codes: Array, pattern: str) -> None:
    """Raises GraphError where codes cannot be kept in blocks of that pattern."""
    _check_pattern(codes.shape, pattern)
    _check_size(codes.shape, pattern, kept(codes, pattern))


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
