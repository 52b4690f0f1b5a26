"""Every row of the kernels of signs equals gemm_i1.h's equations bit for bit, for any words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit import _core, _kernels
from lowbit.ops.integer import fma

Array = npt.NDArray[Any]
ROWS = [row["name"] for row in _core.kernels()["gemm_i1"] if row["available"]]


def sums(words: Array, w: Array) -> Array:
    """Of pairs of words [rows, words, 2] and words [n, words]."""
    positive, nonzero = words[:, None, :, 0], words[:, None, :, 1]
    unlike = np.bitwise_count(positive ^ (w[None] & nonzero)).sum(axis=2, dtype=np.int64)
    return np.asarray(np.bitwise_count(nonzero).sum(axis=2, dtype=np.int64) - 2 * unlike)


def random_words(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
    """Pairs of words: signs, signs among zeros, zeros, or anything."""
    positive = rng.integers(0, 2**32, shape, dtype=np.uint32)
    full = np.full(shape, 2**32 - 1, np.uint32)
    nonzero = {"signs": full, "zeros": 0 * full}.get(kind, rng.integers(0, 2**32, shape, dtype=np.uint32))
    if kind == "mixed":  # rows of signs among others
        nonzero = np.where(rng.random((shape[0], *(1,) * (len(shape) - 1))) < 0.6, full, nonzero)
    return np.stack([positive if kind == "any" else positive & nonzero, nonzero], axis=-1).astype(np.uint32)


@pytest.mark.parametrize("kernel", ROWS)
@settings(max_examples=60)
@given(
    rows=st.integers(1, 40),
    n=st.integers(1, 40),
    words=st.sampled_from([1, 2, 7, 8, 9, 16, 24, 31, 248, 249, 260]),
    kind=st.sampled_from(["signs", "some", "mixed", "zeros", "any"]),
    tasks=st.integers(1, 4),
    coded=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_product(kernel: str, rows: int, n: int, words: int, kind: str, tasks: int, coded: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = random_words(rng, kind, (rows, words)), rng.integers(0, 2**32, (n, words), dtype=np.uint32)
    multiplier, bias = rng.uniform(0.001, 1, n).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    t = fma(sums(x, w).astype(np.float32), multiplier, bias)
    y = _kernels.gemm_i1(
        kernel, x.view(np.uint8).reshape(rows, -1), w, multiplier, bias, output="u8" if coded else "f32", tasks=tasks
    )
    np.testing.assert_array_equal(y, np.rint(np.clip(t, 0, 255)).astype(np.uint8) if coded else t)


@pytest.mark.parametrize("kernel", ROWS)
@settings(max_examples=30)
@given(
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    out=st.tuples(st.integers(1, 3), st.integers(1, 9)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    words=st.sampled_from([1, 3, 8, 11]),
    kind=st.sampled_from(["signs", "some", "mixed"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows(
    kernel: str, window: tuple[int, int], out: tuple[int, int], stride: tuple[int, int], words: int, kind: str,
    seed: int,
) -> None:  # fmt: skip
    """A tap is a row of the window; grids and strides as convolutions have them."""
    rng = np.random.default_rng(seed)
    height, width = ((o - 1) * s + k for o, s, k in zip(out, stride, window, strict=True))
    x = random_words(rng, kind, (2, height, width, words))
    w = rng.integers(0, 2**32, (19, window[0], window[1] * words), dtype=np.uint32)
    rows = np.stack([
        x[i, a * stride[0] : a * stride[0] + window[0], b * stride[1] : b * stride[1] + window[1]].reshape(-1, 2)
        for i in range(2) for a in range(out[0]) for b in range(out[1])
    ])  # fmt: skip
    one, line = np.ones(19, np.float32), width * words * 8
    y = _kernels.gemm_i1(
        kernel, x.view(np.uint8).reshape(-1), w, one, 0 * one, output="f32", grid=(2, *out),
        strides=(height * line, stride[0] * line, stride[1] * words * 8), taps=[i * line for i in range(window[0])],
    )  # fmt: skip
    np.testing.assert_array_equal(y, sums(rows, w.reshape(19, -1)))


@pytest.mark.parametrize("zero", [-1, 0, 1])
@pytest.mark.parametrize("kernel", ROWS)
def test_signs_of_numbers(kernel: str, zero: int) -> None:
    rng = np.random.default_rng(3)
    special = np.float32([0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e-38, -1])
    for count in (1, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 100):
        x = np.where(rng.random(count) < 0.5, rng.choice(special, count), rng.standard_normal(count)).astype(np.float32)
        words = _kernels.signs(kernel, x, zero).reshape(-1, 2, 4)
        positive, nonzero = np.unpackbits(words, axis=2, bitorder="little").transpose(1, 0, 2).reshape(2, -1)
        assert not positive[count:].any()
        assert not nonzero[count:].any()
        np.testing.assert_array_equal(positive[:count], (x >= 0) if zero == 1 else (x > 0))
        np.testing.assert_array_equal(nonzero[:count], (x < 0) | (x > 0) if zero == 0 else np.ones(count, bool))
