"""Scales and offsets of groups with the least error of what a layer makes, for codes that are found.

The error of a channel is (w - w')^T H (w - w') with H = E[x x^T]. One group after the other gets the scale and the
offset that are best beside those of the others, as half-floats hold them, where they make the error smaller.
"""

from __future__ import annotations

import numpy as np

from ..graph.ir import Array

SWEEPS = 2


def refit(rows: Array, codes: Array, scales: Array, offsets: Array, moments: Array) -> tuple[Array, Array]:
    """Scales and offsets [N, G], exact in float16, from those that weights [N, K] were rounded with; moments: H."""
    scales, offsets = scales.copy(), offsets.copy()
    size = rows.shape[1] // scales.shape[1]
    left = rows - (codes * np.repeat(scales, size, axis=1) + np.repeat(offsets, size, axis=1))
    for _ in range(SWEEPS):
        for group in range(scales.shape[1]):
            at = slice(group * size, (group + 1) * size)
            code, own = codes[:, at].astype(np.float64), moments[at, at]
            towards, spread = left @ moments[:, at], code @ own
            slopes = (code * towards).sum(axis=1), towards.sum(axis=1)
            curves = (spread * code).sum(axis=1), spread.sum(axis=1), own.sum()
            determinant = curves[0] * curves[2] - curves[1] ** 2
            solvable = determinant > 1e-9 * np.abs(curves[0] * curves[2])
            divisor = np.where(solvable, determinant, 1.0)
            more = (slopes[0] * curves[2] - slopes[1] * curves[1]) / divisor
            lift = (slopes[1] * curves[0] - slopes[0] * curves[1]) / divisor
            scale, offset = _half(scales[:, group] + more), _half(offsets[:, group] + lift)
            more, lift = scale - scales[:, group], offset - offsets[:, group]
            change = more**2 * curves[0] + 2 * more * lift * curves[1] + lift**2 * curves[2]
            change -= 2 * (more * slopes[0] + lift * slopes[1])
            taken = solvable & (change < 0) & (scale > 0) & np.isfinite(scale) & np.isfinite(offset)
            more, lift = np.where(taken, more, 0.0), np.where(taken, lift, 0.0)
            scales[:, group] += more
            offsets[:, group] += lift
            left[:, at] -= code * more[:, None] + lift[:, None]
    return scales, offsets


def _half(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float64)
