"""Rounding that lets errors cancel, against nearest rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.graph.ir import Array
from lowbit.quantization.round_weights import (
    best_scales,
    round_compensated,
    round_flat,
    round_nearest,
    wide_scales,
)


def output_error(weight: Array, rounded: Array, moments: Array) -> float:
    error = (rounded - weight).reshape(len(moments), -1, moments.shape[1])
    return float(np.einsum("gnk,gkl,gnl->", error, moments, error))


def moments_of(x: Array) -> Array:
    return np.swapaxes(x, 1, 2) @ x / x.shape[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 9), st.integers(1, 5))
def test_codes_are_symmetric_and_near(seed: int, depth: int, filters: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((filters * groups, depth)).astype(np.float32)
    x = rng.standard_normal((groups, 50, depth))
    for made in (round_nearest(weight), round_compensated(weight, moments_of(x))):
        assert made.codes.dtype == np.int8
        assert made.codes.shape == weight.shape
        assert np.abs(made.codes.astype(int)).max() <= 127
        np.testing.assert_array_equal(made.scales, made.scales.astype(np.float32))
    nearest = round_nearest(weight)
    clipped = np.clip(weight, -127 * nearest.scales[:, None], 127 * nearest.scales[:, None])
    assert (np.abs(nearest.weight - clipped) <= 0.5000001 * nearest.scales[:, None]).all()


@pytest.mark.parametrize("groups", [1, 6])
def test_compensation_pays_on_smooth_inputs(groups: int) -> None:
    """Windows of a smooth image are nearly constant: only the sum of the errors counts."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 9)).astype(np.float32)
    x = rng.standard_normal((groups, 400, 1)) + 0.05 * rng.standard_normal((groups, 400, 9))
    h = moments_of(x)
    nearest = output_error(weight, round_nearest(weight).weight, h)
    assert output_error(weight, round_compensated(weight, h).weight, h) < 0.2 * nearest


def test_independent_inputs_are_rounded_to_nearest() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 20)).astype(np.float32)
    made = round_compensated(weight, np.eye(20)[None] * np.linspace(1, 2, 20))
    np.testing.assert_array_equal(made.codes, round_nearest(weight).codes)


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 150)).astype(np.float32)
    h = moments_of(rng.standard_normal((1, 300, 150)) + rng.standard_normal((1, 300, 1)))
    blocked = round_compensated(weight, h)
    monkeypatch.setattr("lowbit.quantization.round_weights.BLOCK", 1000)
    np.testing.assert_array_equal(round_compensated(weight, h).codes, blocked.codes)


def test_a_dead_input_and_a_zero_filter() -> None:
    weight = np.float32([[0, 0, 0], [1, -2, 3]])
    h = np.zeros((1, 3, 3))
    for made in (round_nearest(weight), round_compensated(weight, h)):
        assert (made.codes[0] == 0).all()
        assert (made.scales > 0).all()
        np.testing.assert_allclose(made.weight[1], weight[1], atol=0.02)


def test_scales_lose_least() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, 500))
    scales = best_scales(rows)
    largest = np.abs(rows).max(axis=1) / 127

    def loss(s: Array) -> Array:
        found: Array = np.square(np.clip(np.rint(rows / s[:, None]), -127, 127) * s[:, None] - rows).sum(axis=1)
        return found

    assert (scales <= largest * 1.000001).all()
    assert (loss(scales) <= loss(largest) * 1.0001).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_flat_rounding_keeps_the_sum_of_each_window(seed: int, filters: int, depth: int, kh: int, kw: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((filters, depth, kh, kw)).astype(np.float32)
    made, nearest = round_flat(weight), round_nearest(weight)
    np.testing.assert_array_equal(made.scales, nearest.scales)
    clipped = np.clip(weight, -127 * made.scales[:, None, None, None], 127 * made.scales[:, None, None, None])
    off = np.abs((made.weight - clipped).sum(axis=(2, 3))) / made.scales[:, None]
    # The last weight of a window makes up for the others, unless it is at an end of the codes.
    assert (off <= 0.6 + 2 * (np.abs(made.codes).reshape(filters, depth, -1).max(axis=2) == 127)).all()


def test_pruned_weights_stay_zero() -> None:
    """Whatever errors are passed on to them; what they cannot take is made up for by those after them."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 96, 3, 3)).astype(np.float32) * (rng.random((8, 96, 1, 1)) < 0.3)
    x = rng.standard_normal((1, 2000, 96 * 9)) + rng.standard_normal((1, 2000, 1))
    made, h = round_compensated(weight, moments_of(x)), moments_of(x)
    for codes in (made.codes, round_flat(weight).codes):
        assert not codes[np.broadcast_to(weight == 0, weight.shape)].any()
    assert output_error(weight, made.weight, h) < 0.7 * output_error(weight, round_nearest(weight).weight, h)


def information(codes: Array) -> float:
    """Bits a code, by frequencies."""
    shares = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize("bits", [2, 3.5, 5, 6])
@pytest.mark.parametrize("alike", [True, False])
def test_wide_steps_hold_the_bits_that_were_asked_for(bits: float, alike: bool) -> None:
    """Of normal weights, whatever the rows' sizes where each has its step; what has tails holds less."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 16, 3, 3)).astype(np.float32)
    if not alike:
        weight *= np.exp(rng.standard_normal((64, 1, 1, 1))).astype(np.float32)
    scales = wide_scales(weight, bits, alike=alike)
    assert (len(np.unique(scales)) == 1) == alike
    made = round_nearest(weight, scales=scales)
    assert information(made.codes) == pytest.approx(bits, abs=0.08)
    tails = rng.laplace(size=(64, 512))
    assert information(round_nearest(tails, scales=wide_scales(tails, bits, alike=alike)).codes) < bits


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(2, 7), st.booleans(), st.integers(0, 5), st.integers(0, 40))
def test_wide_steps_clip_nothing(seed: int, bits: float, alike: bool, rows: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_cauchy((rows, depth)) * rng.integers(0, 2, (rows, 1))
    scales = wide_scales(weight, bits, alike=alike)
    made = round_nearest(weight, scales=scales)
    assert (np.abs(made.weight - weight) <= 0.500001 * scales[:, None]).all()
    np.testing.assert_array_equal(scales, scales.astype(np.float32))
