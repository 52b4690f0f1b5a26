"""Rounds the weights of linear layers to four bits, with a scale (and a zero point) for each group of them.

A group's range is narrowed where that loses less squared error: few wide weights are clipped for the sake of the many.
With the layers' inputs known, weights are rounded one after another as in `round_weights.py`, each with the scale of
its own group, which is fixed before: so the order is free, and what weighs most goes first.

Source: Frantar et al. 2022, "GPTQ" (arXiv:2210.17323), with act-order and static groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir import Array, Weight
from .round_weights import Factored, round_columns

LEVELS = 15
MIDDLE = 8
"""What stands for zero in a symmetric group: codes 0 .. 15, weights (code - 8) * scale."""
SHARES = np.linspace(1.0, 0.6, 33)
SMALLEST = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True, kw_only=True)
class GroupCodes:
    """A weight [N, K] as int8 codes 0 .. 15, with float64 scales (exact in float16) and zero points [N, groups]."""

    codes: Array
    scales: Array
    zero_points: Array
    symmetric: bool

    @property
    def group_size(self) -> int:
        """Adjacent weights of a channel that share a scale."""
        return int(self.codes.shape[1] // self.scales.shape[1])

    @property
    def weight(self) -> Array:
        """The numbers that the codes stand for, float64."""
        scales, zeros = (np.repeat(part, self.group_size, axis=1) for part in (self.scales, self.zero_points))
        numbers: Array = (self.codes - zeros) * scales
        return numbers

    def as_weight(self) -> Weight:
        """The constant of a graph."""
        shift = MIDDLE if self.symmetric else 0
        return Weight(
            codes=(self.codes - shift).astype(np.int8),
            scales=self.scales.astype(np.float16),
            zero_points=None if self.symmetric else self.zero_points.astype(np.uint8),
            bits=4,
            group_size=self.group_size,
            packing="nibbles",
        )


def round_groups(weight: Array, group_size: int, *, symmetric: bool, moments: Factored | None = None) -> GroupCodes:
    """Codes of a weight [N, K]; group_size divides K. moments: of the layer's inputs, else each to its nearest."""
    rows = weight.astype(np.float64)
    scales, zeros = best_groups(rows.reshape(len(rows), -1, group_size), symmetric=symmetric)
    each_scale, each_zero = (np.repeat(part, group_size, axis=1) for part in (scales, zeros))
    if moments is None:
        codes = np.clip(np.rint(rows / each_scale) + each_zero, 0, LEVELS)
    else:
        order = moments.order[0]
        sorted_rows, sorted_scales, sorted_zeros = (part[None, :, order] for part in (rows, each_scale, each_zero))
        rounded = round_columns(sorted_rows, moments.upper, sorted_scales, sorted_zeros, (0, LEVELS))
        codes = np.empty_like(rounded[0])
        codes[:, order] = rounded[0]
    return GroupCodes(codes=codes.astype(np.int8), scales=scales, zero_points=zeros, symmetric=symmetric)


def best_groups(groups: Array, *, symmetric: bool) -> tuple[Array, Array]:
    """Scales and zero points [N, G] of weights [N, G, size] with the least squared error of nearest rounding."""
    low, high = np.minimum(groups.min(axis=2), 0.0), np.maximum(groups.max(axis=2), 0.0)
    widest = 2 * np.maximum(high, -low) if symmetric else high - low
    best_scale, best_zero = np.ones(low.shape), np.full(low.shape, float(MIDDLE))
    least = np.full(low.shape, np.inf)
    for share in SHARES:
        # A half-float scale is what the file holds: the codes must be chosen for that very number.
        scale = np.maximum((widest * share / LEVELS).astype(np.float16).astype(np.float64), SMALLEST)
        zero = np.full(low.shape, float(MIDDLE)) if symmetric else np.clip(np.rint(-low * share / scale), 0, LEVELS)
        codes = np.clip(np.rint(groups / scale[..., None]) + zero[..., None], 0, LEVELS)
        error = (((codes - zero[..., None]) * scale[..., None] - groups) ** 2).sum(axis=2)
        better = error < least
        best_scale, best_zero = np.where(better, scale, best_scale), np.where(better, zero, best_zero)
        least = np.where(better, error, least)
    return best_scale, best_zero
