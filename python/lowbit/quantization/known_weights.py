"""Weights that came quantized: their float32 numbers are in the graph, their codes are kept beside it.

Passes rename, reshape and cut weights, and fold what scales an output channel (a batch normalization) into them. So a
layer's weight is known by its rows: each that is a known row times a number has that row's codes, and the number goes
into the layer's multiplier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..graph.ir import Array, Coded, Weight
from ..graph.packings import PACKINGS, PLAIN
from .round_groups import GroupCodes
from .round_weights import Codes

TOLERANCE = 2.0**-20
"""By how much the numbers of a row may differ from another's times one number: they were rounded to float32."""
_Found = tuple[int, int, float]
"""A known weight, its row, and what the row is multiplied by."""


class KnownWeights:
    """Finds the codes of a float32 weight by its rows."""

    def __init__(self, coded: Sequence[Coded]) -> None:
        self._weights = [weight for _, weight, _ in coded]
        self._sources = [source for _, _, source in coded]
        self._numbers = [_rows(numbers, weight.packing) for numbers, weight, _ in coded]
        self._whole = {_digest(rows): which for which, rows in enumerate(self._numbers)}
        self._cache: dict[bytes, Codes | GroupCodes | None] = {}
        self._met: set[int] = set()

    @cached_property
    def _places(self) -> dict[bytes, list[tuple[int, int]]]:
        """By the key of a row, the known rows that it may be a multiple of."""
        places: dict[bytes, list[tuple[int, int]]] = {}
        for which, rows in enumerate(self._numbers):
            for row, key in enumerate(_keys(rows)):
                places.setdefault(key, []).append((which, row))
        return places

    def __len__(self) -> int:
        return len(self._weights)

    def of(self, numbers: object) -> Codes | GroupCodes | None:
        """The codes of a layer's weight, if it came quantized."""
        if not self._weights or not isinstance(numbers, np.ndarray) or numbers.dtype != np.float32 or numbers.ndim < 2:
            return None
        for packing in dict.fromkeys(weight.packing for weight in self._weights):
            rows = _rows(numbers, packing)
            key = _digest(rows) + repr((packing, numbers.shape)).encode()
            if key not in self._cache:
                self._cache[key] = self._find(rows, packing, numbers.shape)
            if self._cache[key] is not None:
                return self._cache[key]
        return None

    def lost(self) -> list[str]:
        """Notes about weights that no layer was asked about, as they are in none."""
        return [
            f"the codes that {source} came with are not kept: no layer's weight has these numbers, or rows of them "
            "times a number each"
            for which, source in enumerate(self._sources)
            if which not in self._met
        ]

    def _find(self, rows: Array, packing: str, shape: tuple[int, ...]) -> Codes | GroupCodes | None:
        """As rows of weights with that packing."""
        which = self._whole.get(_digest(rows))
        if which is not None and self._weights[which].packing == packing:
            self._met.add(which)
            return codes_of(self._weights[which], shape)
        found: dict[int, _Found] = {}
        last = (-1, -1)
        (others,) = np.nonzero(rows.any(axis=1))
        for place, key in zip(others.tolist(), _keys(rows[others]), strict=True):
            match = self._match(rows[place], key, packing, (last[0], last[1] + 1))
            if match is None:
                return None
            found[place], last = match, match[:2]
        if not found:
            return None
        first = next(iter(found))
        for place in range(len(rows)):  # what a factor of 0 left of a row says no more which it was
            which, row = found[first][0], found[first][1] + place - first
            found.setdefault(place, (which, row if 0 <= row < len(self._numbers[which]) else found[first][1], 0.0))
        codes = self._gathered([found[place] for place in range(len(rows))], shape)
        if codes is not None:
            self._met.update(which for which, _, _ in found.values())
        return codes

    def _match(self, row: Array, key: bytes, packing: str, expected: tuple[int, int]) -> _Found | None:
        """The known row that this one is a multiple of; of several that which follows the one before, or is equal."""
        found: _Found | None = None
        follows = expected[0] >= 0 and expected[1] < len(self._numbers[expected[0]])
        for which, place in (*([expected] if follows else ()), *self._places.get(key, ())):
            known = self._numbers[which][place]
            if self._weights[which].packing != packing or known.shape != row.shape:
                continue
            factor = _factor(row, known)
            if factor is None or (found is not None and factor != 1):
                continue
            if factor == 1 or (which, place) == expected:
                return which, place, factor
            found = which, place, factor
        return found

    def _gathered(self, found: Sequence[_Found], shape: tuple[int, ...]) -> Codes | GroupCodes | None:
        """The rows of known weights as one."""
        parts = [(self._weights[which], row) for which, row, _ in found]
        if len({(w.group_size, w.zero_points is None, w.bits) for w, _ in parts}) != 1:
            return None
        zeros = [w.zero_points[row] for w, row in parts if w.zero_points is not None]
        first = parts[0][0]
        whole = Weight(
            codes=np.stack([w.codes[row].reshape(-1) for w, row in parts]),
            scales=np.stack([w.scales[row] for w, row in parts]),
            zero_points=np.stack(zeros) if zeros else None,
            bits=first.bits,
            group_size=first.group_size,
            packing=first.packing,
        )
        return codes_of(whole, shape, np.array([factor for _, _, factor in found]))


def codes_of(weight: Weight, shape: tuple[int, ...], factors: Array | float = 1.0) -> Codes | GroupCodes:
    """What a layer's constants are made of, from a quantized weight of as many numbers as `shape` has.

    factors: what each output channel is multiplied by.
    """
    if weight.packing not in PACKINGS:
        scales = weight.scales.astype(np.float64)
        return Codes(codes=weight.codes.reshape(shape), scales=scales, factors=factors)
    packing = PACKINGS[weight.packing]
    scales, zeros = weight.scales.astype(np.float64), weight.zero_points
    return GroupCodes(
        codes=(weight.codes + np.int8(packing.middle if zeros is None else 0)).reshape(shape[0], -1),
        scales=scales,
        zero_points=np.full(scales.shape, float(packing.middle)) if zeros is None else zeros.astype(np.float64),
        symmetric=zeros is None,
        window=shape[2:],
        packing=packing,
        factors=factors,
    )


def _rows(numbers: Array, packing: str) -> Array:
    """A weight as rows in the order of its codes: of few bits, with the input channels innermost."""
    ordered = numbers if packing == PLAIN else np.moveaxis(numbers, 1, -1)
    return np.ascontiguousarray(ordered).reshape(len(numbers), -1)


def _digest(rows: Array) -> bytes:
    return hashlib.blake2b(rows.data).digest() + repr(rows.shape).encode()


def _keys(rows: Array) -> list[bytes]:
    """The same for rows that are multiples of each other: where they are positive, where negative, or the reverse."""
    signs = np.sign(rows).astype(np.int8)
    first = np.take_along_axis(signs, (signs != 0).argmax(axis=1)[:, None], 1) if rows.shape[1] else signs
    turned = signs * np.where(first == 0, 1, first) if rows.shape[1] else signs
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in turned]


def _factor(row: Array, known: Array) -> float | None:
    """What the known row is multiplied by to give this one, if there is such a number."""
    a, b = row.astype(np.float64), known.astype(np.float64)
    square = float(b @ b)
    factor = float(a @ b) / square if square > 0 else 1.0
    is_multiple = (np.abs(a - factor * b) <= TOLERANCE * np.abs(factor * b) + 1e-40).all()
    return factor if is_multiple else None
