"""Finds the factors of a linear layer's input that leave least noise in its output.

Rows x are rounded as x f, with one range for all values, and weights as W / f, with a scale for each output. Rounding
by steps d makes noise of d^2 / 12, so that a row's output has noise of

    (range(x f) / 255)^2 / 12  sum_k |W[:, k]|^2 / f[k]^2   +   sum_n (max_k |W[n, k] / f[k]| / 127)^2 / 12  |x f|^2

Large factors make the range and the second term, small ones the rest: what is best depends on rows and weights alike.
In log f all terms are exponentials, sums and maxima of these, and products of such sums: the logarithm of the whole is
convex, a geometric programme, so that descent finds the least from wherever it begins.

Sources: Boyd et al. 2007, "A tutorial on geometric programming"; Xiao et al. 2023, "SmoothQuant" (arXiv:2211.10438),
where factors are powers of both ranges; Kingma and Ba 2014 (arXiv:1412.6980) for the steps of the descent.
"""

from __future__ import annotations

import numpy as np

from ..graph.ir import Array
from .round_weights import LIMIT

STEPS = 100
"""Of the descent; more gain less than 1 %."""
RATE = 0.05
"""How much log f changes in the first step, about; less and less in the next ones."""
FADES = (0.9, 0.99)
"""What means over gradients and their squares keep at each step."""


def least_noise(x: Array, weights: Array, worth: Array, share: float, codes: Array) -> Array:
    """log f of the factors f of rows x [rows, K] that weights [outputs, K] meet, float64 [K].

    worth: what noise in each row's output counts, [rows]. share: of nearest rounding's noise that weights keep. codes:
    how many codes each value of a row has, [K].
    """
    noise = _Noise(x, weights, worth, share, codes)
    logs = np.zeros(x.shape[1])
    mean, square = np.zeros_like(logs), np.zeros_like(logs)
    for step in range(STEPS):
        gradient = noise.gradient(logs)
        mean += (1 - FADES[0]) * (gradient - mean)
        square += (1 - FADES[1]) * (np.square(gradient) - square)
        whole_mean, whole_square = (
            each / (1 - fade ** (step + 1)) for each, fade in zip((mean, square), FADES, strict=True)
        )
        logs -= RATE * (1 - step / STEPS) * whole_mean / (np.sqrt(whole_square) + 1e-12)
    return logs


class _Noise:
    """The noise of rows and weights as a function of log f."""

    def __init__(self, x: Array, weights: Array, worth: Array, share: float, codes: Array) -> None:
        self._x, self._weights = x / codes.astype(np.float32), np.abs(weights)
        self._worth = worth.astype(np.float64) / len(x)
        self._columns = codes * np.square(weights, dtype=np.float64).sum(axis=0) / (12 * 255**2)
        self._energies = share * (self._worth @ np.square(x, dtype=np.float64)) / (12 * LIMIT**2)
        self._rows = np.arange(len(x))
        self._outputs = np.arange(len(weights))
        self._scaled = np.empty_like(self._x)
        self._divided = np.empty_like(self._weights)

    def gradient(self, logs: Array) -> Array:
        """Of the noise's logarithm."""
        factors = np.exp(logs)
        ranges, by_range = self._ranges(factors)
        scales, by_scale = self._scales(factors)
        columns, energies = self._columns / factors**2, self._energies * factors**2
        of_rows, of_weights = ranges * columns.sum(), scales * energies.sum()
        slope = columns.sum() * by_range - 2 * ranges * columns + 2 * scales * energies - energies.sum() * by_scale
        made: Array = slope / max(of_rows + of_weights, np.finfo(np.float64).tiny)
        return made

    def _ranges(self, factors: Array) -> tuple[float, Array]:
        """The sum of the rows' squared ranges, as each is worth, and its gradient."""
        scaled = np.multiply(self._x, factors.astype(np.float32), out=self._scaled)
        ends = scaled.argmax(axis=1), scaled.argmin(axis=1)
        high = np.maximum(scaled[self._rows, ends[0]], 0.0).astype(np.float64)
        low = np.minimum(scaled[self._rows, ends[1]], 0.0).astype(np.float64)
        weighed = self._worth * (high - low)
        slope = np.bincount(ends[0], 2 * weighed * high, len(factors))
        slope -= np.bincount(ends[1], 2 * weighed * low, len(factors))
        return float(weighed @ (high - low)), slope

    def _scales(self, factors: Array) -> tuple[float, Array]:
        """The sum of the outputs' squared largest weights, and its gradient without its sign."""
        divided = np.multiply(self._weights, (1 / factors).astype(np.float32), out=self._divided)
        widest = divided.argmax(axis=1)
        squares = np.square(divided[self._outputs, widest], dtype=np.float64)
        return float(squares.sum()), np.bincount(widest, 2 * squares, len(factors))
