"""What all tests share: one small converted network, and a seed that is printed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import lowbit
from lowbit.quantization import cost

cost.this_level = lambda: "avx512vnni"  # decisions that tests look at are the same on every CPU


def pytest_configure(config: pytest.Config) -> None:
    """With `-n` the tests fill the cores: torch and BLAS take one thread in each worker and in what it starts.

    lowbit, which would heed that, too, keeps those that it is tested with.
    """
    if config.getoption("numprocesses", None):
        os.environ.setdefault("LOWBIT_THREADS", str(len(os.sched_getaffinity(0))))
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def small_net() -> nn.Module:
    """conv - relu - pool - conv - global pool - linear, eval mode, random weights; takes float32 [n, 3, 16, 16]."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    return net.eval()


@pytest.fixture(scope="session")
def small_file(small_net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_net` in int8 with calibration, saved."""
    torch.manual_seed(1)
    images = torch.randn(8, 3, 16, 16)
    path = tmp_path_factory.mktemp("small") / "small.lowbit"
    lowbit.convert(small_net, (images[:1],), calibration=[images], progress=False).save(path)
    return path
