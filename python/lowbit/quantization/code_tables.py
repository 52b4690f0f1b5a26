"""Rounds the weights of layers to sixteen values of a table, each channel's times a scale: four bits a code.

The values are whole numbers of eight bits, so that the kernels of eight bits read them, in the time of eight bits.

    pow2    0, 1, 2, 4 .. 64 with both signs, and -128     Miyashita et al. 2016 (arXiv:1603.01025), base 2
    nf4     quantiles of a normal distribution             Dettmers et al. 2023, "QLoRA" (arXiv:2305.14314), appendix E
    kmeans  learned for each layer                         `kmeans.py`
"""

from __future__ import annotations

import math

import numpy as np

from ..graph.ir import Array
from .kmeans import learned
from .least_error import blocks
from .round_weights import Codes, Factored, cells_of, nearest_values, round_compensated, round_flat

_NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
TABLES = {
    "pow2": np.array([-128, *(-(2**e) for e in range(6, -1, -1)), 0, *(2**e for e in range(7))], np.int8),
    "nf4": np.rint(127 * np.array(_NF4)).astype(np.int8),
}
"""In order, with a zero: weights that are zero stay so."""
SHARES = np.geomspace(1.5, 0.3, 16)
"""Of the scale that puts a channel's largest weight on the largest value: those that are tried."""
PASSES = 3
"""How often the best of them is fitted to what it rounds to."""


def round_to_values(weight: Array, kind: str, *, moments: Factored | None = None, flat: bool = False) -> Codes:
    """Codes of a weight [N, ...]: the nearest values; with the inputs' moments, or of windows on flat images, those
    whose errors cancel, as `round_compensated` and `round_flat` find them.

    kind: of `schemes.VALUES`.
    """
    rows = weight.reshape(len(weight), math.prod(weight.shape[1:])).astype(np.float32)
    values = TABLES[kind] if kind in TABLES else learned(rows)
    scales = best_scales(rows, values)
    if kind == "kmeans":  # once more, by the scales that these values have
        values = learned(rows, scales)
        scales = best_scales(rows, values)
    if moments is not None:
        return round_compensated(weight, moments, scales=scales, values=values)
    if flat and math.prod(weight.shape[2:]) > 1:
        return round_flat(weight, scales=scales, values=values)
    codes, cells = np.empty(rows.shape, np.int8), cells_of(values)
    for part in blocks(*rows.shape):
        codes[part] = nearest_values(rows[part] / scales[part, None], cells)
    return Codes(codes=codes.reshape(weight.shape), scales=scales, values=values)


def best_scales(rows: Array, values: Array) -> Array:
    """For each row [N, K] the scale with about the least squared error of nearest rounding: float64 [N], exact in
    float32."""
    cells = cells_of(values).astype(np.float32)
    found = [_best_scales(rows[part], values, cells) for part in blocks(*rows.shape)]
    return np.concatenate(found) if found else np.zeros(0)


def _best_scales(rows: Array, values: Array, cells: Array) -> Array:
    """Of a few shares the best, then the least squares fit to what it rounds to, some times (as Lloyd's algorithm)."""
    widest = np.abs(rows).max(axis=1, initial=0.0) / np.float32(np.abs(values.astype(np.int16)).max())
    widest = np.where(widest > 0, widest, np.float32(1))
    even = rows / widest[:, None]
    best, lowest = np.ones(len(rows)), np.full(len(rows), np.inf)
    for share in SHARES.tolist():
        best, lowest, _ = _better(even, cells, best, lowest, np.full(len(rows), share))
    for _ in range(PASSES):
        _, _, q = _better(even, cells, best, lowest, best)
        squares = np.einsum("nk,nk->n", q, q, dtype=np.float64)
        fitted = np.einsum("nk,nk->n", q, even, dtype=np.float64) / np.maximum(squares, 1e-30)
        best, lowest, _ = _better(even, cells, best, lowest, np.where(fitted > 0, fitted, best))
    # A float32 scale is what the file holds: the codes must be chosen for that very number.
    found: Array = np.maximum((best * widest).astype(np.float32), np.finfo(np.float32).tiny).astype(np.float64)
    return found


def _better(rows: Array, cells: Array, best: Array, lowest: Array, scales: Array) -> tuple[Array, Array, Array]:
    """The better of two scales for each row, its error, and what the rows become by the second, over its scale."""
    steps = scales.astype(np.float32)[:, None]
    q = nearest_values(rows / steps, cells)
    errors = np.square(q * steps - rows).sum(axis=1, dtype=np.float64)
    is_better = errors < lowest
    return np.where(is_better, scales, best), np.where(is_better, errors, lowest), q
