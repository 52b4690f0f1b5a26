"""Learns the sixteen values that a layer's weights share: k-means in one dimension, over a histogram.

Source: Han et al. 2016, "Deep Compression" (arXiv:1510.00149), section 3. Unlike there, channels have scales of their
own, and the first values lie where Panter and Dite 1951 ("Quantization distortion in pulse-count modulation") put them:
as dense as the cube root of the weights' density.
"""

from __future__ import annotations

import numpy as np

from ..graph.ir import Array

COUNT = 16
BINS = 4096
ROUNDS = 60
LARGEST = 127


def learned(rows: Array, norms: Array | None = None) -> Array:
    """Sixteen int8 values, in order and with a zero, for rows [N, K] of weights, float32.

    norms: [N], by which each row is divided first; else the roots of the mean squares of what is not zero in it.
    """
    if norms is None:
        counts = np.maximum(np.count_nonzero(rows, axis=1), 1)
        norms = np.sqrt(np.einsum("nk,nk->n", rows, rows, dtype=np.float64) / counts)
    norms = np.where(norms > 0, norms, 1.0)
    scaled = (rows / norms[:, None]).astype(np.float32)
    end = float(np.abs(scaled).max(initial=0.0)) or 1.0
    weights = np.broadcast_to(np.square(norms / norms.max(initial=1e-300))[:, None], rows.shape)
    kept = scaled != 0
    mass, edges = np.histogram(scaled[kept], BINS, (-end, end), weights=weights[kept])
    centres = _means(mass, (edges[1:] + edges[:-1]) / 2)
    codes = np.rint(centres * (LARGEST / np.abs(centres).max())).astype(np.int8)
    return _distinct(codes)


def _means(mass: Array, places: Array) -> Array:
    """The centres of clusters of a histogram, in order; that nearest zero is zero."""
    share = np.cumsum(np.cbrt(mass) + 1e-12 * np.cbrt(mass.max(initial=1.0)))
    wanted = (np.arange(COUNT) + 0.5) / COUNT * share[-1]
    centres: Array = places[np.searchsorted(share, wanted)]
    moment = mass * places
    for _ in range(ROUNDS):
        centres[np.abs(centres).argmin()] = 0.0
        owner = np.searchsorted((centres[1:] + centres[:-1]) / 2, places)
        masses, moments = np.bincount(owner, mass, COUNT), np.bincount(owner, moment, COUNT)
        centres = np.where(masses > 0, moments / np.where(masses > 0, masses, 1.0), centres)
    centres[np.abs(centres).argmin()] = 0.0
    return centres


def _distinct(codes: Array) -> Array:
    """Sixteen different codes in order: those that fell together make room at the next free number."""
    free = [code for code in sorted(range(-LARGEST, LARGEST + 1), key=abs) if code not in set(codes.tolist())]
    found = sorted({*codes.tolist(), 0})
    missing = COUNT - len(found)
    return np.array(sorted([*found, *free[:missing]])[:COUNT], np.int8)
