"""Finds which of a few scales rounds a row of weights with the least squared error, as if float64 had tried them all.

All are tried in float32, in blocks that stay in the cache. A scale's error is a norm, so that what float32 makes of it
is off by no more than a bound (the triangle inequality); where the bounds of several overlap, float64 decides between
these few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import _core
from ..graph.ir import Array

TOGETHER = 1 << 17
"""Weights whose scales are sought together: they stay in the cache."""
ROUNDING = 2.0**-22
"""Of a scaled weight, which two or three roundings of float32 have made."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleTrial:
    """One of the scales: codes are rint(row * factor), clipped to low .. high; `step` is what a code is worth.

    Each is a number, or one for each row.
    """

    factor: Array | float
    low: Array | float
    high: Array | float
    step: Array | float


def blocks(rows: int, size: int) -> Iterator[slice]:
    """Cuts so many rows of that size into parts of TOGETHER weights."""
    step = max(TOGETHER // max(size, 1), 1)
    return (slice(first, first + step) for first in range(0, rows, step))


def least(
    rows: Array,
    trials: Sequence[ScaleTrial],
    reach: float,
    exact: Callable[[int, Array], Array],
    *,
    margin: float = 0.0,
) -> Array:
    """For each of the rows [N, K], float32, the place of the first trial with the least squared error.

    reach: no product with a factor is larger. exact(place, which rows) -> their errors with that trial, in float64.
    margin: a later trial must be better by this share.
    """
    may = _candidates(rows, trials, reach)
    chosen: Array = may.argmax(axis=0)
    (open_,) = np.nonzero(may.sum(axis=0) > 1)
    lowest = np.full(len(open_), np.inf)
    for place in range(len(trials)):
        (tried,) = np.nonzero(may[place, open_])
        if len(tried) == 0:
            continue
        errors = exact(place, open_[tried])
        is_better = errors < lowest[tried] * (1 - margin)
        better = tried[is_better]
        chosen[open_[better]], lowest[better] = place, errors[is_better]
    return chosen


def _candidates(rows: Array, trials: Sequence[ScaleTrial], reach: float) -> Array:
    """Which trials may be the best of a row: bool [trials, N]."""
    depth, shape = rows.shape[1], (len(trials), len(rows))
    factors, lows, highs = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    slack = np.empty(shape)
    for place, trial in enumerate(trials):
        factors[place], lows[place], highs[place], slack[place] = trial.factor, trial.low, trial.high, trial.step
    errors = _core.rounding_errors(np.ascontiguousarray(rows), factors, lows, highs)
    norms = np.sqrt(errors, dtype=np.float64) * slack
    slack = slack * (reach * ROUNDING * depth**0.5) + norms * (1e-6 + depth * 2.0**-24)
    may: Array = norms - slack <= (norms + slack).min(axis=0)
    may[1:] &= rows.any(axis=1)  # zeros lose nothing by any
    return may
