"""Weights that came quantized: their float32 numbers are in the graph, their codes are kept beside it.

Passes rename, reshape and cut weights, and fold what scales an output channel (a batch normalization) into them. The
graph says from which weights a constant was computed (`Graph.origins`). Each of its rows that is a row of these times a
number has that row's codes, and the number goes into the layer's multiplier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph.ir import Array, Coded, Graph, Weight, replace
from ..graph.weights import is_signed, middle, shaped
from .round_groups import GroupCodes
from .round_weights import Codes

TOLERANCE = 2.0**-20
"""By how much the numbers of a row may differ from another's times one number: they were rounded to float32."""
GLANCE = 64
"""Columns by whose signs rows are told apart before they are compared whole."""
_Found = tuple[int, int, float]
"""A known weight, its row, and what the row is multiplied by."""


class KnownWeights:
    """Finds the codes of a float graph's weights. coded: all that came."""

    def __init__(self, coded: Sequence[Coded]) -> None:
        self._coded = tuple(coded)
        self._cache: dict[str, tuple[Array, Codes | GroupCodes | None]] = {}
        self._met: set[Coded] = set()

    def of(self, graph: Graph, name: str) -> Codes | GroupCodes | None:
        """The codes of a layer's weight, if it came quantized."""
        numbers, origins = graph.constants.get(name), graph.origins.get(name, ())
        if not origins or not isinstance(numbers, np.ndarray) or numbers.dtype != np.float32 or numbers.ndim < 2:
            return None
        if name not in self._cache or self._cache[name][0] is not numbers:
            self._cache[name] = numbers, self._look_up(numbers, origins)
        return self._cache[name][1]

    def _look_up(self, numbers: Array, origins: Sequence[Coded]) -> Codes | GroupCodes | None:
        for is_grouped in dict.fromkeys(each.weight.group_size > 0 for each in origins):
            of_kind = [each for each in origins if (each.weight.group_size > 0) == is_grouped]
            rows = _rows(numbers, is_grouped=is_grouped)
            known = [_rows(each.numbers, is_grouped=is_grouped) for each in of_kind]
            search = _Search([each.weight for each in of_kind], known)
            found = search.find(rows)
            codes = None if found is None else _gathered(search, found, numbers.shape)
            if found is not None and codes is not None:
                self._met.update(of_kind[which] for which, _, _ in found)
                return codes
        return None

    def lost(self) -> list[str]:
        """Notes about weights that no layer was asked about, as they are in none; nor is one that says the same."""
        return [
            f"the codes that {each.source} came with are not kept: no layer's weight has these numbers, or rows of "
            "them times a number each"
            for each in self._coded
            if each not in self._met and not any(_same(each.weight, other.weight) for other in self._met)
        ]


class _Search:
    """Which known rows the rows of a weight are multiples of."""

    def __init__(self, weights: Sequence[Weight], numbers: Sequence[Array]) -> None:
        self.weights, self.numbers = weights, numbers

    def find(self, rows: Array) -> list[_Found] | None:
        """For each row what it is made of; None where one is made of none."""
        for which, known in enumerate(self.numbers):
            if known.shape == rows.shape and np.array_equal(known, rows):
                return [(which, row, 1.0) for row in range(len(rows))]
        found: dict[int, _Found] = {}
        last = (-1, -1)
        (others,) = np.nonzero(rows.any(axis=1))
        for place in others.tolist():
            match = self._match(rows[place], (last[0], last[1] + 1))
            if match is None:
                return None
            found[place], last = match, match[:2]
        if not found:
            return None
        first = next(iter(found))
        for place in range(len(rows)):  # what a factor of 0 left of a row says no more which it was
            which, row = found[first][0], found[first][1] + place - first
            found.setdefault(place, (which, row if 0 <= row < len(self.numbers[which]) else found[first][1], 0.0))
        return [found[place] for place in range(len(rows))]

    def _match(self, row: Array, expected: tuple[int, int]) -> _Found | None:
        """The known row that this one is a multiple of; of several that which follows the one before, or is equal."""
        if expected[0] >= 0 and expected[1] < len(self.numbers[expected[0]]):
            factor = _factor(row, self.numbers[expected[0]][expected[1]])
            if factor is not None:
                return *expected, factor
        found: _Found | None = None
        for which, known in enumerate(self.numbers):
            for place in _alike(row, known):
                factor = _factor(row, known[place])
                if factor == 1:
                    return which, place, factor
                if factor is not None and found is None:
                    found = which, place, factor
        return found


def _alike(row: Array, known: Array) -> list[int]:
    """The known rows whose signs, or their reverse, begin as this row's."""
    if known.shape[1:] != row.shape:
        return []
    signs, others = np.sign(row[:GLANCE]), np.sign(known[:, :GLANCE])
    places: list[int] = np.flatnonzero((others == signs).all(axis=1) | (others == -signs).all(axis=1)).tolist()
    return places


def _gathered(search: _Search, found: Sequence[_Found], shape: tuple[int, ...]) -> Codes | GroupCodes | None:
    """The rows of known weights as one."""
    only = {which for which, _, _ in found}
    if len(only) == 1 and all(place == row and factor == 1 for place, (_, row, factor) in enumerate(found)):
        weight = search.weights[only.pop()]
        if len(weight.codes) == len(found):
            return codes_of(weight, shape)
    parts = [(search.weights[which], row) for which, row, _ in found]
    if len({(w.group_size, w.zero_points is None, w.offsets is None, w.bits, _table(w)) for w, _ in parts}) != 1:
        return None
    rows = {which: _codes(search.weights[which]) for which, _, _ in found}
    zeros = [w.zero_points[row] for w, row in parts if w.zero_points is not None]
    offsets = [w.offsets[row] for w, row in parts if w.offsets is not None]
    first = parts[0][0]
    whole = Weight(
        codes=np.stack([rows[which][row] for which, row, _ in found]),
        scales=np.stack([w.scales[row] for w, row in parts]),
        zero_points=np.stack(zeros) if zeros else None,
        offsets=np.stack(offsets) if offsets else None,
        values=first.values,
        bits=first.bits,
        group_size=first.group_size,
    )
    return codes_of(whole, shape, np.array([factor for _, _, factor in found]))


def _same(a: Weight, b: Weight) -> bool:
    """Whether two weights have the same codes and all that these mean, as a table and a head that share theirs."""
    if (a.bits, a.group_size, a.shape) != (b.bits, b.group_size, b.shape):
        return False
    parts = [(getattr(a, name), getattr(b, name)) for name in ("scales", "zero_points", "offsets", "values", "codes")]
    return all((x is None) == (y is None) and (x is None or np.array_equal(x, y)) for x, y in parts)


def _table(weight: Weight) -> bytes:
    return b"" if weight.values is None else weight.values.tobytes()


def _codes(weight: Weight) -> Array:
    """Rows in the order of `_rows`."""
    return weight.rows if weight.group_size else weight.codes.reshape(len(weight.codes), -1)


def codes_of(weight: Weight, shape: tuple[int, ...], factors: Array | float = 1.0) -> Codes | GroupCodes:
    """What a layer's constants are made of, from a quantized weight of as many numbers as `shape` has.

    factors: what each output channel is multiplied by.
    """
    scales, zeros = weight.scales.astype(np.float64), weight.zero_points
    if not weight.group_size:
        codes = weight.codes.reshape(shape)
        if weight.values is None:
            return Codes(codes=codes, scales=scales, factors=factors)
        values = weight.values.astype(np.int8)
        return Codes(codes=values[codes], scales=scales, factors=factors, values=values)
    centre = middle(weight.bits) if weight.bits < 8 and is_signed(weight) else 0
    rows = weight.rows.reshape(shape[0], -1)
    is_plain = weight.bits < 8 and weight.offsets is weight.values is None and weight.scales.dtype == np.float16
    return GroupCodes(
        codes=rows + np.int8(centre),
        scales=scales,
        zero_points=np.full(scales.shape, float(centre)) if zeros is None else zeros.astype(np.float64),
        symmetric=zeros is None,
        window=shape[2:],
        bits=weight.bits,
        factors=factors,
        given=None if is_plain else replace(weight, codes=shaped(rows, shape)),
    )


def _rows(numbers: Array, *, is_grouped: bool) -> Array:
    """A weight as rows in the order of its codes: in groups, with the input channels innermost."""
    ordered = np.moveaxis(numbers, 1, -1) if is_grouped else numbers
    return np.ascontiguousarray(ordered).reshape(len(numbers), -1)


def _factor(row: Array, known: Array) -> float | None:
    """What the known row is multiplied by to give this one, if there is such a number."""
    a, b = row.astype(np.float64), known.astype(np.float64)
    square = float(b @ b)
    factor = float(a @ b) / square if square > 0 else 1.0
    is_multiple = (np.abs(a - factor * b) <= TOLERANCE * np.abs(factor * b) + 1e-40).all()
    return factor if is_multiple else None
