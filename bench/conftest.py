"""What the benchmarks share: options, the machine in the record, and the ratios and shares at the end."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit import _core
from lowbit.runtime.roofline import Limit

Ratios = dict[str, dict[str, float]]
"""Per benchmark, per contestant: seconds, lowest of the rounds' medians."""

Limits = dict[tuple[str, str], Limit]
"""Per benchmark and contestant: what binds it, where that is known."""

RATIOS = pytest.StashKey[Ratios]()
LIMITS = pytest.StashKey[Limits]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The number of threads of every contestant, and of interleaved rounds."""
    group = parser.getgroup("lowbit")
    group.addoption("--threads", type=int, default=1, help="threads of every engine")
    group.addoption("--rounds", type=int, default=15, help="interleaved rounds")


def pytest_configure(config: pytest.Config) -> None:
    """Start with no ratios and no limits."""
    config.stash[RATIOS] = {}
    config.stash[LIMITS] = {}


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Record what the figures depend on beyond pytest-benchmark's own record of the machine."""
    machine_info["lowbit"] = {**_core.cpu(), "benchmark threads": config.getoption("--threads")}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how long the others take relative to lowbit, and how near to their limits those with known ones come."""
    limits = config.stash[LIMITS]
    for name, times in config.stash[RATIOS].items():
        near = {who: f" ({limits[name, who].of(times[who])})" if (name, who) in limits else "" for who in times}
        first, *rest = times
        others = ", ".join(f"{other} {times[other] / times[first]:.2f}{near[other]}" for other in rest)
        terminalreporter.write_line(
            f"{name}: {first} {times[first] * 1e3:.4f} ms{near[first]}; times as long: {others}"
        )


@pytest.fixture
def threads(pytestconfig: pytest.Config) -> int:
    """Threads of every contestant."""
    return int(pytestconfig.getoption("--threads"))


@pytest.fixture
def rounds(pytestconfig: pytest.Config) -> int:
    """Interleaved rounds."""
    return int(pytestconfig.getoption("--rounds"))


@pytest.fixture
def ratios(pytestconfig: pytest.Config) -> Ratios:
    """Where a benchmark puts its contestants' times, lowbit's first."""
    return pytestconfig.stash[RATIOS]


@pytest.fixture
def limits(pytestconfig: pytest.Config) -> Limits:
    """Where a benchmark puts what binds its contestants."""
    return pytestconfig.stash[LIMITS]
