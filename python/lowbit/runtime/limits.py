"""How much memory, work and time a session may take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, LimitError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a session may take: what goes beyond is refused with a LimitError that says by how much.

    A file from elsewhere can ask for days of work in a few bytes. The defaults let no call run for long, and are out of
    reach for models that are worth running on a CPU; `lowbit.load` takes them unless it is told otherwise.

    Args:
        memory: Bytes that a session may hold in all: weights, what calls work in, and their outputs. None: what this
            process may use (the least of the machine's memory, the limits of its cgroups, and its address space); of
            weights, as this CPU reads them, no more than 32 MiB and 16 times what the model's constants take, or of a
            file's, unpacked and then as this CPU reads them, no more than 36 MiB and 7 times the file.
        operations: Of one call: a multiply-add counts two, a byte that is read or written counts one; None: any number.
        batch: What `batch` may be in one call, and any free size with that in its name: how many samples; None: any
            number.
        seconds: How long one call may take: it ends at the next border between tasks; None: any time.

    Raises:
        InputError: A limit that is no positive number.

    Examples:
        >>> import numpy as np, torch
        >>> lowbit.convert(torch.nn.Linear(64, 64), torch.randn(1, 64)).save("net.lowbit")
        >>> model = lowbit.load("net.lowbit", limits=lowbit.Limits(operations=1e5))
        >>> model(np.zeros((8, 64), np.float32)).shape
        (8, 64)
        >>> model(np.zeros((64, 64), np.float32))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lowbit.errors.LimitError: a call with inputs of these sizes takes ... operations...
    """

    memory: int | None = None
    operations: float | None = 1e13
    batch: int | None = 65536
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, unit in (("memory", "bytes"), ("batch", "samples")):
            limit = getattr(self, name)
            if limit is not None and not (type(limit) is int and 0 < limit < 2**63):
                raise InputError(f"limits: {name} is a positive number of {unit}, or None, not {limit!r}")
        for name in ("operations", "seconds"):
            limit = getattr(self, name)
            if limit is not None and not _is_positive(limit):
                raise InputError(f"limits: {name} is a positive number, or None, not {limit!r}")


def _is_positive(limit: Any) -> bool:
    return isinstance(limit, int | float) and not isinstance(limit, bool) and 0 < limit <= sys.float_info.max


def checked(limits: Limits | None, default: Limits) -> Limits:
    """The limits that a caller gave, or else the default. Raises InputError for anything else."""
    if limits is not None and not isinstance(limits, Limits):
        raise InputError(f"limits must be a lowbit.Limits or None, not a {type(limits).__name__}")
    return default if limits is None else limits


OWN = Limits(operations=None, batch=None)
"""Of a module that is the caller's own."""


@contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Within it, a lack of memory is a LimitError that says for what."""
    try:
        yield
    except MemoryError:
        raise LimitError(f"there is not enough memory to {what}: free some, or give the process more") from None
