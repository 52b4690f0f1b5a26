"""Every row of the block-sparse kernel equals NumPy bit for bit, for any zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from int8_products import check_i8, convolution, convolutions, random_epilogue, random_operands
from lowbit import _core, _kernels

Array = npt.NDArray[Any]
ROWS = [row["name"] for row in _core.kernels()["spmm_i8"] if row["available"]]


def pruned(rng: np.random.Generator, w: Array) -> Array:
    """Codes with zeros anywhere, in whole blocks, in whole channels, or everywhere."""
    keep = rng.random(w.shape) < rng.choice([0.0, 0.1, 0.5, 1.0])
    if rng.random() < 0.7:
        keep = np.repeat(np.repeat(keep[::4], 4, axis=0)[: w.shape[0], ..., ::4], 4, axis=-1)[..., : w.shape[-1]]
    keep[rng.random(w.shape[0]) < 0.2] = False
    return np.asarray(w * keep)


@pytest.mark.parametrize("kernel", ROWS)
@settings(max_examples=120, deadline=None)
@given(
    rows=st.one_of(st.integers(0, 5), st.integers(0, 250)),
    n=st.integers(1, 150),
    k=st.integers(1, 150),
    flags=st.integers(0, 63),
    per_row=st.booleans(),
    tasks=st.integers(1, 5),
    gap=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_product(
    kernel: str, rows: int, n: int, k: int, flags: int, per_row: bool, tasks: int, gap: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, w = random_operands(rng, rows * k, (n, k))
    p = random_epilogue(rng, n, rows if per_row else 1, rows, n + gap, k, flags)
    p |= {"grid": (rows, 1, 1), "strides": (k, 0, 0)} if per_row else {"grid": (1, 1, rows), "strides": (0, 0, k)}
    check_i8(_kernels.spmm_i8, kernel, x, pruned(rng, w), p, tasks, gap)


@pytest.mark.parametrize("kernel", ROWS)
@settings(max_examples=120, deadline=None)
@given(conv=convolutions(), seed=st.integers(0, 2**32 - 1))
def test_convolution(kernel: str, conv: dict[str, int], seed: int) -> None:
    """Half of them over pixels of whole quads, whose planes several taps share."""
    if seed % 2:
        conv = conv | {"channels": 4 * (conv["channels"] % 4 + 1), "stride_w": 1, "groups": 1}
    x, w, p = convolution(conv, seed)
    check_i8(_kernels.spmm_i8, kernel, x, pruned(np.random.default_rng(seed), w), p, conv["tasks"])


@pytest.mark.parametrize("kernel", ROWS)
@pytest.mark.parametrize(("rows", "k"), [(1100, 9), (70, 4000), (20, 17000)])
def test_strips(kernel: str, rows: int, k: int) -> None:
    """More rows than a strip holds, and rows so long that a strip is a single vector of them."""
    rng = np.random.default_rng(k)
    x, w = random_operands(rng, rows * k, (70, k))
    for tasks in (1, 3):
        check_i8(_kernels.spmm_i8, kernel, x, pruned(rng, w), random_epilogue(rng, 70, 1, rows, 70, k, 3), tasks)


@pytest.mark.parametrize("kernel", ROWS)
def test_images_of_several_strips(kernel: str) -> None:
    rng = np.random.default_rng(3)
    h, w, c, n = 40, 33, 32, 20
    x, weights = random_operands(rng, 2 * h * w * c, (n, 3, 3 * c))
    grid, line = (2, h - 2, w - 2), w * c
    for flags in (2, 7, 9, 25):
        p = random_epilogue(rng, n, 2, int(np.prod(grid)), n, weights[0].size, flags)
        p |= {"grid": grid, "strides": (h * line, line, c), "taps": [0, line, 2 * line]}
        for tasks in (1, 2):
            check_i8(_kernels.spmm_i8, kernel, x, pruned(rng, weights), p, tasks)


@pytest.mark.parametrize("kernel", ROWS)
@pytest.mark.parametrize("rows", [2, 20])
@pytest.mark.parametrize("w_code", [-128, -127, 127])
@pytest.mark.parametrize("x_zero_point", [0, 255])
def test_extreme_codes_are_exact(kernel: str, rows: int, w_code: int, x_zero_point: int) -> None:
    k = (2**31 - 1) // (255 * 128)
    for x_code in (0, 128, 255):
        x, w = np.full((rows, k), x_code, np.uint8), np.full((3, k), w_code, np.int8)
        one = np.ones(3, np.float32)
        y = _kernels.spmm_i8(kernel, x, w, one, 0 * one, x_zero_point=x_zero_point, output="f32")
        assert np.all(y == np.float32((x_code - x_zero_point) * w_code * k))


@pytest.mark.parametrize("kernel", ROWS)
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("value", [-1e30, -2147483648.0, 2147483648.0, 1e30])
def test_overflow_of_the_conversion_clamps(kernel: str, rows: int, value: float) -> None:
    """cvtps2dq turns what does not fit into INT_MIN: the clamp must come before."""
    x, w = np.ones((rows, 4), np.uint8), np.ones((50, 4), np.int8)
    y = _kernels.spmm_i8(kernel, x, w, np.zeros(50, np.float32), np.full(50, value, np.float32), lo=3, hi=250)
    assert np.all(y == (250 if value > 0 else 3))


@pytest.mark.parametrize("kernel", ROWS)
@pytest.mark.parametrize("rows", [1, 20])
def test_pairs_that_16_bits_do_not_hold(kernel: str, rows: int) -> None:
    """The largest x and weights, of one sign or two, in any place of a block: no sum of two products may saturate."""
    rng = np.random.default_rng(rows)
    for codes in ([-128], [127], [-128, 127], [-128, -1, 0, 1, 64, 127], [-65, -64, 64, 65]):
        for k in (2, 3, 4, 150):
            w = rng.choice(codes, (37, 9 * k)).astype(np.int8)
            x = np.full((rows, w.shape[1]), 255, np.uint8)
            one = np.ones(37, np.float32)
            y = _kernels.spmm_i8(kernel, x, w, one, 0 * one, output="f32")
            np.testing.assert_array_equal(y, (x.astype(np.int64) @ w.astype(np.int64).T).astype(np.float32))
