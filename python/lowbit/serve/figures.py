"""What a server counts of a model: for the protocol's statistics, for Prometheus, and for the page."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from typing import Any

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
STAGES = ("queue", "compute", "total")
_RECENT = 512


class Histogram:
    """Counts of values up to each bound, and beyond the last.

    Args:
        bounds: Ascending.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """How many values are at most each bound, as Prometheus writes it."""
        total, found = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Figures:
    """Of one model's requests, over both protocols and all reloads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.seconds = {stage: Histogram(SECONDS) for stage in STAGES}
        self.batches = Histogram(ROWS)
        self.rows = 0
        self.last = 0
        self.nanoseconds: Counter[str] = Counter()
        self.recent: deque[float] = deque(maxlen=_RECENT)

    def executed(self, rows: int) -> None:
        """Count a run of the model."""
        with self._lock:
            self.batches.add(rows)

    def answered(self, protocol: str, rows: int, total: float, queue: float, compute: float, read: float) -> None:
        """Count a request that was answered; seconds in all, waiting, in the model, and until it was read."""
        with self._lock:
            self.requests[protocol, "ok"] += 1
            self.seconds["queue"].add(queue)
            self.seconds["compute"].add(compute)
            self.seconds["total"].add(total)
            self.rows += rows
            self.last = time.time_ns() // 1_000_000
            self.recent.append(total)
            count = self.nanoseconds
            count["success"] += int(total * 1e9)
            count["queue"] += int(queue * 1e9)
            count["compute_infer"] += int(compute * 1e9)
            count["compute_input"] += int(read * 1e9)
            count["compute_output"] += int(max(0.0, total - queue - compute - read) * 1e9)

    def failed(self, protocol: str, status: str, total: float) -> None:
        """Count a request that was refused, by the name of its status."""
        with self._lock:
            self.requests[protocol, status] += 1
            self.nanoseconds["fail"] += int(total * 1e9)

    def statistics(self) -> dict[str, Any]:
        """As the protocol's extension has it, without the model's name."""
        with self._lock:
            good = sum(count for (_, status), count in self.requests.items() if status == "ok")
            bad = sum(self.requests.values()) - good
            durations = {
                key: {"count": bad if key == "fail" else good, "ns": self.nanoseconds[key]}
                for key in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
            }
            return {
                "last_inference": self.last,
                "inference_count": self.rows,
                "execution_count": sum(self.batches.counts),
                "inference_stats": durations,
            }

    def live(self) -> dict[str, Any]:
        """For the page: requests, errors, rows a run, and milliseconds of the latest requests."""
        with self._lock:
            recent = sorted(self.recent)
            good = sum(count for (_, status), count in self.requests.items() if status == "ok")
            runs = sum(self.batches.counts)
            return {
                "requests": sum(self.requests.values()),
                "errors": sum(self.requests.values()) - good,
                "rows_a_run": round(self.batches.sum / runs, 2) if runs else None,
                "median_ms": _milliseconds(recent, 0.5),
                "p95_ms": _milliseconds(recent, 0.95),
            }


def _milliseconds(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3, 3) if ordered else None
