"""Scales and offsets that fit what a layer makes: never worse, and exact where codes say all."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit.quantization.refit import refit
from lowbit.quantization.round_groups import round_groups
from lowbit.quantization.round_weights import factored


@given(seed=st.integers(0, 2**16), groups=st.integers(1, 4), rank=st.sampled_from((3, 200)))
@settings(max_examples=15, deadline=None)
def test_it_never_loses(seed: int, groups: int, rank: int) -> None:
    random = np.random.default_rng(seed)
    depth = 16 * groups
    x = random.standard_normal((rank, 8)) @ random.standard_normal((8, depth)) + 0.3
    moments = x.T @ x / rank + 1e-3 * np.eye(depth)
    weight = random.standard_normal((5, depth)).astype(np.float32)
    made = round_groups(weight, 16, symmetric=False, refined=True)
    assert made.offsets is not None

    def error(scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        left = weight - (made.codes * np.repeat(scales, 16, axis=1) + np.repeat(offsets, 16, axis=1))
        return np.einsum("nk,kl,nl->n", left, moments, left)

    found = refit(weight.astype(np.float64), made.codes, made.scales, made.offsets, moments)
    for part in found:
        np.testing.assert_array_equal(part, part.astype(np.float16))
    before, after = error(made.scales, made.offsets), error(*found)
    assert (after <= before * (1 + 1e-9)).all()
    assert after.sum() < before.sum()


def test_rounding_by_data_takes_it() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 12)) @ random.standard_normal((12, 64)) + 0.1 * random.standard_normal((400, 64))
    moments = (x.T @ x / 400)[None]
    weight = random.standard_normal((24, 64)).astype(np.float32)

    def error(refined: bool) -> float:
        made = round_groups(weight, 32, symmetric=False, moments=factored(moments), refined=refined)
        return float(np.square(x @ (made.weight - weight).T).sum())

    assert error(refined=True) < 0.8 * error(refined=False)
