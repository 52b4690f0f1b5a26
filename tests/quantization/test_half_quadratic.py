"""Half-quadratic refinement: never worse than its start in what it minimizes, exact where that is possible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.graph.weights import problems
from lowbit.quantization.half_quadratic import loss, refine
from lowbit.quantization.round_groups import best_groups, code_range, round_groups


@given(
    seed=st.integers(0, 2**16),
    bits=st.sampled_from((2, 3, 4)),
    symmetric=st.booleans(),
    spread=st.sampled_from((1e-3, 1.0, 300.0)),
    tail=st.sampled_from((1.0, 30.0)),
)
@settings(max_examples=25, deadline=None)
def test_refined_groups_lose_no_more_than_their_start(
    seed: int, bits: int, symmetric: bool, spread: float, tail: float
) -> None:
    random = np.random.default_rng(seed)
    groups = (random.standard_normal((40, 32)) * spread).astype(np.float32)
    groups[::3, 0] *= tail
    groups[5] = 0
    groups[6] = groups[6, 0]
    ends = code_range(bits)
    scales, zeros = (part[:, 0] for part in best_groups(groups[:, None], symmetric=symmetric, ends=ends))
    start = None if symmetric else -zeros * scales
    if symmetric:
        centre = (ends[0] + ends[1] + 1) // 2
        ends = ends[0] - centre, ends[1] - centre
    found = refine(groups, scales, start, ends)
    for part in found:
        np.testing.assert_array_equal(part, part.astype(np.float16))
    assert (found[0] > 0).all()
    begin = np.zeros_like(scales) if start is None else start.astype(np.float16).astype(np.float64)
    before, after = loss(groups, scales, begin, ends), loss(groups, *found, ends)
    assert (after <= before * (1 + 1e-5) + 1e-6 * spread).all()
    assert after.sum() < before.sum()
    again = refine(groups, scales, start, ends)
    assert all((one == two).all() for one, two in zip(found, again, strict=True))


def test_weights_on_a_grid_stay_what_they_are() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (20, 32))
    codes[:, :2] = 0, 15
    weight = (codes * 0.25 - 1.125).astype(np.float32)
    made = round_groups(weight, 32, symmetric=False, refined=True)
    np.testing.assert_array_equal(made.weight, weight)
    np.testing.assert_array_equal(made.codes, codes)


@pytest.mark.parametrize("window", [(), (3, 3)])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_offsets_are_stored_and_codes_are_the_nearest(window: tuple[int, ...], bits: int) -> None:
    weight = np.random.default_rng(1).standard_normal((6, 64, *window)).astype(np.float32)
    made = round_groups(weight, 32, symmetric=False, bits=bits, refined=True)
    stored = made.as_weight()
    assert not list(problems(stored))
    assert stored.offsets is not None
    assert stored.zero_points is None
    np.testing.assert_allclose(stored.numbers, made.weight, rtol=1e-5, atol=1e-6)
    assert made.offsets is not None
    numbers = (np.arange(2**bits)[:, None, None] * made.scales + made.offsets).repeat(32, axis=2)
    rows = np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
    nearest = np.abs(numbers - rows).min(axis=0)
    np.testing.assert_allclose(np.abs(np.moveaxis(made.weight, 1, -1).reshape(rows.shape) - rows), nearest, atol=1e-6)


def test_weights_beyond_half_floats_keep_zero_points() -> None:
    weight = np.linspace(-9e4, 1e5, 64, dtype=np.float32).reshape(2, 32)
    assert round_groups(weight, 32, symmetric=False, refined=True).offsets is None
