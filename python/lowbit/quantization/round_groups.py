"""Rounds the weights of layers to few bits, with a scale (and a zero point) for each group of them.

A group's range is narrowed where that loses less squared error: few wide weights are clipped for the sake of the many.
With the layers' inputs known, weights are rounded one after another as in `round_weights.py`, each with the scale of
its own group, which is fixed before: so the order is free, and what weighs most goes first. A convolution's weights are
grouped with its input channels innermost, as the operator stores them.

Source: Frantar et al. 2022, "GPTQ" (arXiv:2210.17323), with act-order and static groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..graph.ir import Array, Weight
from ..graph.weights import highest, middle, shaped
from .half_quadratic import refine
from .least_error import ScaleTrial, blocks, least
from .refit import refit
from .round_weights import Factored, round_columns, upper_of_flat
from .schemes import Scheme
from .signs import VALUES, mean_magnitudes

SHARES = np.linspace(1.0, 0.6, 17)
"""Of a group's range that are tried."""
FEW_SHARES = np.geomspace(1.0, 0.12, 32)
"""The same for codes of two or three bits, which lose less by clipping than by rounding most weights to zero."""
SMALLEST = float(np.finfo(np.float16).tiny)
MOST_OFFSET = 65504.0
"""Weights beyond have no half-float offsets."""


@dataclass(frozen=True, kw_only=True)
class GroupCodes:
    """A weight as int8 codes [N, K], 0 .. 2^bits - 1, with float64 scales (exact in float16) and zero points.

    scales, zero_points: [N, groups]; a symmetric weight's zero points are in the middle, of four bits 8, of two 2.
    window: of a convolution, whose weight [N, C, *window] has the codes [N, *window, C]. factors: of output channels.
    offsets: [N, groups], exact in float16, instead of zero points. given: a weight that came, if the rest cannot say
    all of it: its offsets, float32 scales, or eight bits.
    """

    codes: Array
    scales: Array
    zero_points: Array
    symmetric: bool
    window: tuple[int, ...] = ()
    bits: int = 4
    factors: Array | float = 1.0
    offsets: Array | None = None
    given: Weight | None = None

    @property
    def zeros(self) -> Array:
        """The codes of zero, not always whole where there are offsets: [N, groups]."""
        zeros: Array = self.zero_points if self.offsets is None else -self.offsets / self.scales
        return zeros

    @property
    def group_size(self) -> int:
        """Adjacent weights of a channel that share a scale."""
        return int(self.codes.shape[1] // self.scales.shape[1])

    @property
    def weight(self) -> Array:
        """The numbers that the codes stand for, float64, in the float weight's shape."""
        factors = np.reshape(self.factors, (-1, 1))
        if self.given is not None:
            numbers: Array = self.given.numbers * factors.reshape(-1, *(1,) * (self.given.codes.ndim - 1))
            return numbers
        scales = np.repeat(self.scales, self.group_size, axis=1)
        if self.offsets is not None:
            return self._shaped((self.codes * scales + np.repeat(self.offsets, self.group_size, axis=1)) * factors)
        zeros = np.repeat(self.zero_points, self.group_size, axis=1)
        return self._shaped((self.codes - zeros) * scales * factors)

    def _shaped(self, rows: Array) -> Array:
        inputs = rows.shape[1] // math.prod(self.window)
        return shaped(rows, (len(rows), inputs, *self.window))

    def as_weight(self) -> Weight:
        """The constant of a graph, without the factors."""
        if self.given is not None:
            return self.given
        if self.bits == 1 and self.symmetric:
            halves = (self.scales / 2).astype(np.float16)
            return Weight(
                codes=self._shaped(self.codes), scales=halves, values=VALUES, bits=1, group_size=self.group_size
            )
        shift = middle(self.bits) if self.symmetric else 0
        has_zeros = not self.symmetric and self.offsets is None
        return Weight(
            codes=self._shaped((self.codes - shift).astype(np.int8)),
            scales=self.scales.astype(np.float16),
            zero_points=self.zero_points.astype(np.uint8) if has_zeros else None,
            offsets=None if self.offsets is None else self.offsets.astype(np.float16),
            bits=self.bits,
            group_size=self.group_size,
        )


def round_by(
    scheme: Scheme, weight: Array, group_size: int, *, moments: Factored | None = None, flat: bool = False
) -> GroupCodes:
    """`round_groups` with the bits, levels and offsets of a scheme."""
    return round_groups(
        weight,
        group_size,
        symmetric=scheme.symmetric,
        moments=moments,
        flat=flat,
        bits=scheme.weight_bits,
        levels=scheme.levels,
        refined=scheme.refines,
    )


def round_groups(
    weight: Array,
    group_size: int,
    *,
    symmetric: bool,
    moments: Factored | None = None,
    flat: bool = False,
    bits: int = 4,
    levels: int = 0,
    refined: bool = False,
) -> GroupCodes:
    """Codes of a weight [N, C, *window]; group_size divides the rest of its size.

    moments: of the layer's inputs, as `round_compensated` takes them. Without: flat: of windows on mostly flat images,
    see `round_flat`; else each to its nearest. bits: of a code; a symmetric one of one bit is a sign. levels: how many
    codes around a symmetric weight's zero point are used; 0: all. refined: whether scales are half-quadratic's, with
    offsets instead of zero points.
    """
    window = weight.shape[2:]
    rows = np.ascontiguousarray(np.moveaxis(weight, 1, -1)).reshape(len(weight), -1)
    ends = code_range(bits, levels)
    groups = rows.reshape(len(rows), -1, group_size)
    offsets = None
    if bits == 1 and symmetric:
        offsets = -mean_magnitudes(groups)
        scales, zeros = -2 * offsets, np.full(offsets.shape, 0.5)
    else:
        scales, zeros = best_groups(groups, symmetric=symmetric, ends=ends)
    if offsets is None and refined and np.abs(rows).max(initial=0) < MOST_OFFSET:
        scales, offsets = _refined(groups, scales, None if symmetric else zeros, ends)
        zeros = zeros if offsets is None else -offsets / scales
    if moments is not None:
        order = _stored_order(moments.order[0], math.prod(window))
        codes = _in_order(rows, scales, zeros, order, moments.upper, ends)
        if offsets is not None and not symmetric:
            scales, offsets = refit(rows, codes, scales, offsets, _moments(moments.upper[0], order))
    elif flat and math.prod(window) > 1:
        size = math.prod(window)
        order = np.arange(rows.shape[1]).reshape(size, -1).T.reshape(-1)
        codes = _in_order(rows, scales, zeros, order, upper_of_flat(size)[None], ends)
    else:
        codes = _nearest(rows, scales, zeros, ends)
    whole = zeros if offsets is None else np.full(zeros.shape, float(middle(bits)))
    return GroupCodes(
        codes=codes,
        scales=scales,
        zero_points=whole,
        symmetric=symmetric,
        window=window,
        bits=bits,
        offsets=offsets,
    )


def _refined(groups: Array, scales: Array, zeros: Array | None, ends: tuple[int, int]) -> tuple[Array, Array | None]:
    """Scales, and offsets unless zero points are None: those of a symmetric weight, in the middle."""
    flat = groups.reshape(-1, groups.shape[2])
    if zeros is None:
        centre = (ends[0] + ends[1] + 1) // 2
        found, _ = refine(flat, scales.reshape(-1), None, (ends[0] - centre, ends[1] - centre))
        return found.reshape(scales.shape), None
    found, offsets = refine(flat, scales.reshape(-1), (-zeros * scales).reshape(-1), ends)
    return found.reshape(scales.shape), offsets.reshape(scales.shape)


def code_range(bits: int, levels: int = 0) -> tuple[int, int]:
    """The lowest and the highest code; levels: how many around the middle; 0: all."""
    if levels == 0:
        return 0, highest(bits)
    return middle(bits) - levels // 2, middle(bits) + (levels - 1) // 2


def _nearest(rows: Array, scales: Array, zeros: Array, ends: tuple[int, int]) -> Array:
    """The nearest codes, int8."""
    codes = np.empty(rows.shape, np.int8)
    for part in blocks(*rows.shape):
        scaled = rows[part].reshape(*scales[part].shape, -1).astype(np.float64)
        scaled /= scales[part, :, None]
        whole, beyond = _parts(zeros[part, :, None])
        scaled += beyond
        np.rint(scaled, out=scaled)
        scaled += whole
        codes[part] = np.clip(scaled, *ends, out=scaled).reshape(rows[part].shape)
    return codes


def _parts(zeros: Array) -> tuple[Array, Array]:
    """The whole numbers next to zero points, and what these are beyond them."""
    whole = np.rint(zeros)
    return whole, zeros - whole


def _moments(upper: Array, order: Array) -> Array:
    """H in the order that codes are stored in."""
    made = np.empty_like(upper)
    made[np.ix_(order, order)] = np.linalg.inv(upper.T @ upper)
    return made


def _stored_order(order: Array, window: int) -> Array:
    """Places of the columns [C, window] in rows that are stored as [window, C]."""
    channels, place = np.divmod(order, window)
    stored: Array = place * (len(order) // window) + channels
    return stored


def _in_order(rows: Array, scales: Array, zeros: Array, order: Array, upper: Array, ends: tuple[int, int]) -> Array:
    """Round columns in that order; those of one upper [1, k, k] after the other make up for each other."""
    whole, beyond = _parts(zeros)
    size = rows.shape[1] // scales.shape[1]
    shifted = rows + np.repeat(beyond * scales, size, axis=1)  # in steps from a whole zero point
    shape = (1, -1, upper.shape[1])
    w, each, at = (
        part[:, order].reshape(shape) for part in (shifted, *(np.repeat(p, size, axis=1) for p in (scales, whole)))
    )
    codes = np.empty(rows.shape, np.int8)
    codes[:, order] = round_columns(w, upper, each, at, ends).reshape(codes.shape)
    return codes


def best_groups(groups: Array, *, symmetric: bool, ends: tuple[int, int] = (0, 15)) -> tuple[Array, Array]:
    """Scales and zero points [N, G] of weights [N, G, size] with the least squared error of nearest rounding.

    ends: the lowest and the highest code; of a symmetric weight, the middle between them, or half above it, is zero.
    """
    rows = groups.reshape(-1, groups.shape[2])
    scales, zeros = np.empty(len(rows)), np.empty(len(rows))
    for part in blocks(*rows.shape):
        scales[part], zeros[part] = _best_groups(rows[part], symmetric, ends)
    return scales.reshape(groups.shape[:2]), zeros.reshape(groups.shape[:2])


def _best_groups(rows: Array, symmetric: bool, ends: tuple[int, int]) -> tuple[Array, Array]:
    first, last = ends
    top, centre = last - first, float((first + last + 1) // 2)
    shares = SHARES if top > 7 else FEW_SHARES
    low, high = (ends.astype(np.float64) for ends in (rows.min(axis=1, initial=0), rows.max(axis=1, initial=0)))
    widest = 2 * np.maximum(high, -low) if symmetric else high - low
    # A half-float scale is what the file holds: the codes must be chosen for that very number.
    halves = (widest * shares[:, None] / top).astype(np.float16).astype(np.float64)
    scales = np.maximum(halves, SMALLEST)
    zeros = np.full(scales.shape, centre) if symmetric else np.rint(-low * shares[:, None] / scales).clip(0, top)
    fixed = first - centre, last - centre

    def trial(scale: Array, zero: Array) -> ScaleTrial:
        bounds = fixed if symmetric else (-zero, top - zero)
        return ScaleTrial(factor=1 / scale, low=bounds[0], high=bounds[1], step=scale)

    def exact(place: int, which: Array) -> Array:
        scale, zero, numbers = scales[place, which, None], zeros[place, which, None], rows[which].astype(np.float64)
        codes = np.clip(np.rint(numbers / scale) + zero, first, last)
        errors: Array = (((codes - zero) * scale - numbers) ** 2).sum(axis=1)
        return errors

    trials = [trial(scale, zero) for scale, zero in zip(scales, zeros, strict=True)]
    reach = 1.01 * top / shares.min()  # a half-float scale is less than 1 % off
    chosen = least(rows.astype(np.float32, copy=False), trials, reach, exact)
    at = chosen, np.arange(len(rows))
    return scales[at], zeros[at]
