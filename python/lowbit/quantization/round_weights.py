"""Rounds weights to int8 so that the rounding errors of one output channel cancel on real inputs.

Nearest rounding makes each weight's error e small; what matters is the error of the layer's output, E[(e . x)^2] =
e^T H e with H = E[x x^T] over the calibration data. Weights are rounded one by one, and what one rounding changes is
made up for by those that are still to be rounded. Smooth images make H of a depthwise filter nearly singular: there
nearest rounding loses most. A weight that is zero was pruned and stays zero; what that costs is made up for, too.

Source: Frantar et al. 2022, "GPTQ" (arXiv:2210.17323), with one scale per output channel; of the zeros, Frantar and
Alistarh 2023, "SparseGPT" (arXiv:2301.00774).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..graph.ir import Array, Weight
from .least_error import ScaleTrial, blocks, least

LIMIT = 127
SHARES = np.linspace(1.0, 0.7, 31)
"""Of largest / LIMIT: the scales that are tried."""
DAMPING = 1e-3
"""Added to H's diagonal, as a share of its mean."""
FLATNESS = 100.0
"""How much more the mean of a window is than the differences in it."""
BLOCK = 64
"""Columns whose corrections are applied to the rest together."""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A weight [N, ...] as int8 codes and float64 scales [N]; factors [N], or one: what channels are multiplied by.

    values: the sixteen that codes are among, int8 in order, where they are from a table.
    """

    codes: Array
    scales: Array
    factors: Array | float = 1.0
    values: Array | None = None

    @property
    def weight(self) -> Array:
        """The numbers that the codes stand for, float64."""
        numbers: Array = self.codes * (self.scales * self.factors).reshape(-1, *(1,) * (self.codes.ndim - 1))
        return numbers

    def as_weight(self) -> Weight:
        """The constant of a graph, without the factors."""
        scales = self.scales.astype(np.float32)
        if self.values is None:
            return Weight(codes=self.codes, scales=scales)
        places = np.searchsorted(self.values, self.codes).astype(np.int8)
        return Weight(codes=places, scales=scales, bits=4, values=self.values.astype(np.float32))


def round_plain(weight: Array) -> Codes:
    """Each weight to its nearest code, with scales that the largest weights give: quickly made."""
    rows = weight.reshape(weight.shape[0], -1).astype(np.float32)
    scales = np.maximum(np.abs(rows).max(axis=1, initial=0.0) / np.float32(LIMIT), np.finfo(np.float32).tiny)
    codes = np.rint(rows / scales[:, None]).astype(np.int8)
    return Codes(codes=codes.reshape(weight.shape), scales=scales.astype(np.float64))


def round_nearest(weight: Array, *, scales: Array | None = None) -> Codes:
    """Each weight to its nearest code; scales: of the channels; else those that lose least squared error."""
    rows = weight.reshape(weight.shape[0], math.prod(weight.shape[1:]))
    scales, codes = best_scales(rows) if scales is None else scales, np.empty(rows.shape, np.int8)
    for part in blocks(*rows.shape):
        scaled = rows[part].astype(np.float64)
        scaled /= scales[part, None]
        np.rint(scaled, out=scaled)
        codes[part] = np.clip(scaled, -LIMIT, LIMIT, out=scaled)
    return Codes(codes=codes.reshape(weight.shape), scales=scales)


@dataclass(frozen=True, kw_only=True, eq=False)
class Factored:
    """Second moments H, ready for rounding: `order` [G, K] of the columns, upper^T upper = (H in that order)^-1."""

    order: Array
    upper: Array


def shrunk(moments: Array, rows: int) -> Array:
    """H [G, K, K], seen on so many rows, with what is between two inputs made smaller by its share of chance.

    Few rows show correlations where there are none, and rounding against these loses more than it gains. The share is
    the variance of H's elements beside its diagonal (as of normal numbers) over their squares, or K / (K + rows), if
    that is more: one strong direction, such as a mean, hides how much of all others is chance.

    Source: Schaefer and Strimmer 2005, "A shrinkage approach to large-scale covariance matrix estimation", target D.
    """
    diagonal = np.einsum("gkk->gk", moments)
    apart = np.square(moments).sum(axis=(1, 2)) - np.square(diagonal).sum(axis=1)
    chance = (np.square(diagonal.sum(axis=1)) - np.square(diagonal).sum(axis=1) + apart) / max(rows, 1)
    least = moments.shape[1] / (moments.shape[1] + rows)
    share = np.clip(chance / np.maximum(apart, np.finfo(np.float64).tiny), least, 1.0)[:, None]
    made: Array = moments * (1 - share[:, :, None])
    np.einsum("gkk->gk", made)[...] = diagonal
    return made


def factored(moments: Array) -> Factored:
    """H [G, K, K], slightly damped, factored."""
    h = moments.astype(np.float64)
    order = np.argsort(-np.einsum("gkk->gk", h), axis=1, kind="stable")  # what weighs most is rounded first
    h = np.take_along_axis(np.take_along_axis(h, order[:, :, None], 1), order[:, None, :], 2)
    mean = np.einsum("gkk->g", h) / h.shape[1]
    h = h + (DAMPING * mean + 1e-30)[:, None, None] * np.eye(h.shape[1])
    return Factored(order=order, upper=np.swapaxes(np.linalg.cholesky(np.linalg.inv(h)), 1, 2))


def cells_of(values: Array) -> Array:
    """The nearest of some int8 values, in order, to what lies in the cell k / 2 .. (k + 1) / 2, for k from -256 on."""
    ends = (values[1:].astype(np.float64) + values[:-1]) / 2
    found: Array = values[np.searchsorted(ends, np.arange(-256, 256) / 2 + 0.25)]
    return found


def nearest_values(scaled: Array, cells: Array) -> Array:
    """The nearest values to numbers, by `cells_of`."""
    found: Array = cells[np.clip(np.floor(2 * scaled), -256, 255).astype(np.int16) + np.int16(256)]
    return found


def round_compensated(
    weight: Array, moments: Array | Factored, *, scales: Array | None = None, values: Array | None = None
) -> Codes:
    """Codes with little e^T H e: weight [N, ...], moments H [G, K, K] where output n belongs to group n * G // N.

    scales: of the channels; else those of least error. values: that codes are among; else all of eight bits.
    """
    h = moments if isinstance(moments, Factored) else factored(moments)
    groups, depth = h.order.shape
    rows = weight.reshape(weight.shape[0], -1).astype(np.float64)
    scales = best_scales(rows) if scales is None else scales
    w = np.take_along_axis(rows.reshape(groups, -1, depth), h.order[:, None, :], 2)
    codes = round_columns(w, h.upper, scales.reshape(groups, -1, 1), values=values)
    unsorted = np.empty_like(codes)
    np.put_along_axis(unsorted, h.order[:, None, :], codes, 2)
    return Codes(codes=unsorted.reshape(weight.shape), scales=scales, values=values)


def round_flat(weight: Array, *, scales: Array | None = None, values: Array | None = None) -> Codes:
    """Codes of a convolution [N, C, kh, kw] with little error where the image is flat; needs no data.

    H = I + FLATNESS for each channel's window: neighbouring pixels are mostly alike, so that the errors of a window's
    weights should add up to nothing.
    """
    filters, channels = weight.shape[:2]
    rows = weight.reshape(filters, -1).astype(np.float64)
    window = rows.shape[1] // channels
    scales = best_scales(rows) if scales is None else scales
    columns = rows.reshape(1, filters * channels, window)
    each = np.repeat(scales, channels)[None, :, None]
    codes = round_columns(columns, upper_of_flat(window)[None], each, values=values)
    return Codes(codes=codes.reshape(weight.shape), scales=scales, values=values)


def upper_of_flat(window: int) -> Array:
    """upper^T upper = H^-1 of a channel's window on flat images."""
    upper: Array = np.linalg.cholesky(np.linalg.inv(np.eye(window) + FLATNESS)).T
    return upper


def round_columns(
    w: Array,
    upper: Array,
    scales: Array,
    zero_points: Array | float = 0.0,
    bounds: tuple[int, int] = (-LIMIT, LIMIT),
    values: Array | None = None,
) -> Array:
    """Codes of w [G, N, K], which is used up; upper [G, K, K] with upper^T upper = H^-1.

    scales, zero_points: of each weight, broadcast. values: that codes are among, without zero points.
    """
    cells = None if values is None else cells_of(values)
    codes, kept = np.empty(w.shape, np.int8), w != 0
    scales, zeros = np.broadcast_to(scales, w.shape), np.broadcast_to(np.asarray(zero_points, np.float64), w.shape)
    depth = w.shape[2]
    for begin in range(0, depth, BLOCK):
        end = min(begin + BLOCK, depth)
        errors = np.empty((*w.shape[:2], end - begin))
        for k in range(begin, end):
            scale, zero = scales[:, :, k], zeros[:, :, k]
            scaled = w[:, :, k] / scale
            near = np.clip(np.rint(scaled) + zero, *bounds) if cells is None else nearest_values(scaled, cells)
            code = np.where(kept[:, :, k], near, zero)
            codes[:, :, k] = code
            error = (w[:, :, k] - (code - zero) * scale) / upper[:, None, k, k]
            w[:, :, k + 1 : end] -= error[:, :, None] * upper[:, None, k, k + 1 : end]
            errors[:, :, k - begin] = error
        w[:, :, end:] -= errors @ upper[:, begin:end, end:]
    return codes


def wide_scales(weight: Array, entropy: float, *, alike: bool) -> Array:
    """Scales [N] with which the codes of [N, ...] hold about so many bits of information each; alike: one for all rows.

    A normal number of deviation s, in steps d, has a code of log2(s / d) + log2(2 pi e) / 2 bits: it tells as much as
    codes of any other kind do with a quarter of a bit less. What has heavier tails has less.

    Source: Gish and Pierce 1968, "Asymptotically efficient quantizing".
    """
    rows = weight.reshape(weight.shape[0], math.prod(weight.shape[1:])).astype(np.float64)
    squares = np.square(rows).mean(axis=1) if rows.size else np.zeros(len(rows))
    spread = np.sqrt(np.full(len(rows), squares.mean()) if alike and rows.size else squares)
    steps = spread * math.sqrt(2 * math.pi * math.e) * 2**-entropy
    largest = np.abs(rows).max(axis=1, initial=0.0) / LIMIT
    found: Array = np.maximum(np.maximum(steps, largest).astype(np.float32), np.finfo(np.float32).tiny)
    return found.astype(np.float64)


def best_scales(rows: Array) -> Array:
    """For each row the scale, at most largest / 127, with the least squared error of nearest rounding: float64 [N]."""
    found = [_best_scales(rows[part]) for part in blocks(*rows.shape)]
    return np.concatenate(found) if found else np.zeros(0)


def _best_scales(rows: Array) -> Array:
    largest = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0))
    largest = np.where(largest > 0, largest, largest.dtype.type(1))
    scales = largest.astype(np.float64) * SHARES[:, None] / LIMIT
    trials = [ScaleTrial(factor=LIMIT / share, low=-LIMIT, high=LIMIT, step=share) for share in SHARES.tolist()]

    def exact(place: int, which: Array) -> Array:
        scaled = rows[which].astype(np.float64) / scales[place, which, None]
        squares = ((np.clip(np.rint(scaled), -LIMIT, LIMIT) - scaled) ** 2).sum(axis=1)
        errors: Array = scales[place, which] ** 2 * squares
        return errors

    even = (rows / largest[:, None]).astype(np.float32, copy=False)
    chosen = least(even, trials, LIMIT / SHARES.min(), exact, margin=1e-12)
    # A float32 scale is what the file holds: the codes must be chosen for that very number.
    best = scales[chosen, np.arange(len(rows))].astype(np.float32)
    found: Array = np.maximum(best, np.finfo(np.float32).tiny).astype(np.float64)
    return found
