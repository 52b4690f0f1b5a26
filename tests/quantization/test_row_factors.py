"""The factors of least noise: a convex problem, whose least is known in part, and less noise than any power leaves."""

from __future__ import annotations

import numpy as np
import pytest

from lowbit.graph.ir import Array
from lowbit.quantization.layer_inputs import coded_rows
from lowbit.quantization.row_factors import _Noise, least_noise
from lowbit.quantization.row_ranges import flat_channels

SHAPES = ((1, 1, 1), (3, 2, 5), (40, 7, 33), (64, 48, 96))


def problem(rows: int, outputs: int, depth: int) -> tuple[Array, Array, Array, float, Array]:
    """Rows and weights whose channels are unlike, each in its own way."""
    rng = np.random.default_rng(depth)
    x = (rng.standard_normal((rows, depth)) * np.exp(rng.normal(0, 1.5, depth))).astype(np.float32)
    weights = (rng.standard_normal((outputs, depth)) * np.exp(rng.normal(0, 1.0, depth))).astype(np.float32)
    return x, weights, rng.uniform(0.5, 2, rows), 0.4, rng.integers(1, 3, depth)


def naive(logs: Array, x: Array, weights: Array, worth: Array, share: float, codes: Array) -> float:
    """The noise as the module's text has it."""
    f = np.exp(logs)
    bounds = x.astype(np.float64) * f / codes
    ranges = np.maximum(bounds.max(axis=1), 0) - np.minimum(bounds.min(axis=1), 0)
    of_rows = (worth * (ranges / 255) ** 2 / 12).mean() * (codes * (weights.astype(np.float64) / f) ** 2).sum()
    scales = np.abs(weights / f).max(axis=1) / 127
    return float(of_rows + share * (scales**2 / 12).sum() * (worth[:, None] * (x * f) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_the_logarithm(shape: tuple[int, int, int]) -> None:
    given = problem(*shape)
    rng = np.random.default_rng(1)
    logs, step = rng.normal(0, 0.3, shape[2]), rng.normal(0, 1e-4, shape[2])
    moved = np.log(naive(logs + step, *given)) - np.log(naive(logs - step, *given))
    assert 2 * _Noise(*given).gradient(logs) @ step == pytest.approx(moved, rel=0.02, abs=1e-7)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_no_other_factors_leave_less(shape: tuple[int, int, int]) -> None:
    """The problem is convex: what nothing near is better than is the least."""
    given = problem(*shape)
    logs = least_noise(*given)
    least = naive(logs, *given)
    powers = [strength * flat_channels(given[0]) for strength in np.linspace(0, 1, 9)]
    assert least < min(naive(each, *given) for each in powers)
    rng = np.random.default_rng(2)
    for size in (0.03, 0.3, 1.0):
        assert all(naive(logs + size * rng.standard_normal(shape[2]), *given) > 0.995 * least for _ in range(20))


def test_what_is_left_by_real_codes() -> None:
    x, weights, worth, share, _ = problem(400, 48, 96)
    codes = np.ones(96, np.int64)
    factors = np.exp(least_noise(x, weights, worth, share, codes)).astype(np.float32)

    def noise(by: Array | None) -> float:
        return float((np.square((coded_rows(x, by) - x) @ weights.T).sum(axis=1) * worth).mean())

    ends = naive(np.log(factors), x, weights, worth, 0.0, codes)
    assert noise(factors) == pytest.approx(ends, rel=0.1), "rounding makes the noise that the formula says"
    assert noise(factors) < 0.5 * noise(None)


@pytest.mark.parametrize("rows", [1, 5])
def test_zeros_have_any_factor(rows: int) -> None:
    x, weights = np.zeros((rows, 4), np.float32), np.zeros((3, 4), np.float32)
    assert np.isfinite(least_noise(x, weights, np.ones(rows), 1.0, np.ones(4, np.int64))).all()
    x[:, 1] = 1.0
    weights[:, 2] = 1.0
    assert np.isfinite(least_noise(x, weights, np.ones(rows), 1.0, np.ones(4, np.int64))).all()
