"""Rounding to four bits in groups, against the plainest form of each step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.graph.ir import Array
from lowbit.graph.weights import as_read, is_ternary, problems, shaped, stored
from lowbit.quantization.round_groups import SHARES, SMALLEST, GroupCodes, best_groups, round_groups
from lowbit.quantization.round_weights import DAMPING, factored


def nearest(group: Array, scale: float, zero: float) -> Array:
    codes: Array = np.clip(np.rint(group / scale) + zero, 0, 15)
    return codes


def naive_group(group: Array, symmetric: bool) -> tuple[float, float]:
    """The scale and zero point that lose least, of all shares of the range."""
    low, high = min(group.min(), 0.0), max(group.max(), 0.0)
    found = []
    for share in SHARES:
        width = 2 * max(high, -low) if symmetric else high - low
        scale = max(float(np.float16(width * share / 15)), SMALLEST)
        zero = 8.0 if symmetric else float(np.clip(np.rint(-low * share / scale), 0, 15))
        error = float((((nearest(group, scale, zero) - zero) * scale - group) ** 2).sum())
        found.append((error, -share, scale, zero))
    return min(found)[2:]


def naive_gptq(row: Array, scales: Array, zeros: Array, moments: Array) -> Array:
    """Frantar et al. 2022, section 3.1: weight after weight, the most active input first; the rest makes up for it.

    H is inverted anew for those that are left.
    """
    depth = len(row)
    h = moments + DAMPING * np.trace(moments) / depth * np.eye(depth)
    left, w, codes = list(np.argsort(-np.diag(moments), kind="stable")), row.copy(), np.zeros(depth)
    while left:
        inverse = np.linalg.inv(h[np.ix_(left, left)])
        k = left[0]
        codes[k] = nearest(w[k], scales[k], zeros[k])
        error = (w[k] - (codes[k] - zeros[k]) * scales[k]) / inverse[0, 0]
        w[left] -= error * inverse[:, 0]
        left.pop(0)
    return codes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.sampled_from([8, 16, 24]), st.booleans())
def test_ranges_lose_least(seed: int, channels: int, groups: int, size: int, symmetric: bool) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((channels, groups * size)) ** 3 + rng.uniform(-0.5, 0.5)
    made = round_groups(weight.astype(np.float32), size, symmetric=symmetric)
    for n in range(channels):
        for g in range(groups):
            part = weight[n, g * size : (g + 1) * size].astype(np.float32).astype(np.float64)
            scale, zero = naive_group(part, symmetric)
            assert (made.scales[n, g], made.zero_points[n, g]) == (scale, zero)
            np.testing.assert_array_equal(made.codes[n, g * size : (g + 1) * size], nearest(part, scale, zero))
    check(made, symmetric)


def check(made: GroupCodes, symmetric: bool) -> None:
    """The constant of a graph is valid and stands for the same numbers."""
    weight = made.as_weight()
    assert list(problems(weight)) == []
    zero = np.zeros(weight.scales.shape) if weight.zero_points is None else weight.zero_points
    assert (weight.zero_points is None) == symmetric
    each = [np.repeat(part, weight.group_size, axis=1).astype(np.float64) for part in (weight.scales, zero)]
    real = (weight.rows - each[1]) * each[0]
    np.testing.assert_array_equal(shaped(real, weight.shape), made.weight)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([8, 16]), st.integers(1, 3), st.booleans())
def test_compensation_is_gptq(seed: int, size: int, groups: int, symmetric: bool) -> None:
    rng = np.random.default_rng(seed)
    depth = size * groups
    weight = rng.standard_normal((3, depth))
    x = rng.standard_normal((4 * depth, depth)) @ rng.standard_normal((depth, depth)) * rng.uniform(0.2, 2, depth)
    moments = x.T @ x / len(x)
    made = round_groups(weight, size, symmetric=symmetric, moments=factored(moments[None]))
    scales, zeros = (np.repeat(part, size, axis=1) for part in (made.scales, made.zero_points))
    for n, row in enumerate(weight):
        np.testing.assert_array_equal(made.codes[n], naive_gptq(row, scales[n], zeros[n], moments))
    check(made, symmetric)


@pytest.mark.parametrize("symmetric", [True, False])
def test_compensation_pays_where_inputs_are_alike(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 64))
    x = rng.standard_normal((500, 8)) @ rng.standard_normal((8, 64)) + 0.3 * rng.standard_normal((500, 64))
    plain = round_groups(weight, 32, symmetric=symmetric).weight - weight
    made = round_groups(weight, 32, symmetric=symmetric, moments=factored((x.T @ x)[None] / 500)).weight - weight
    assert np.square(x @ made.T).sum() < 0.5 * np.square(x @ plain.T).sum()


def test_groups_of_nothing_and_of_one_value() -> None:
    zeros = round_groups(np.zeros((1, 16)), 16, symmetric=True)
    assert (zeros.weight == 0).all()
    tiny = best_groups(np.full((1, 1, 16), 1e-30), symmetric=False)[0]
    assert tiny == SMALLEST
    wide = round_groups(np.full((1, 16), 3.0), 16, symmetric=False)
    np.testing.assert_allclose(wide.weight, 3.0, rtol=1e-3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_pruned_weights_stay_zero(symmetric: bool) -> None:
    """Whatever errors are passed on to them, and wherever a group's zero point is."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((16, 128)) + 0.5) * (rng.random((16, 128)) < 0.3)
    x = rng.standard_normal((500, 128)) + rng.standard_normal((500, 1))
    for moments in (None, factored((x.T @ x)[None])):
        made = round_groups(weight, 32, symmetric=symmetric, moments=moments)
        assert not made.weight[weight == 0].any()
        assert (made.weight != 0).any()


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_convolution_is_a_product_with_channels_innermost(symmetric: bool) -> None:
    """Rounding it is rounding its matrix of rows [window, channels], moments reordered alike."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, 8, 3, 2))
    x = rng.standard_normal((300, 48)) @ rng.standard_normal((48, 48))
    moments = x.T @ x / 300
    order = np.arange(48).reshape(8, 6).T.reshape(-1)
    rows = weight.reshape(5, 48)[:, order]
    for h in (None, moments):
        one = round_groups(weight, 16, symmetric=symmetric, moments=None if h is None else factored(h[None]))
        given = None if h is None else factored(h[np.ix_(order, order)][None])
        other = round_groups(rows, 16, symmetric=symmetric, moments=given)
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_array_equal(one.weight, other.weight.reshape(5, 3, 2, 8).transpose(0, 3, 1, 2))
        assert one.as_weight().shape == (5, 8, 3, 2)
        check(one, symmetric)


def test_windows_keep_their_sums_on_flat_images() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 16, 3, 3))
    sums = [
        (round_groups(weight, 16, symmetric=True, flat=flat).weight - weight).sum(axis=(2, 3)) for flat in (True, False)
    ]
    assert np.abs(sums[0]).mean() < 0.5 * np.abs(sums[1]).mean()


@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_have_as_many_bits_as_asked_for(symmetric: bool) -> None:
    made = round_groups(np.random.default_rng(3).standard_normal((4, 32)), 16, symmetric=symmetric, bits=2)
    assert set(np.unique(made.codes)) == {0, 1, 2, 3}
    weight = made.as_weight()
    assert (weight.bits, int(weight.codes.min())) == (2, -2 if symmetric else 0)


@pytest.mark.parametrize("size", [16, 64])
def test_one_bit_is_a_sign(size: int) -> None:
    """Times the mean magnitude of its group, which loses the least; the file holds a bit and the scale."""
    weight = np.random.default_rng(7).standard_normal((6, 64)).astype(np.float32)
    made = round_groups(weight, size, symmetric=True, bits=1)
    means = np.abs(weight).reshape(6, -1, size).mean(axis=2).astype(np.float16).astype(np.float64).repeat(size, 1)
    np.testing.assert_array_equal(made.weight, np.where(weight > 0, means, -means))
    held = made.as_weight()
    np.testing.assert_array_equal(held.numbers, made.weight.astype(np.float32))
    assert stored(held).bytes == 6 * 64 // 8 + 2 * 6 * 64 // size + 8
    assert is_ternary(as_read(held))
    x = np.random.default_rng(8).standard_normal((300, 64)) @ np.random.default_rng(9).standard_normal((64, 64))
    learnt = round_groups(weight, size, symmetric=True, bits=1, moments=factored((x.T @ x / len(x))[None]))
    np.testing.assert_array_equal(learnt.as_weight().numbers, learnt.weight.astype(np.float32))
    np.testing.assert_array_equal(learnt.scales, made.scales)


def test_two_bits_lose_less_than_ternary() -> None:
    weight = np.random.default_rng(8).standard_t(6, (32, 512)).astype(np.float32)
    for size in (32, 64, 128):
        three = round_groups(weight, size, symmetric=True, bits=2, levels=3)
        for refined in (False, True):
            four = round_groups(weight, size, symmetric=False, bits=2, refined=refined)
            assert np.square(four.weight - weight).sum() < 0.8 * np.square(three.weight - weight).sum()
