"""Refines the scales and offsets of groups of weights so that most weights lose little by nearest rounding; no data.

What is minimized is sum |w - (code * scale + offset)|^p with p < 1: few weights that lie far out may lose much. It
alternates between codes, the nearest; errors e that are taken for outliers (soft thresholds); and the scale and offset
with least squared error of the rest, w - e. What was best of all rounds is kept, so that it never loses to the start.

Source: Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models"; there the scale is fixed.
"""

from __future__ import annotations

import numpy as np

from ..graph.ir import Array
from .least_error import blocks

POWER = np.float32(0.7)
"""p."""
SHARPNESS, GROWTH = 3.0, 1.01
"""The weight of the squared term, in steps of the codes, and how it grows from round to round."""
ROUNDS = 16
SMALLEST, LARGEST = np.float32(np.finfo(np.float16).tiny), np.float32(np.finfo(np.float16).max)


def refine(groups: Array, scales: Array, offsets: Array | None, ends: tuple[int, int]) -> tuple[Array, Array]:
    """Scales and offsets [N] of weights [N, size], half-floats as float64, from those to begin with.

    offsets: None: they are zero, and stay so. ends: the lowest and the highest code.
    """
    found = np.empty(scales.shape), np.zeros(scales.shape)
    for part in blocks(*groups.shape):
        w = groups[part].astype(np.float32, copy=False)
        if offsets is None:
            found[0][part], found[1][part] = _refined(w, _half(scales[part]), None, ends)
        else:
            start = _better(w, (_half(scales[part]), _half(offsets[part])), _whole_range(w, ends), ends)
            found[0][part], found[1][part] = _refined(w, *start, ends)
    return found


def _whole_range(w: Array, ends: tuple[int, int]) -> tuple[Array, Array]:
    """Scales and offsets that clip nothing."""
    low, high = w.min(axis=1, initial=np.inf), w.max(axis=1, initial=-np.inf)
    scales = np.maximum(_half((high - low) / np.float32(ends[1] - ends[0])), SMALLEST)
    return scales, _half(low - ends[0] * scales)


def _better(w: Array, one: tuple[Array, Array], two: tuple[Array, Array], ends: tuple[int, int]) -> tuple[Array, Array]:
    """Of each group that of two which loses less."""
    is_first = loss(w, *one, ends) <= loss(w, *two, ends)
    return np.where(is_first, one[0], two[0]), np.where(is_first, one[1], two[1])


def loss(groups: Array, scales: Array, offsets: Array, ends: tuple[int, int]) -> Array:
    """sum |w - (code * scale + offset)|^p of each group with its nearest codes: [N]."""
    left = groups - (_codes(groups, scales, offsets, ends) * scales[:, None] + offsets[:, None])
    total: Array = (np.abs(left) ** POWER).sum(axis=1)
    return total


def _refined(w: Array, scales: Array, start: Array | None, ends: tuple[int, int]) -> tuple[Array, Array]:
    offsets = np.zeros_like(scales) if start is None else start
    least, kept, sharpness = np.full(len(w), np.inf, np.float32), (scales, offsets), SHARPNESS
    for _ in range(ROUNDS):
        codes = _codes(w, scales, offsets, ends)
        left = w - (codes * scales[:, None] + offsets[:, None])
        size = np.abs(left)
        slopes = np.maximum(size, np.float32(1e-30)) ** (POWER - 1)
        losses = (slopes * size).sum(axis=1)
        is_better = losses < least
        least = np.where(is_better, losses, least)
        kept = np.where(is_better, scales, kept[0]), np.where(is_better, offsets, kept[1])
        threshold = slopes * scales[:, None] ** (2 - POWER) / np.float32(sharpness)
        rest = w - np.sign(left) * np.maximum(size - threshold, 0)
        scales, offsets = _fitted(codes, rest, scales, is_free=start is not None)
        sharpness *= GROWTH
    return kept


def _fitted(codes: Array, w: Array, scales: Array, *, is_free: bool) -> tuple[Array, Array]:
    """The scales and offsets with the least squared error for these codes; is_free: whether there are offsets."""
    apart = codes - codes.mean(axis=1, keepdims=True) if is_free else codes
    spread = np.maximum((apart * apart).sum(axis=1), np.float32(1e-30))
    fitted = (apart * w).sum(axis=1) / spread
    scales = np.maximum(_half(np.where(fitted > 0, fitted, scales)), SMALLEST)  # codes may be all alike
    offsets = (w - codes * scales[:, None]).mean(axis=1) if is_free else np.zeros_like(scales)
    return scales, _half(offsets)


def _codes(w: Array, scales: Array, offsets: Array, ends: tuple[int, int]) -> Array:
    return np.clip(np.rint((w - offsets[:, None]) / scales[:, None]), *ends)


def _half(x: Array) -> Array:
    """As half-floats hold it."""
    made: Array = np.clip(x, -LARGEST, LARGEST).astype(np.float16).astype(np.float32)
    return made
