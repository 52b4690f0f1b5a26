"""What values a float graph's tensors take on calibration data, and which 8-bit range holds them best.

Each observed value has one streaming histogram of fixed size. Its bins are aligned to zero and a power of two wide, so
growing the range merges bins exactly: the result does not depend on the order of the batches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import CalibrationError, InputError
from ..graph.ir import Array, Graph, Node, Quant, replace
from ..ops.interpreter import begin, bind, run, without_states
from ..progress import Progress as Progress
from ..runtime.limits import OWN
from ..runtime.session import Session
from .schemes import Scheme

Feeds = Mapping[str, Array]
Runner = Callable[[Feeds], dict[str, Array]]

BINS = 4096
SAMPLES = 1 << 18
"""At most so many elements of one batch enter a histogram (evenly spread); minimum and maximum see all of them."""
CHUNK = 8
"""Batches of a free batch size are cut into pieces of so many samples: that bounds the memory of a run."""


class Histogram:
    """Counts and sums of one value's elements in `BINS` bins at most; exact zeros, minimum and maximum apart."""

    def __init__(self) -> None:
        self.minimum, self.maximum = math.inf, -math.inf
        self.exponent = -149
        """Bins are 2^exponent wide; bin i starts at (first + i) * 2^exponent."""
        self.first = 0
        self.counts = np.zeros(0, np.int64)
        self.sums = np.zeros(0, np.float64)
        self.zeros = 0

    def add(self, x: Array) -> None:
        """Takes in one float32 array. Raises CalibrationError if an element is not finite."""
        flat = x.reshape(-1)
        if flat.size == 0:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError(f"{int((~np.isfinite(flat)).sum())} of {flat.size} elements are NaN or infinite")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        if flat.size > SAMPLES:
            step = -(-flat.size // SAMPLES) | 1  # odd, so that it does not fall into step with rows
            flat = flat[::step]
        self._grow()
        flat = flat.astype(np.float64)
        kept = flat[flat != 0]
        self.zeros += flat.size - kept.size
        bins = np.floor(np.ldexp(kept, -self.exponent)).astype(np.int64) - self.first
        self.counts += np.bincount(bins, minlength=self.counts.size)
        self.sums += np.bincount(bins, weights=kept, minlength=self.counts.size)

    def merge(self, other: Histogram) -> None:
        """Takes in all that another histogram has seen."""
        if other.minimum > other.maximum:
            return
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self._grow(other.exponent)
        self.zeros += other.zeros
        bins = ((np.arange(other.counts.size) + other.first) >> (self.exponent - other.exponent)) - self.first
        np.add.at(self.counts, bins, other.counts)
        np.add.at(self.sums, bins, other.sums)

    def _grow(self, least: int = -149) -> None:
        """Makes the bins cover [minimum, maximum], as fine as `BINS` of them can be."""
        low, high = min(self.minimum, 0.0), max(self.maximum, 0.0)
        exponent = max(self.exponent, least)
        while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= BINS:
            exponent += 1
        first = math.floor(math.ldexp(low, -exponent))
        size = math.floor(math.ldexp(high, -exponent)) - first + 1
        counts, sums = np.zeros(size, np.int64), np.zeros(size, np.float64)
        bins = ((np.arange(self.counts.size) + self.first) >> (exponent - self.exponent)) - first
        np.add.at(counts, bins, self.counts)
        np.add.at(sums, bins, self.sums)
        self.exponent, self.first, self.counts, self.sums = exponent, first, counts, sums

    def points(self) -> tuple[Array, Array]:
        """The means of the bins that are not empty and their counts, zeros included: (float64 [n], int64 [n])."""
        used = np.flatnonzero(self.counts)
        x, n = self.sums[used] / self.counts[used], self.counts[used]
        if self.zeros:
            place = int(np.searchsorted(x, 0.0))
            x, n = np.insert(x, place, 0.0), np.insert(n, place, self.zeros)
        return x, n


# --------------------------------------------------------------------------------------------------------------- ranges


def affine(low: float, high: float) -> Quant:
    """The u8 scale and zero point for [low, high] widened to hold 0, which gets a code of its own."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255)) or 1.0
    scale = max(scale, float(np.finfo(np.float32).tiny))
    return Quant(scale=scale, zero_point=int(np.clip(np.rint(-low / scale), 0, 255)))


def quantized(x: Array, quant: Quant) -> Array:
    """The numbers that the codes of `x` stand for, float64."""
    scale, zero = float(quant.scale), int(quant.zero_point)
    return np.clip(np.rint(x / scale), -zero, 255 - zero) * scale


def minmax_range(histogram: Histogram) -> tuple[float, float]:
    """All that was seen."""
    return min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)


def percentile_range(histogram: Histogram, percentile: float = 99.99) -> tuple[float, float]:
    """What holds `percentile` % of the elements from each side; an end that is 0 needs no cut."""
    x, n = histogram.points()
    if x.size == 0:
        return 0.0, 0.0
    seen = np.cumsum(n)
    outside = (1 - percentile / 100) * seen[-1]
    low = x[int(np.searchsorted(seen, outside, side="right"))]
    high = x[int(np.searchsorted(seen, seen[-1] - outside, side="left"))]
    low, high = max(float(low), histogram.minimum), min(float(high), histogram.maximum)
    low, high = min(low, 0.0), max(high, 0.0)
    return minmax_range(histogram) if percentile >= 100 or low == high else (low, high)


def mse_range(histogram: Histogram, function: Callable[[Array], Array] | None = None) -> tuple[float, float]:
    """What minimizes E[(f(x) - f(quantized x))^2], by golden-grid search over both ends; f is the identity by default.

    With `function`, the activation that a table will apply, no code is spent where it is flat.
    """
    x, n = histogram.points()
    low, high = minmax_range(histogram)
    if x.size == 0 or low == high:
        return low, high
    f = function or (lambda values: values)
    target = f(x)

    def loss(ends: tuple[float, float]) -> float:
        return float(n @ (f(quantized(x, affine(*ends))) - target) ** 2)

    best, least = (low, high), loss((low, high))
    span, factors = (low, high), np.linspace(0.05, 1.0, 96)
    for _ in range(3):  # one end at a time, until neither moves
        before = best
        for end in (0, 1):
            if span[end] == 0:
                continue
            for factor in factors:
                trial = (span[0] * factor, best[1]) if end == 0 else (best[0], span[1] * factor)
                error = loss(trial)
                if error < least * (1 - 1e-9):
                    best, least = trial, error
        if best == before:
            break
    return best


def choose(histogram: Histogram, scheme: Scheme, function: Callable[[Array], Array] | None = None) -> Quant:
    """Scale and zero point by the scheme's range method, or for what a table is applied to, by `mse_range`."""
    if function is not None or scheme.range_method == "mse":
        return affine(*mse_range(histogram, function))
    if scheme.range_method == "percentile":
        return affine(*percentile_range(histogram, scheme.percentile))
    return affine(*minmax_range(histogram))


# ------------------------------------------------------------------------------------------------------------ observing


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A piece of calibration data, and the number of the batch that it came from."""

    number: int
    feeds: Feeds


def batches(graph: Graph, calibration: Iterable[Feeds]) -> Iterator[Batch]:
    """The data in pieces of about `CHUNK` samples where the batch size is free. Raises CalibrationError."""
    graph = without_states(graph)
    leading = {graph.values[name].shape[0] if graph.values[name].shape else 1 for name in graph.inputs}
    symbol = leading.pop() if len(leading) == 1 else None
    free = isinstance(symbol, str) and symbol in graph.symbols
    count = 0
    for number, feeds in enumerate(calibration):
        count += 1
        problem = _problem(graph, feeds)
        if problem:
            raise CalibrationError(f"calibration batch {number}: {problem}")
        samples = min((len(feeds[name]) for name in graph.inputs), default=0) if free else CHUNK
        least = graph.symbols[str(symbol)].minimum if free else 1
        step = max(CHUNK, least)
        if not free or samples < 2 * step:
            yield Batch(number=number, feeds=feeds)
            continue
        starts = list(range(0, samples - step + 1, step))
        for start, stop in zip(starts, [*starts[1:], samples], strict=True):
            yield Batch(number=number, feeds={name: array[start:stop] for name, array in feeds.items()})
    if count == 0:
        raise CalibrationError("calibration holds no batch: pass an iterable of at least one, not a used-up iterator")


def _problem(graph: Graph, feeds: Feeds) -> str:
    if not isinstance(feeds, Mapping):
        return f"is a {type(feeds).__name__}, not arrays by input name"
    missing = [name for name in graph.inputs if name not in feeds]
    if missing:
        return f"inputs {missing} are missing"
    for name in graph.inputs:
        array = np.asarray(feeds[name])
        if array.size == 0:
            return f"input {name!r} is empty (shape {list(array.shape)})"
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"input {name!r} has {int((~np.isfinite(array)).sum())} elements that are NaN or infinite"
    return ""


def runner(graph: Graph, keep: Sequence[str], threads: int | None = None) -> Runner:
    """A function from feeds to the values named in `keep`: a session where the compiled core is there, else NumPy.

    States are at their beginning in each call.
    """
    outer, kept = without_states(graph), tuple(state.output for state in graph.states)
    if not {*kept}.isdisjoint(keep):  # a session gives no states: they are inputs and outputs as others are
        plain = runner(replace(graph, states=()), keep, threads)
        return lambda feeds: plain({**begin(graph, bind(outer, feeds)), **feeds})
    computed = {name for node in graph.nodes for name in node.outputs}
    wanted = [name for name in dict.fromkeys(keep) if name in computed]
    given = [name for name in keep if name in graph.inputs]
    outputs = (*wanted, *kept) if wanted else ()
    observed = replace(graph, outputs=outputs, nodes=_needed(graph, outputs))
    session = _session(observed, threads) if wanted else None

    def call(feeds: Feeds) -> dict[str, Array]:
        arrays = [np.ascontiguousarray(feeds[name]) for name in outer.inputs]
        feeds = dict(zip(outer.inputs, arrays, strict=True))
        if session is None:
            found = run(observed, feeds) if wanted else {}
        else:
            found = dict(zip(wanted, session.run_list(arrays), strict=True))
        if graph.states and given:
            feeds |= begin(graph, bind(outer, feeds))
        return {**{name: found[name] for name in wanted}, **{name: feeds[name] for name in given}}

    return call


def _needed(graph: Graph, wanted: Sequence[str]) -> tuple[Node, ...]:
    needed: set[str] = set(wanted)
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            nodes.append(node)
    return tuple(reversed(nodes))


def _session(graph: Graph, threads: int | None) -> Session | None:
    try:
        return Session(graph, threads=threads, limits=OWN, allow_torch=True)
    except ImportError:  # a source tree without its extension: the interpreter is slower, not different
        return None


class Observer(Protocol):
    """What learns from calibration data; several are served by one pass over the data (`gather`)."""

    def needs(self) -> Sequence[str]:
        """The values of the graph that it wants to see."""
        ...

    def add(self, found: Mapping[str, Array]) -> None:
        """Take in these values, of one piece of the data. Raises CalibrationError for what it cannot use."""
        ...


def gather(
    graph: Graph,
    calibration: Iterable[Feeds],
    observers: Sequence[Observer],
    *,
    stage: str,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Show each observer what it needs of each piece of the calibration data. Raises CalibrationError."""
    call = runner(graph, list(dict.fromkeys(name for each in observers for name in each.needs())), threads)
    total = len(calibration) if isinstance(calibration, Sized) else None
    for batch in batches(graph, calibration):
        try:
            found = call(batch.feeds)
            for each in observers:
                each.add(found)
        except (CalibrationError, InputError) as error:
            raise CalibrationError(f"calibration batch {batch.number}: {error}") from None
        if progress is not None:
            progress(stage, batch.number + 1, total)


class Histograms:
    """A histogram of each value: of every second piece of the data from the first on, and of the other pieces."""

    def __init__(self, names: Sequence[str]) -> None:
        self.halves = tuple({name: Histogram() for name in names} for _ in range(2))
        self._names, self._pieces = names, 0

    def needs(self) -> Sequence[str]:
        """The values."""
        return self._names

    def add(self, found: Mapping[str, Array]) -> None:
        """Take in one piece."""
        for name, histogram in self.halves[self._pieces % 2].items():
            try:
                histogram.add(found[name])
            except CalibrationError as error:
                raise CalibrationError(f"value {name!r}: {error}") from None
        self._pieces += 1

    def whole(self) -> dict[str, Histogram]:
        """Of all pieces."""
        made = copy.deepcopy(self.halves[0])
        for name, histogram in made.items():
            histogram.merge(self.halves[1][name])
        return made
