"""Which values that linear layers read may have one static range for all rows: measured at the graph's outputs.

A static range is faster than a range for each row. What it costs is not seen where it is: the layers behind may drop
its noise, or amplify it a hundred times. So whole integer graphs are rehearsed on a few samples, with weights rounded
to nearest, and the noise of their float outputs is compared with that of the graph with a range for every row.

Values are ordered by what their static range adds to the noise of their own readers, for what it saves; the longest
front part that the outputs bear is found by bisection, then parts of the rest are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

from ..graph.ir import Array, Graph
from .calibrate import Feeds, batches, runner
from .row_ranges import decibels

EXTRA = 0.06
"""What all static ranges together may add to the noise of an output, as a share of it: 0.3 dB."""
LOUD = 0.03
"""Noise of an output, as a share of the signal, in which what a static range adds can no longer be measured: -15 dB."""
UNHEARD = 1e-4
"""What noise of the outputs, as a share of the signal, is small enough to choose by speed: -40 dB."""
FASTER = 1.25
"""How many times faster all layers must be with static ranges to choose so."""
SAMPLES = 32
"""Samples that graphs are rehearsed on, about."""
PIECES = 16
"""Of the calibration data, that they come from, at most."""
MORE = 4
"""Rehearsals of parts of what the bisection left."""

Noise = Callable[[Graph], Array]


def measure(graph: Graph, data: Iterable[Feeds], threads: int | None = None) -> Noise | None:
    """A function from an integer form of `graph` to the noise of each float output, a share of the signal: f64 [n].

    Samples are of every second piece of the data, from the second on: ranges that are tried come from the others. None
    where there is but one piece.
    """
    names = [name for name in graph.outputs if graph.values[name].dtype == "f32"]
    pieces = list(_samples(graph, data))
    if not pieces:
        return None
    plain = runner(graph, names, threads)
    expected = [{name: array.astype(np.float64) for name, array in plain(piece).items()} for piece in pieces]
    signal = np.array([sum(float(np.square(piece[name]).sum()) for piece in expected) for name in names])

    def noise(coded: Graph) -> Array:
        call = runner(coded, names, threads)
        error = np.zeros(len(names))
        for piece, exact in zip(pieces, expected, strict=True):
            found = call(piece)
            error += [float(np.square(found[name] - exact[name]).sum()) for name in names]
        share: Array = error / np.maximum(signal, np.finfo(np.float64).tiny)
        return share

    return noise


def _samples(graph: Graph, data: Iterable[Feeds]) -> Iterable[Feeds]:
    """Every second piece of the data, until there are `SAMPLES` samples."""
    seen = 0
    for batch in islice(batches(graph, data), 1, 2 * PIECES, 2):
        yield batch.feeds
        seen += max((len(array) for array in batch.feeds.values() if array.ndim), default=1)
        if seen >= SAMPLES:
            return


def bearable(
    ordered: Sequence[str], noise: Callable[[Sequence[str]], Array], microseconds: Callable[[Sequence[str]], float]
) -> tuple[list[str], str]:
    """The values that may be static together, and why; both functions: where these values are static and no others.

    ordered: the best to have static comes first. noise: of the outputs. microseconds: of the graph's layers.
    """
    least = noise(())
    if not (least <= LOUD).all():
        return [], ""
    whole = noise(ordered)
    limit = (1 + EXTRA) * least
    most = f"{10 * np.log10(1 + EXTRA):.1f} dB"
    within = f"one range for all rows: all such layers together raise the outputs' noise by {most} at most"
    if (whole <= limit).all():
        return list(ordered), within
    gain = microseconds(()) / max(microseconds(ordered), 1e-9)
    if gain >= FASTER and (whole <= UNHEARD).all():
        return list(ordered), (
            f"one range for all rows: layers are {gain:.1f} times faster so than with a range for each row, and the "
            f"outputs' noise is {decibels(float(whole.max()))} instead of {decibels(float(least.max()))}"
        )

    def bears(values: Sequence[str]) -> bool:
        return bool((noise(values) <= limit).all())

    low, high = 0, len(ordered)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bears(ordered[:middle]) else (low, middle)
    kept, rest = list(ordered[:low]), list(ordered[high:])  # what is between is more than they bear
    size = len(rest)
    for _ in range(MORE):
        if not rest:
            break
        part = rest[:size]
        if bears([*kept, *part]):
            kept, rest = [*kept, *part], rest[size:]
        elif size == 1:
            rest = rest[1:]
        size = max(min(size, len(rest)) // 2, 1)
    return kept, within
