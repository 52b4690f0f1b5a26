"""Which models gain from batches of several requests, found when a model is loaded.

A batch pays where reading weights takes longer than multiplying by them, as in large linear layers; convolutions gain
nothing. So it is timed. Rows must come to the same bits alone and among others, whatever these are: of lowbit's
operators that is so unless the model itself mixes rows, and it is checked, too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from ..errors import LowbitError
from ..graph.ir import Array
from ..runtime.session import Session

GAIN = 1.25
"""How much faster a row must be in a batch than alone."""
LATENCY = 0.05
"""Seconds that a batch may take, and so the most that another request waits for it."""
SIZES = (4, 8, 16, 32, 64)
_SECONDS = 0.5
_ROUNDS = 3


def rows_that_pay(session: Session, row: str, most: int) -> int:
    """How many rows of several requests a batch may have; 1 where batches do not pay, or rows are not independent.

    row: the free size that counts rows. most: the caller's bound.
    """
    try:
        one = session.made_up({row: 1})
        if any(len(array) != 1 for array in one):
            return 1  # a single row is not possible
        return _timed(session, one, most)
    except LowbitError:
        return 1  # these sizes are not possible, or take more than the session may


def _timed(session: Session, one: Sequence[Array], most: int) -> int:
    alone, best, until = _seconds(session, one), 1, time.perf_counter() + _SECONDS
    fastest = alone / GAIN
    for size in (size for size in SIZES if size <= most):
        many = [np.concatenate([array] * size) for array in one]
        taken = _seconds(session, many)
        alone = min(alone, _seconds(session, one))
        if taken > max(LATENCY, alone) or taken / size > min(fastest, alone / GAIN) * 1.02:
            break
        fastest, best = min(fastest, taken / size), size
        if time.perf_counter() > until:
            break
    return best if best == 1 or _rows_are_independent(session, one, best) else 1


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
