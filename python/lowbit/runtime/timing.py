"""Times calls against each other: in interleaved rounds after a warm-up, so that all of them see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..report import Timed

ROUNDS, SECONDS = 9, 0.05
"""Of what reports show: how many rounds, and how long each contestant runs in one."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds a call: the lowest and the median of the rounds' medians."""

    lowest: float
    median: float


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    seconds: float = 0.1,
    on_round: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Time each of `calls` in `rounds` slices of about `seconds` (at least 3 calls), taking turns."""
    return take_turns({name: timer(call, seconds) for name, call in calls.items()}, rounds=rounds, on_round=on_round)


def take_turns(
    slices: Mapping[str, Callable[[], float]], *, rounds: int, on_round: Callable[[], object] = lambda: None
) -> dict[str, Timing]:
    """The same for contestants that time themselves: a slice returns its seconds a call."""
    times: dict[str, list[float]] = {name: [] for name in slices}
    for _ in range(rounds):
        for name, measure in slices.items():
            times[name].append(measure())
        on_round()
    return {name: Timing(lowest=min(taken), median=statistics.median(taken)) for name, taken in times.items()}


def timer(call: Callable[[], object], seconds: float) -> Callable[[], float]:
    """A slice of about `seconds` (at least 3 calls), after a warm-up of as long."""
    return partial(_slice, call, max(3, round(seconds / _warm_up(call, seconds))))


def _slice(call: Callable[[], object], repeats: int) -> float:
    """The median of `repeats` calls, after one that brings the caches back and lets others' spinning threads rest."""
    call()
    return statistics.median(_time(call) for _ in range(repeats))


def _warm_up(call: Callable[[], object], seconds: float) -> float:
    """Call for about `seconds`, at least 3 times; the shortest call's time."""
    times = [_time(call) for _ in range(3)]
    while sum(times) < seconds:
        times.append(_time(call))
    return max(min(times), 1e-9)


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def timed(calls: Mapping[str, Callable[[], object]]) -> tuple[Timed, ...]:
    """Each call's time, in interleaved rounds."""
    from ..report import Timed  # pages are written seldom

    found = interleave(calls, rounds=ROUNDS, seconds=SECONDS)
    return tuple(Timed(name=name, lowest=time.lowest, median=time.median) for name, time in found.items())
