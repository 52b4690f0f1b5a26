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
from ..graph.weights import middle
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
        self._numbers = [_rows(numbers, is_grouped=weight.group_size > 0) for numbers, weight, _ in coded]
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
        for is_grouped in dict.fromkeys(weight.group_size > 0 for weight in self._weights):
            rows = _rows(numbers, is_grouped=is_grouped)
            key = _digest(rows) + repr((is_grouped, numbers.shape)).encode()
            if key not in self._cache:
                self._cache[key] = self._find(rows, is_grouped, numbers.shape)
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

    def _find(self, rows: Array, is_grouped: bool, shape: tuple[int, ...]) -> Codes | GroupCodes | None:
        """As rows of weights with groups, or without."""
        which = self._whole.get(_digest(rows))
        if which is not None and (self._weights[which].group_size > 0) == is_grouped:
            self._met.add(which)
            return codes_of(self._weights[which], shape)
        found: dict[int, _Found] = {}
        last = (-1, -1)
        (others,) = np.nonzero(rows.any(axis=1))
        for place, key in zip(others.tolist(), _keys(rows[others]), strict=True):
            match = self._match(rows[place], key, is_grouped, (last[0], last[1] + 1))
            if match is None:
                return None
            found[place], last = match, match[:2]
        if not found:
            return None
        first = next(iter(found))
        for place in range(len(rows)):  # what a factor of 0 left of a row says no more which it was
            which, row = found[first][0], found[first][1] + place - first
            found.setdefault(place, (which, row if 0 <= row < len(self._numbers[which]) else found[first][1], 0.0))
        codes = self._gathered([found[place] for place in range(len(rows))], is_grouped, shape)
        if codes is not None:
            self._met.update(which for which, _, _ in found.values())
        return codes

    def _match(self, row: Array, key: bytes, is_grouped: bool, expected: tuple[int, int]) -> _Found | None:
        """The known row that this one is a multiple of; of several that which follows the one before, or is equal."""
        found: _Found | None = None
        follows = expected[0] >= 0 and expected[1] < len(self._numbers[expected[0]])
        for which, place in (*([expected] if follows else ()), *self._places.get(key, ())):
            known = self._numbers[which][place]
            if (self._weights[which].group_size > 0) != is_grouped or known.shape != row.shape:
                continue
            factor = _factor(row, known)
            if factor is None or (found is not None and factor != 1):
                continue
            if factor == 1 or (which, place) == expected:
                return which, place, factor
            found = which, place, factor
        return found

    def _gathered(self, found: Sequence[_Found], is_grouped: bool, shape: tuple[int, ...]) -> Codes | GroupCodes | None:
        """The rows of known weights as one."""
        parts = [(self._weights[which], row) for which, row, _ in found]
        if len({(w.group_size, w.zero_points is None, w.bits) for w, _ in parts}) != 1:
            return None
        zeros = [w.zero_points[row] for w, row in parts if w.zero_points is not None]
        first = parts[0][0]
        whole = Weight(
            codes=np.stack([(w.rows if is_grouped else w.codes.reshape(len(w.codes), -1))[row] for w, row in parts]),
            scales=np.stack([w.scales[row] for w, row in parts]),
            zero_points=np.stack(zeros) if zeros else None,
            bits=first.bits,
            group_size=first.group_size,
        )
        return codes_of(whole, shape, np.array([factor for _, _, factor in found]))


def codes_of(weight: Weight, shape: tuple[int, ...], factors: Array | float = 1.0) -> Codes | GroupCodes:
    """What a layer's constants are made of, from a quantized weight of as many numbers as `shape` has.

    factors: what each output channel is multiplied by.
    """
    scales, zeros = weight.scales.astype(np.float64), weight.zero_points
    if not weight.group_size:
        return Codes(codes=weight.codes.reshape(shape), scales=scales, factors=factors)
    centre = middle(weight.bits)
    return GroupCodes(
        codes=(weight.rows + np.int8(centre if zeros is None else 0)).reshape(shape[0], -1),
        scales=scales,
        zero_points=np.full(scales.shape, float(centre)) if zeros is None else zeros.astype(np.float64),
        symmetric=zeros is None,
        window=shape[2:],
        bits=weight.bits,
        factors=factors,
    )


def _rows(numbers: Array, *, is_grouped: bool) -> Array:
    """A weight as rows in the order of its codes: in groups, with the input channels innermost."""
    ordered = np.moveaxis(numbers, 1, -1) if is_grouped else numbers
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
