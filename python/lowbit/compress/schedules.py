"""How much is pruned when: frozen values that give the sparsity after so many steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..errors import InputError


class Schedule(Protocol):
    """What `prune` takes as schedule.

    Examples:
        >>> class Halves:
        ...     last = 2
        ...     def at(self, step: int, final: float) -> float:
        ...         return final * min(step, 2) / 2
        >>> import torch
        >>> lowbit.compress.prune(torch.nn.Linear(64, 64), 0.5, schedule=Halves()).step()
        0.25
    """

    @property
    def last(self) -> int:
        """The step after which the sparsity is final."""

    def at(self, step: int, final: float) -> float:
        """The sparsity after so many steps; never less than before.

        Args:
            step: How many, from 0 (before the first) on.
            final: The sparsity at the end.

        Returns:
            A share in [0, 1).
        """


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """All at once, before the first step.

    Examples:
        >>> lowbit.compress.OneShot().at(0, 0.9)
        0.9
    """

    @property
    def last(self) -> int:
        return 0

    def at(self, step: int, final: float) -> float:
        return final


@dataclass(frozen=True, kw_only=True)
class Iterative:
    """In rounds, each followed by training: each round leaves the same share of what the one before left.

    After round i of n, 1 - (1 - final)^(i / n) is pruned. Sources: Han et al. 2015 (arXiv:1506.02626); of the shares,
    Frankle and Carbin 2019 (arXiv:1803.03635).

    Args:
        rounds: How many.

    Raises:
        InputError: Rounds below 1.

    Examples:
        >>> [round(lowbit.compress.Iterative(rounds=2).at(step, 0.75), 3) for step in range(3)]
        [0.0, 0.5, 0.75]
    """

    rounds: int

    def __post_init__(self) -> None:
        _check_counts(rounds=self.rounds)

    @property
    def last(self) -> int:
        return self.rounds

    def at(self, step: int, final: float) -> float:
        return final if step >= self.rounds else 1 - (1 - final) ** (step / self.rounds)


@dataclass(frozen=True, kw_only=True)
class Cubic:
    """While training goes on: fast at first, when much is redundant, then ever slower.

    From step `begin` on, every `every` steps: final + (initial - final) (1 - (t - begin) / steps)^3, until t = begin +
    steps. A step is usually one of the optimizer's. Source: Zhu and Gupta 2017 (arXiv:1710.01878), equation 1.

    Args:
        steps: How many steps it takes.
        begin: The step before which nothing changes.
        every: How many steps lie between two changes.
        initial: The sparsity to begin with.

    Raises:
        InputError: Steps or every below 1, begin below 0, or an initial sparsity outside [0, 1).

    Examples:
        >>> lowbit.compress.Cubic(steps=100).at(50, 0.8)
        0.7000000000000001
    """

    steps: int
    begin: int = 0
    every: int = 1
    initial: float = 0.0

    def __post_init__(self) -> None:
        _check_counts(steps=self.steps, every=self.every)
        if not 0 <= self.initial < 1 or self.begin < 0:
            raise InputError(f"begin must be from 0 on and initial in [0, 1), not {self.begin} and {self.initial}")

    @property
    def last(self) -> int:
        return self.begin + self.steps

    def at(self, step: int, final: float) -> float:
        if step < self.begin:
            return 0.0
        if step >= self.last:
            return final
        since = (step - self.begin) // self.every * self.every
        return final + (self.initial - final) * (1 - since / self.steps) ** 3


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"{name} must be a positive integer, is {count!r}")
