"""Rounds weights to their signs, times the mean of the magnitudes of a group: one bit a weight.

Of all scales the mean loses least squared error: Rastegari et al. 2016, "XNOR-Net" (arXiv:1603.05279), section 3.1.
"""

from __future__ import annotations

import numpy as np

from ..graph.ir import Array

VALUES = np.array([-1, 1], np.float32)
"""What the codes 0 and 1 stand for."""
SMALLEST = float(np.finfo(np.float16).tiny)


def mean_magnitudes(groups: Array) -> Array:
    """Of weights [N, G, size], half-floats as float64 [N, G]."""
    means = np.abs(groups).mean(axis=2, dtype=np.float64).astype(np.float16).astype(np.float64)
    found: Array = np.maximum(means, SMALLEST)
    return found
