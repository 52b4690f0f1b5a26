"""How few-bit codes lie in bytes, in files and at a session's door: one `Packing` a name that a file knows.

Each output channel's codes have bytes of their own; the first code of a byte is in its lowest bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import GraphError
from .ir import Array, Weight


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Unsigned codes of `bits` bits, 8 / bits a byte. Those of symmetric weights are moved up by `middle`."""

    name: str
    bits: int

    @property
    def middle(self) -> int:
        """What a symmetric weight holds for zero."""
        return 1 << (self.bits - 1)

    @property
    def highest(self) -> int:
        """The largest code, and the largest zero point."""
        return (1 << self.bits) - 1

    @property
    def places(self) -> int:
        """How many codes a byte has."""
        return 8 // self.bits

    def bytes_of(self, depth: int) -> int:
        """What `depth` codes of one channel take."""
        return -(-depth * self.bits // 8)

    def pack(self, weight: Weight) -> Array:
        """A weight's codes as u8 [channels, bytes of a channel]."""
        rows = weight.codes.reshape(weight.codes.shape[0], -1)
        codes = (rows + np.int8(self.middle if weight.zero_points is None else 0)).view(np.uint8)
        beyond = -codes.shape[1] % self.places
        whole = np.pad(codes, ((0, 0), (0, beyond))) if beyond else codes
        packed = whole[:, :: self.places].copy()
        for place in range(1, self.places):
            packed |= whole[:, place :: self.places] << (place * self.bits)
        return packed

    def unpack(self, packed: Array, shape: tuple[int, ...], *, symmetric: bool) -> Array:
        """The codes, int8, of that shape. Raises GraphError where they do not fit it."""
        depth = math.prod(shape[1:])
        expected = (*shape[:1], self.bytes_of(depth))
        if packed.dtype != np.uint8 or packed.shape != expected:
            raise GraphError(f"packed codes are {packed.dtype} {list(packed.shape)}, must be uint8 {list(expected)}")
        parts = [packed >> shift & self.highest for shift in range(0, 8, self.bits)]
        codes = np.stack(parts, axis=-1).reshape(packed.shape[0], -1)
        if codes[:, depth:].any():
            raise GraphError("a channel's last byte has codes beyond its depth, which must be zero")
        return (codes[:, :depth].astype(np.int8) - (self.middle if symmetric else 0)).astype(np.int8).reshape(shape)


PLAIN = "plain"
"""Codes of eight bits, as they are."""
NIBBLES = Packing(name="nibbles", bits=4)
PACKINGS: Mapping[str, Packing] = {packing.name: packing for packing in (NIBBLES,)}
OF_BITS: Mapping[int, Packing] = {packing.bits: packing for packing in PACKINGS.values()}
BITS: Mapping[str, int] = {PLAIN: 8, **{name: packing.bits for name, packing in PACKINGS.items()}}
"""How many a code has, by the name of its packing."""
