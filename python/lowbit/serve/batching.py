"""Which models gain from batches of several requests, found when a model is loaded.

A batch pays where reading weights takes longer than multiplying by them, as in large linear layers; convolutions gain
nothing. So it is timed. Rows must come to the same bits alone and among others, whatever these are: of lowbit's
operators that is so unless the model itself mixes rows, and it is checked, too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import LowbitError
from ..graph.ir import Array
from ..runtime.session import Session

GAIN, WORTH = 1.25, 1e-4
"""How much faster a row must be in a batch than alone: so many times, and by so many seconds, which a batch costs."""
LATENCY = 0.05
"""Seconds that a batch may take."""
SIZES = (4, 8, 16, 32, 64)
_NEAR = 1.1
_SECONDS = 1.0
_ROUNDS = 3


class Batches(NamedTuple):
    """rows: of several requests together, at most. delay: seconds that a request may wait for others at most."""

    rows: int
    delay: float


ALONE = Batches(1, 0.0)


def batches_that_pay(session: Session, row: str, most: int) -> Batches:
    """What batches a model gains from; `ALONE` where they do not pay, or rows are not independent.

    A request waits for others no longer than a call of one row takes, and only where others have come of late.

    row: the free size that counts rows. most: the caller's bound.
    """
    try:
        one = session.made_up({row: 1})
        if any(len(array) != 1 for array in one):
            return ALONE  # a single row is not possible
        alone, times = _timed(session, one, most)
        paid = {size: each for size, each in times.items() if alone - each > WORTH and alone / each > GAIN}
        if not paid:
            return ALONE
        rows = max(size for size, each in paid.items() if each <= _NEAR * min(paid.values()))
        return Batches(rows, min(alone, LATENCY)) if _rows_are_independent(session, one, rows) else ALONE
    except LowbitError:
        return ALONE  # these sizes are not possible, or take more than the session may


def _timed(session: Session, one: Sequence[Array], most: int) -> tuple[float, dict[int, float]]:
    """Seconds of a row alone, and of a row in batches of some sizes."""
    alone, times, until = _seconds(session, one), dict[int, float](), time.perf_counter() + _SECONDS
    for size in (size for size in SIZES if size <= most):
        taken = _seconds(session, [np.concatenate([array] * size) for array in one])
        alone = min(alone, _seconds(session, one))
        if taken > LATENCY or time.perf_counter() > until:
            break
        times[size] = taken / size
        if size >= SIZES[1] and alone / min(times.values()) < GAIN:
            break  # nor will larger ones
    return alone, times


def _seconds(session: Session, arrays: Sequence[Array]) -> float:
    """Of a call: the least of a few, after one that makes its plan."""
    session.run_list([*arrays])
    found = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        session.run_list([*arrays])
        found.append(time.perf_counter() - start)
        if found[0] > LATENCY:
            break
    return min(found)


def _rows_are_independent(session: Session, one: Sequence[Array], size: int) -> bool:
    """Whether rows among others, of like and of quite other numbers, come to the bits that they come to alone."""
    random = np.random.default_rng(0)
    batch = [np.concatenate([_like(array, scale, random) for scale in _scales(size)]) for array in one]
    together = session.run_list(batch)
    for at in range(size):
        alone = session.run_list([array[at : at + 1] for array in batch])
        if any(a[at].tobytes() != b[0].tobytes() for a, b in zip(together, alone, strict=True)):
            return False
    return True


def _scales(size: int) -> list[float]:
    return [(1.0, 0.0, 1e3, 1e-3)[index % 4] for index in range(size)]


def _like(array: Array, scale: float, random: np.random.Generator) -> Array:
    if array.dtype.kind == "f":
        return (random.standard_normal(array.shape) * scale).astype(array.dtype)
    return random.permutation(array.ravel()).reshape(array.shape)
