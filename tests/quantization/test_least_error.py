"""The scales that lose least, to the last bit what trying all of them in float64 finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.graph.ir import Array
from lowbit.quantization.least_error import TOGETHER
from lowbit.quantization.round_groups import SMALLEST, round_groups
from lowbit.quantization.round_weights import round_nearest

KINDS = ("plain", "heavy", "grid", "nibbles", "sparse", "signs", "tiny", "zero rows", "one wide")


@st.composite
def weights(draw: st.DrawFn) -> Array:
    """Such as networks have, and such as make many scales lose exactly the same."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, depth = draw(st.integers(1, 30)), draw(st.sampled_from([1, 2, 7, 16, 32, 96, 128, 576]))
    weight, kind = rng.standard_normal((rows, depth)), draw(st.sampled_from(KINDS))
    changed = {
        "heavy": weight**3,
        "grid": np.round(weight * 4) / 4,
        "nibbles": rng.integers(-8, 8, weight.shape) * rng.choice([1, 0.1, 3e-6]),
        "sparse": weight * (rng.random(weight.shape) < 0.1),
        "signs": np.sign(weight),
        "tiny": weight * 10.0 ** rng.integers(-44, -3),
        "zero rows": weight * (rng.random((rows, 1)) < 0.5),
        "one wide": weight * np.where(np.arange(depth) == 0, 100, 1),
    }
    return changed.get(kind, weight).astype(np.float32)


def naive_int8(rows: Array) -> tuple[Array, Array]:
    """Scales and codes: all 31 scales tried in float64."""
    largest = np.abs(rows).max(axis=1, initial=0.0)
    largest = np.where(largest > 0, largest, 1.0)
    best, least = largest / 127, np.full(len(rows), np.inf)
    for share in np.linspace(1.0, 0.7, 31):
        scales = largest * share / 127
        scaled = rows / scales[:, None]
        error = scales**2 * ((np.clip(np.rint(scaled), -127, 127) - scaled) ** 2).sum(axis=1)
        better = error < least * (1 - 1e-12)
        best, least = np.where(better, scales, best), np.where(better, error, least)
    scales = np.maximum(best.astype(np.float32), np.finfo(np.float32).tiny).astype(np.float64)
    return scales, np.clip(np.rint(rows / scales[:, None]), -127, 127)


def naive_groups(groups: Array, symmetric: bool) -> tuple[Array, Array, Array]:
    """Scales, zero points and codes of four bits of [N, size]: all 17 scales tried in float64."""
    low, high = np.minimum(groups.min(axis=1), 0.0), np.maximum(groups.max(axis=1), 0.0)
    widest = 2 * np.maximum(high, -low) if symmetric else high - low
    best, zeros, least = np.ones(len(groups)), np.full(len(groups), 8.0), np.full(len(groups), np.inf)
    for share in np.linspace(1.0, 0.6, 17):
        scale = np.maximum((widest * share / 15).astype(np.float16).astype(np.float64), SMALLEST)
        zero = np.full(len(groups), 8.0) if symmetric else np.clip(np.rint(-low * share / scale), 0, 15)
        codes = np.clip(np.rint(groups / scale[:, None]) + zero[:, None], 0, 15)
        error = (((codes - zero[:, None]) * scale[:, None] - groups) ** 2).sum(axis=1)
        better = error < least
        best, zeros, least = (np.where(better, *x) for x in ((scale, best), (zero, zeros), (error, least)))
    return best, zeros, np.clip(np.rint(groups / best[:, None]) + zeros[:, None], 0, 15)


@settings(max_examples=80, deadline=None)
@given(weights())
def test_eight_bits(weight: Array) -> None:
    made, (scales, codes) = round_nearest(weight), naive_int8(weight.astype(np.float64))
    np.testing.assert_array_equal(made.scales, scales)
    np.testing.assert_array_equal(made.codes, codes)


@settings(max_examples=80, deadline=None)
@given(weights(), st.booleans(), st.sampled_from([16, 32, 0]))
def test_four_bits(weight: Array, symmetric: bool, size: int) -> None:
    size = size if size and weight.shape[1] % size == 0 else weight.shape[1]
    made = round_groups(weight, size, symmetric=symmetric)
    scales, zeros, codes = naive_groups(weight.reshape(-1, size).astype(np.float64), symmetric)
    np.testing.assert_array_equal(made.scales.reshape(-1), scales)
    np.testing.assert_array_equal(made.zero_points.reshape(-1), zeros)
    np.testing.assert_array_equal(made.codes.reshape(codes.shape), codes)


@pytest.mark.parametrize("shape", [(3, TOGETHER // 2 - 1), (1, TOGETHER + 9), (0, 5), (5, 0)])
def test_more_than_one_block(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    made, (scales, codes) = round_nearest(weight), naive_int8(weight.astype(np.float64))
    np.testing.assert_array_equal(made.scales, scales)
    np.testing.assert_array_equal(made.codes, codes)
