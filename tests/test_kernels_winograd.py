"""Winograd's filtering of 3x3 windows computes the same integers as the direct sum, bit for bit, on every row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lowbit
from int8_products import check_i8, convolution, random_epilogue, random_operands
from lowbit import _core, _kernels

Array = npt.NDArray[Any]
ROWS = [row["name"] for row in _core.kernels()["winograd_i8"] if row["available"]]


@pytest.mark.parametrize("kernel", ROWS)
@settings(max_examples=120, deadline=None)
@given(
    batch=st.integers(1, 3),
    h=st.integers(1, 13),
    w=st.integers(1, 13),
    channels=st.integers(1, 70),
    n=st.integers(1, 70),
    flags=st.integers(0, 63),
    tasks=st.integers(1, 4),
    gap=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_convolution(
    kernel: str, batch: int, h: int, w: int, channels: int, n: int, flags: int, tasks: int, gap: int, seed: int
) -> None:
    conv = {"batch": batch, "h": h, "w": w, "channels": channels, "n": n, "flags": flags, "kernel_h": 3, "kernel_w": 3}
    conv |= dict.fromkeys(("stride_h", "stride_w", "dilation_h", "dilation_w", "groups"), 1)
    x, weights, p = convolution(conv, seed)
    if p.get("residual") is not None:
        p["residual"] = np.random.default_rng(seed).integers(0, 256, (batch * h * w, n + gap), dtype=np.uint8)
    check_i8(_kernels.winograd_i8, kernel, x, weights, p, tasks, gap)


@pytest.mark.parametrize("kernel", ROWS)
@pytest.mark.parametrize(("size", "channels"), [(50, 20), (17, 700)])
def test_several_blocks(kernel: str, size: int, channels: int) -> None:
    """More tiles than planes hold at once."""
    rng = np.random.default_rng(size)
    line = (size + 2) * channels
    x, weights = random_operands(rng, (size + 2) * line, (33, 3, 3 * channels))
    p = random_epilogue(rng, 33, 1, size * size, 33, 9 * channels, 34)
    p |= {"grid": (1, size, size), "strides": (0, line, channels), "taps": [0, line, 2 * line]}
    for tasks in (1, 3):
        check_i8(_kernels.winograd_i8, kernel, x, weights, p, tasks)


@pytest.mark.parametrize("kernel", ROWS)
@pytest.mark.parametrize("w_code", [-128, 127])
@pytest.mark.parametrize("x_zero_point", [0, 255])
def test_the_largest_sums_are_exact(kernel: str, w_code: int, x_zero_point: int) -> None:
    """Of as many channels as a layer that is not sent elsewhere may have: |sum| < 2^25."""
    channels = ((2**25 - 1) // 255) // (9 * abs(w_code))
    x, line = np.zeros((8, 8, channels), np.uint8), 8 * channels
    taps, grid, strides = [0, line, 2 * line], (1, 6, 6), (0, line, channels)
    one = np.ones(3, np.float32)
    for fill in ("none", "all", "corner", "checks"):
        x[:] = 255 if fill == "all" else 0
        if fill == "corner":
            x[:3, :3] = 255
        if fill == "checks":
            x[::2, 1::2] = x[1::2, ::2] = 255
        weights = np.full((3, 3, 3 * channels), w_code, np.int8)
        p = {"multiplier": one, "bias": 0 * one, "x_zero_point": x_zero_point, "output": "f32"}
        p |= {"grid": grid, "strides": strides, "taps": taps, "min": -np.inf, "max": np.inf}
        check_i8(_kernels.winograd_i8, kernel, x, weights, p)


def converted(channels: int, weights: Array | None = None) -> tuple[lowbit.Model, Array]:
    """A 3x3 convolution in int8, its input and kernel's name."""
    torch.manual_seed(0)
    net = nn.Conv2d(channels, 64, 3, padding=1)
    if weights is not None:
        net.weight.data = torch.from_numpy(weights)
    x = np.random.default_rng(0).standard_normal((2, channels, 16, 16)).astype(np.float32)
    batches = [torch.from_numpy(x)]
    return lowbit.convert(net, (batches[0],), calibration=batches, progress=False, tune=False, target="avx2"), x


@pytest.mark.skipif("avx2" not in _core.cpu()["isas"], reason="this CPU has no AVX2")
def test_layers_take_it_where_sums_are_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWBIT_ISA", "avx2")
    model, x = converted(64)
    assert any("winograd" in row.kernel for row in model.profile(x).rows)
    huge = np.ones((64, 1200, 3, 3), np.float32)  # all codes are 127, whose sums may pass 2^25
    model, x = converted(1200, huge)
    assert not any("winograd" in row.kernel for row in model.profile(x).rows)
