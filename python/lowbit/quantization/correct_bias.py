"""Takes the mean error that quantization makes in each output channel of a layer out of the layer's bias.

    b'[c] = b[c] + W[c] . E[x] - Wq[c] . E[q(x)]

n / (n + 16) of it, where few x were seen: n.

x is what the weights meet in the float graph on the calibration data, q(x) the same after its own quantization: each
layer answers for its own rounding of weights and inputs, and for nothing before it, so that all are corrected at once.

Source: Nagel et al. 2019 (arXiv:1906.04721), section 4.2, with measured means instead of those of batch normalization.
"""

from __future__ import annotations

import numpy as np

from ..graph.ir import Array
from .layer_inputs import UNKNOWN, Seen


def correct_bias(bias: Array, weight: Array, rounded: Array, seen: Seen) -> Array:
    """The corrected bias, float64 [N]; weight and rounded: [N, ...], before and after rounding."""
    error = _product(weight, seen.mean) - _product(rounded, seen.coded_mean)
    corrected: Array = bias + error * (seen.rows / (seen.rows + UNKNOWN))
    return corrected


def _product(weight: Array, x: Array) -> Array:
    """W . x for each output channel: weight [N, ...], x [groups, K]."""
    rows = weight.reshape(len(x), -1, x.shape[1]).astype(np.float64)
    product: Array = np.einsum("gnk,gk->gn", rows, x).reshape(-1)
    return product
