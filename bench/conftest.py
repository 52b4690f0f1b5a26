"""What the benchmarks share: options, the machine in the record, and the table of ratios at the end."""

from __future__ import annotations

from typing import Any

import pytest

from lowbit import _core

Ratios = dict[str, dict[str, float]]
"""Per benchmark, per contestant: seconds, lowest of the rounds' medians."""

RATIOS = pytest.StashKey[Ratios]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The number of threads of every contestant, and of interleaved rounds."""
    group = parser.getgroup("lowbit")
    group.addoption("--threads", type=int, default=1, help="threads of every engine")
    group.addoption("--rounds", type=int, default=15, help="interleaved rounds")


def pytest_configure(config: pytest.Config) -> None:
    """Start with no ratios."""
    config.stash[RATIOS] = {}


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Record what the figures depend on beyond pytest-benchmark's own record of the machine."""
    machine_info["lowbit"] = {**_core.cpu(), "benchmark threads": config.getoption("--threads")}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how long the others take relative to lowbit."""
    for name, times in config.stash[RATIOS].items():
        own = next(iter(times.values()))
        others = ", ".join(f"{other} {seconds / own:.2f}" for other, seconds in list(times.items())[1:])
        terminalreporter.write_line(f"{name}: {next(iter(times))} {own * 1e3:.4f} ms; times as long: {others}")


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
