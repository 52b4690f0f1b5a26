"""What this machine can do at most, and which of its limits binds a piece of work: the roofline model.

    seconds >= max(operations / peak, bytes / bandwidth of the memory they fit in)

Williams, Waterman, Patterson: Roofline: an insightful visual performance model for multicore architectures, CACM 52(4),
2009. The peaks and bandwidths are measured, by loops that do nothing else (cpp/kernels/peak).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import InputError
from .timing import take_turns

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
ASSUMED = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
"""Cache sizes, in bytes, of a machine that does not tell them."""
SECONDS = 0.3
"""How long measuring takes, about."""
ROUNDS = 16
SMALLEST, LARGEST = 64 << 20, 256 << 20
"""Bytes read to measure DRAM: between these, twice the last cache."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A cache, or DRAM.

    Args:
        name: L1, L2, L3 or DRAM.
        size: In bytes, of all of its kind that the threads have; infinite for DRAM.
        bandwidth: Bytes a second that can be read from it.
    """

    name: str
    size: float
    bandwidth: float


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The least time that some work can take, and what binds it.

    Args:
        seconds: The time.
        name: int8, float32, L1, L2, L3 or DRAM.
    """

    seconds: float
    name: str

    def of(self, seconds: float) -> str:
        """How near to the limit some work is.

        Args:
            seconds: How long it took.

        Returns:
            A text such as `84 % L2`.
        """
        return f"{100 * self.seconds / seconds:.0f} % {self.name}" if seconds > 0 else ""


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The limits of `threads` threads together (Williams, Waterman, Patterson, CACM 52(4), 2009).

    Args:
        isa: The instruction set of the loops that measured them.
        threads: How many.
        int8: Operations a second; a multiply-add counts two.
        float32: Operations a second.
        memory: From the nearest to the farthest.

    Examples:
        >>> from lowbit.runtime.roofline import Memory, Roofline
        >>> memory = Memory(name="DRAM", size=9e9, bandwidth=1e10)
        >>> roof = Roofline(isa="avx2", threads=1, int8=4e11, float32=1e11, memory=(memory,))
        >>> roof.limit(operations=1e9, bytes=1e6, dtype="int8")
        Limit(seconds=0.0025, name='int8')
    """

    isa: str
    threads: int
    int8: float
    float32: float
    memory: tuple[Memory, ...]

    def limit(self, operations: float, bytes: float, dtype: Literal["int8", "float32"] = "float32") -> Limit:
        """What binds some work, whose bytes lie in the nearest memory that holds them all.

        Args:
            operations: How many; a multiply-add counts two.
            bytes: How many are read and written.
            dtype: Of the operations: "int8" or "float32".

        Returns:
            The least time, and what binds it.
        """
        memory = next(level for level in self.memory if bytes <= level.size)
        peak = self.int8 if dtype == "int8" else self.float32
        computing = Limit(seconds=operations / peak, name=dtype)
        reading = Limit(seconds=bytes / memory.bandwidth, name=memory.name)
        return max(computing, reading, key=lambda limit: limit.seconds)

    def __str__(self) -> str:
        rates = ", ".join(f"{level.name} {level.bandwidth / 1e9:.1f}" for level in self.memory)
        peaks = f"int8 {self.int8 / 1e9:.1f} GOP/s, float32 {self.float32 / 1e9:.1f} GFLOP/s"
        return f"{self.isa}, threads: {self.threads}: {peaks}; GB/s read: {rates}"


def total(limits: list[Limit]) -> Limit:
    """The limit of work that is done piece by piece, named after what binds most of it."""
    seconds: dict[str, float] = {}
    for limit in limits:
        seconds[limit.name] = seconds.get(limit.name, 0.0) + limit.seconds
    return Limit(seconds=sum(seconds.values()), name=max(seconds, key=lambda name: seconds[name], default=""))


def measure(
    *, threads: int = 1, isa: str | None = None, seconds: float = SECONDS, sizes: Mapping[str, int] | None = None
) -> Roofline:
    """Measure this machine's limits, once a process: the best of a few rounds in which all loops take turns.

    Args:
        threads: How many run together.
        isa: Caps the instruction set; None: LOWBIT_ISA, else the best.
        seconds: How long to measure, about.
        sizes: Of the caches, in bytes, by name, from the nearest to the farthest; None: what the system says.

    Returns:
        The limits.

    Raises:
        InputError: Arguments out of range.
        EnvironmentVariableError: LOWBIT_ISA asks for what this machine cannot do.
    """
    from .. import _core

    if not isinstance(threads, int) or threads < 1 or not 0 < seconds <= 60:
        raise InputError(f"threads must be a positive integer, seconds 0 .. 60; they are {threads!r} and {seconds!r}")
    sizes = cache_sizes(threads) if sizes is None else sizes
    if any(size <= 0 for size in sizes.values()):
        raise InputError(f"cache sizes must be positive, are {dict(sizes)}")
    return _measure(_core.select_peak(isa or ""), threads, seconds, tuple(sizes.items()))


@lru_cache
def _measure(kernel: str, threads: int, seconds: float, sizes: tuple[tuple[str, int], ...]) -> Roofline:
    from .. import _core

    data = np.ones(min(max(2 * max((size for _, size in sizes), default=0), SMALLEST), LARGEST), np.uint8)
    rates: dict[str, Callable[..., float]] = {
        "int8": partial(_core.peak_int8, kernel),
        "float32": partial(_core.peak_f32, kernel),
        "DRAM": partial(_core.peak_read, kernel, data),
    }
    for name, size in footprints(dict(sizes)).items():
        rates[name] = partial(_core.peak_read, kernel, data[:size])
    slices = {name: partial(_seconds, rate, seconds / ROUNDS / len(rates), threads) for name, rate in rates.items()}
    best = {name: 1 / timing.lowest for name, timing in take_turns(slices, rounds=ROUNDS).items()}
    levels = [Memory(name=name, size=size, bandwidth=best[name]) for name, size in sizes]
    levels.append(Memory(name="DRAM", size=math.inf, bandwidth=best["DRAM"]))
    isa = next(row["isa"] for row in _core.kernels()["peak"] if row["name"] == kernel)
    return Roofline(isa=isa, threads=threads, int8=best["int8"], float32=best["float32"], memory=tuple(levels))


def _seconds(rate: Callable[..., float], seconds: float, threads: int) -> float:
    """The time of one operation, or one byte."""
    found = rate(seconds=seconds, threads=threads)
    while not found:  # so many threads that some had no turn
        seconds *= 2
        found = rate(seconds=seconds, threads=threads)
    return 1 / found


def footprints(sizes: Mapping[str, int]) -> dict[str, int]:
    """How many bytes to read to measure each cache: half of it, but what the one before it cannot hold."""
    chosen: dict[str, int] = {}
    nearer = 0
    for name, size in sizes.items():
        chosen[name] = min(max(size // 2, 2 * nearer), max(3 * size // 4, 1))
        nearer = size
    return chosen


def cache_sizes(threads: int = 1, root: Path = CACHES) -> dict[str, int]:
    """Bytes in the caches that `threads` threads have, each on a core of its own: L1, L2, L3."""
    found = {}
    for index in sorted(root.glob("index*")):
        try:
            kind, level, size, sharers = (
                (index / name).read_text().strip() for name in ("type", "level", "size", "shared_cpu_list")
            )
            if kind in ("Data", "Unified"):
                there = -(-(os.cpu_count() or 1) // _count(sharers))
                found[f"L{int(level)}"] = _bytes(size) * min(threads, there)
        except (OSError, ValueError):
            continue
    return dict(sorted(found.items())) or dict(ASSUMED)


def _bytes(text: str) -> int:
    """`32K` or `8M`."""
    return int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1:], 0)


def _count(cpus: str) -> int:
    """How many CPUs `0-3,8` names."""
    ranges = [part.split("-") for part in cpus.split(",")]
    return sum(int(part[-1]) - int(part[0]) + 1 for part in ranges)
