"""Weights that came quantized: their float32 numbers are in the graph, their codes are kept beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ..ir import Array, Weight
from ..packings import PACKINGS
from .round_groups import GroupCodes
from .round_weights import Codes

Coded = tuple[Array, Weight]
"""The float32 numbers of a weight, and its codes."""


class KnownWeights:
    """Finds the codes of a float32 weight by its content: passes may have renamed or reshaped it."""

    def __init__(self, coded: Sequence[Coded]) -> None:
        self._found = {_digest(numbers): weight for numbers, weight in coded}

    def __len__(self) -> int:
        return len(self._found)

    def of(self, numbers: object) -> Codes | GroupCodes | None:
        """The codes of a layer's weight, if it came quantized."""
        if not self._found or not isinstance(numbers, np.ndarray) or numbers.dtype != np.float32 or numbers.ndim < 2:
            return None
        weight = self._found.get(_digest(numbers))
        if weight is None or weight.shape[0] != numbers.shape[0]:
            return None
        if weight.bits == 4 and numbers[0, 0].size != 1:  # groups of a window's weights lie otherwise
            return None
        return codes_of(weight, numbers.shape)


def codes_of(weight: Weight, shape: tuple[int, ...]) -> Codes | GroupCodes:
    """What a layer's constants are made of, from a quantized weight of as many numbers as `shape` has."""
    if weight.packing not in PACKINGS:
        return Codes(codes=weight.codes.reshape(shape), scales=weight.scales.astype(np.float64))
    packing = PACKINGS[weight.packing]
    scales, zeros = weight.scales.astype(np.float64), weight.zero_points
    return GroupCodes(
        codes=(weight.codes + np.int8(packing.middle if zeros is None else 0)).reshape(shape[0], -1),
        scales=scales,
        zero_points=np.full(scales.shape, float(packing.middle)) if zeros is None else zeros.astype(np.float64),
        symmetric=zeros is None,
        window=shape[2:],
        packing=packing,
    )


def _digest(numbers: Array) -> bytes:
    return hashlib.blake2b(numbers.tobytes()).digest()
