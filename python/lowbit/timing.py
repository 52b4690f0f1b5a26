"""Times calls against each other: in interleaved rounds after a warm-up, so that all of them see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


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
    """Time each of `calls` in `rounds` slices of about `seconds` (at least 3 calls), taking turns.

    Each slice opens with an untimed call: it brings the caches back and lets the other calls' spinning threads rest.
    """
    repeats = {name: max(3, round(seconds / _warm_up(call, seconds))) for name, call in calls.items()}
    medians: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            medians[name].append(statistics.median(_time(call) for _ in range(repeats[name])))
        on_round()
    return {name: Timing(lowest=min(times), median=statistics.median(times)) for name, times in medians.items()}


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
