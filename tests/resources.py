"""What a piece of work takes of this process: memory at its peak, and processor time, which a busy machine does not
change."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000


@dataclass
class Spent:
    """seconds: of all threads together; peak: bytes above what was there before."""

    seconds: float = 0.0
    peak: int = 0


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def resident() -> int:
    """Bytes in memory now."""
    return _status("VmRSS")


def give_back() -> None:
    """Frees what the C library keeps for later allocations, where it is one that can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _forget_peak() -> None:
    """Sets the kernel's mark of most bytes to those of now. Where it may not be set, a peak below an earlier one is not
    seen."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def measured(base: int | None = None) -> Iterator[Spent]:
    """Fills in, at the end, what the block took. base: resident bytes that are none of its; None: those of now."""
    spent = Spent()
    base = resident() if base is None else base
    _forget_peak()
    start = time.process_time()
    try:
        yield spent
    finally:
        spent.seconds = time.process_time() - start
        spent.peak = max(0, _status("VmHWM") - base)
