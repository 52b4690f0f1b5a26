"""Tensors of GGUF files as weights: blocks of 32 weights, each with its scale, and Q4_1 with its offset.

    Q4_0   f16 d; 16 bytes of nibbles, 16 weights apart                 (q - 8) * d
    Q4_1   f16 d, f16 m; the same                                       q * d + m
    Q8_0   f16 d; 32 int8                                               q * d

Source: ggml's block_q4_0, block_q4_1 and block_q8_0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..errors import UnsupportedError
from ..graph.ir import Array, Weight
from . import codes

SIZE = 32
"""Weights in a block."""


def _nibbles(blocks: Array) -> Array:
    """[rows, groups, 16] bytes as codes [rows, columns]."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=2).reshape(len(blocks), -1)


def _halves(blocks: Array, place: int) -> Array:
    """The half float that begins at that byte of each block."""
    numbers: Array = np.ascontiguousarray(blocks[..., place : place + 2]).view("<f2")[..., 0].astype(np.float32)
    return numbers


def _q4_0(blocks: Array) -> Weight:
    scales = _halves(blocks, 0)
    return codes.weight(_nibbles(blocks[..., 2:]), scales, np.full(scales.shape, 8), bits=4)


def _q4_1(blocks: Array) -> Weight:
    return codes.weight(_nibbles(blocks[..., 4:]), _halves(blocks, 0), offsets=_halves(blocks, 2), bits=4)


def _q8_0(blocks: Array) -> Weight:
    scales = _halves(blocks, 0)
    columns = blocks[..., 2:].view(np.int8).astype(np.int16).reshape(len(blocks), -1) + 128
    return codes.weight(columns, scales, np.full(scales.shape, 128), bits=8)


TYPES: Mapping[str, tuple[int, Callable[[Array], Weight]]] = {
    "Q4_0": (18, _q4_0),
    "Q4_1": (20, _q4_1),
    "Q8_0": (34, _q8_0),
}
"""Bytes of a block, and what reads blocks uint8 [rows, groups, bytes]."""


def weight(data: Array, kind: str) -> Weight:
    """The weight of a tensor's bytes uint8 [rows, bytes of a row]. Raises UnsupportedError for other types."""
    if kind not in TYPES:
        raise UnsupportedError(f"GGUF tensors of type {kind}; those with codes that lowbit has are {', '.join(TYPES)}")
    size, read = TYPES[kind]
    return read(np.ascontiguousarray(data).reshape(len(data), -1, size))
