"""Every row of the matrix kernels on codes in groups equals gemm_s8.h's equations bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit import _core, _kernels
from lowbit.graph.weights import highest, middle, pack_rows
from lowbit.ops.integer import fma, quantize_groups

Array = npt.NDArray[Any]
F = np.float32
ROWS = [row["name"] for row in _core.kernels()["gemm_s8"] if row["available"]]
ELTWISE = [row["name"] for row in _core.kernels()["eltwise"] if row["available"]]


def bits_of(kernel: str) -> int:
    return int(kernel.split("_")[1].removeprefix("i"))


def as_floats(numbers: Array) -> Array:
    return numbers if numbers.dtype == np.float32 else numbers.view(np.float16).astype(np.float32)


def expected(x: Array, x_scales: Array, x_group: int, codes: Array, bits: int, p: dict[str, Any]) -> Array:
    """gemm_s8.h and kernel.h, each operation rounded to float32 once. codes: 0 .. 2^bits - 1."""
    rows, k = x.shape
    group_size, zeros, offsets = p.get("group_size", k), p.get("zero_points"), p.get("offsets")
    zero = middle(bits) if bits == 8 or (zeros is None and offsets is None) else 0
    q = codes.astype(np.int64) - (zero if zeros is None else np.repeat(zeros.astype(np.int64), group_size, axis=1))
    t = np.zeros((rows, len(codes)), F)
    for j, first in enumerate(range(0, k, x_group)):
        part, of_x, g = x[:, first : first + x_group].astype(np.int64), x_scales[:, j : j + 1], first // group_size
        sums = (part @ q[:, first : first + x_group].T).astype(F)
        if p.get("scales") is None:
            t = fma(sums, of_x, t)
            continue
        t = fma(sums * of_x, as_floats(p["scales"])[:, g], t)
        if offsets is not None:
            t = fma(part.sum(axis=1, keepdims=True).astype(F) * of_x, as_floats(offsets)[:, g], t)
    t = fma(t, p["multiplier"], p["bias"])
    if p.get("residual") is not None:
        t = fma(p["residual"].astype(F), F(p["residual_multiplier"]), t)
    return np.asarray(np.minimum(np.maximum(t, F(p["min"])), F(p["max"])))


def check(
    kernel: str, x: Array, x_scales: Array, x_group: int, codes: Array, p: dict[str, Any], tasks: int = 1
) -> None:
    bits = bits_of(kernel)
    packed = (codes - 128).astype(np.uint8) if bits == 8 else pack_rows(codes, bits)
    y = _kernels.gemm_s8(kernel, x, x_scales, x_group, packed, output="f32", tasks=tasks, **p)
    np.testing.assert_array_equal(y, expected(x, x_scales, x_group, codes, bits, p), err_msg=kernel, strict=True)


def operands(
    bits: int, rng: np.random.Generator, rows: int, n: int, k: int, x_group: int, groups_of: int, flags: int
) -> tuple[Array, Array, int, Array, dict[str, Any]]:
    """Codes of the whole range, extreme ones often; groups_of: groups of x in one of weights, 0: one a channel."""
    x = rng.choice([-128, 127, 0], (rows, k)) if rng.random() < 0.2 else rng.integers(-128, 128, (rows, k))
    codes = rng.choice([0, highest(bits)], (n, k)) if rng.random() < 0.2 else rng.integers(0, 2**bits, (n, k))
    x_scales = rng.uniform(0.01, 2, (rows, -(-k // x_group))).astype(F)
    p: dict[str, Any] = {
        "multiplier": (rng.uniform(0.5, 2.0, n) / np.sqrt(k)).astype(F),
        "bias": rng.uniform(-40, 40, n).astype(F),
        "min": float(F(rng.choice([-np.inf, 0.0]))),
        "max": float(F(rng.choice([np.inf, 200.0]))),
    }
    if flags & 1:
        p["residual"] = rng.integers(0, 256, (rows, n), dtype=np.uint8)
        p["residual_multiplier"] = float(F(rng.uniform(0.01, 1.5)))
    if groups_of == 0 and bits == 8 and flags & 2:
        return x.astype(np.int8), x_scales, x_group, codes.astype(np.uint8), p
    size = x_group * groups_of if groups_of and k % (x_group * groups_of) == 0 else k
    shape = (n, k // size)
    scales = rng.uniform(-0.02, 0.02, shape).astype(F)
    half = scales.astype(np.float16).view(np.uint16)
    p |= {"group_size": size, "scales": half}
    if flags & 4:
        p["offsets"] = rng.uniform(-0.02, 0.02, shape).astype(F)
        if flags & 8:
            p |= {"scales": scales, "wide": True}
        else:
            p["offsets"] = p["offsets"].astype(np.float16).view(np.uint16)
    elif flags & 8 and bits < 8:
        p["zero_points"] = rng.integers(0, 2**bits, shape, dtype=np.uint8)
    return x.astype(np.int8), x_scales, x_group, codes.astype(np.uint8), p


@pytest.mark.parametrize("kernel", ROWS)
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(0, 30),
    n=st.integers(1, 150),
    groups=st.integers(1, 12),
    beyond=st.integers(0, 40),
    x_group=st.sampled_from([8, 16, 24, 32, 40, 64, 96, 128]),
    groups_of=st.integers(0, 4),
    flags=st.integers(0, 15),
    tasks=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_product(
    kernel: str, rows: int, n: int, groups: int, beyond: int, x_group: int, groups_of: int, flags: int, tasks: int,
    seed: int,
) -> None:  # fmt: skip
    """beyond: of a last group, which is shorter; then weights have one a channel."""
    rng = np.random.default_rng(seed)
    k = groups * x_group * max(groups_of, 1) + (beyond % x_group if groups_of == 0 else 0)
    k = min(k, 600) if groups_of == 0 else k
    check(kernel, *operands(bits_of(kernel), rng, rows, n, k, x_group, groups_of, flags), tasks)


@pytest.mark.parametrize("kernel", ROWS)
@pytest.mark.parametrize(("rows", "n", "k", "x_group", "groups_of"), [
    (520, 9, 64, 32, 1), (11, 9, 8192, 8, 1), (7, 65, 3000, 4096, 0), (1, 200, 1024, 32, 4), (3, 5, 5, 8, 0),
])  # fmt: skip
def test_blocks_of_rows(kernel: str, rows: int, n: int, k: int, x_group: int, groups_of: int) -> None:
    """More rows, or more sums of groups, than are held at once; groups longer than a row."""
    rng = np.random.default_rng(k)
    for flags in (2, 5, 8):
        args = operands(bits_of(kernel), rng, rows, n, k, min(x_group, k), groups_of, flags)
        check(kernel, *args, tasks=3)


@pytest.mark.parametrize("kernel", ROWS)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("x", [-128, 127])
def test_extreme_codes_are_exact(kernel: str, rows: int, x: int) -> None:
    """Sums of 16 bits must not saturate; int32 sums of the longest group stay exact."""
    bits, k, one = bits_of(kernel), 65536, np.ones(3, F)
    codes = np.full((3, k), highest(bits), np.uint8)
    p = {"multiplier": one, "bias": 0 * one, "min": -np.inf, "max": np.inf}
    p |= {"scales": np.full((3, 1), np.float16(1)).view(np.uint16)}
    for x_group in (k, 64):
        scales = np.ones((rows, k // x_group), F)
        check(kernel, np.full((rows, k), x, np.int8), scales, x_group, codes, p)


def test_arguments_out_of_bounds_are_refused() -> None:
    x, scales, one = np.zeros((1, 64), np.int8), np.ones((1, 2), F), np.ones(2, F)
    codes = np.zeros((2, 32), np.uint8)
    for group, more, what in (
        (12, {}, "multiple of 8"),
        (16, {}, "x_scales"),
        (32, {"group_size": 48}, "divide"),
        (32, {"zero_points": np.zeros((2, 1), np.uint8)}, "go with scales"),
    ):
        with pytest.raises(ValueError, match=what):
            _kernels.gemm_s8("scalar_i4_4x8", x, scales, group, codes, one, one, output="f32", **more)
    with pytest.raises(ValueError, match="f32"):
        _kernels.gemm_s8("scalar_i4_4x8", x, scales, 32, codes, one, one)


@pytest.mark.parametrize("group", [1, 8, 31, 32, 40, 128, 500])
@pytest.mark.parametrize("size", [1, 7, 32, 33, 96, 300])
def test_quantize_groups_equals_numpy(size: int, group: int) -> None:
    """A group that is not finite has scale NaN, wherever the one number lies; its neighbours' are their own."""
    rng = np.random.default_rng(size)
    x = (rng.standard_normal((9, size)) * rng.choice([1e-3, 1, 1e30], (9, 1))).astype(F)
    x[0], x[1, ::2] = 0, 0
    for row, bad in enumerate([np.nan, np.inf, -np.inf, np.nan], start=2):
        x[row, rng.integers(0, size)] = bad
    x[6, :1], x[6, 1:2] = 3.4e38, -3.4e38
    x[7] = np.where(x[7] > 0, 1e-44, -3e-45)  # 1 / scale is infinite
    factors = rng.uniform(-1, 1, size).astype(F)
    for by in (None, factors):
        codes, scales = quantize_groups(x, group, by)
        assert np.abs(codes.astype(int)).max() == 127
        assert np.isnan(scales).sum() == 4
        for row in ELTWISE:
            found = _kernels.quantize_groups(row, x, group, factors=by, tasks=2)
            np.testing.assert_array_equal(found[1], scales, err_msg=row, strict=True)
            np.testing.assert_array_equal(found[0], codes, err_msg=row, strict=True)
