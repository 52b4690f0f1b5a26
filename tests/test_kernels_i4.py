"""Every row of the matrix kernels on codes of few bits equals gemm_i4.h's equations bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit import _core, _kernels
from lowbit.graph.weights import highest, middle, pack_rows
from lowbit.ops.integer import fma

Array = npt.NDArray[Any]
KERNELS = {4: _kernels.gemm_i4, 2: _kernels.gemm_i2}
ROWS = [
    pytest.param(bits, row["name"], id=f"{bits}-{row['name']}")
    for bits in KERNELS
    for row in _core.kernels()[f"gemm_i{bits}"]
    if row["available"]
]


def as_floats(numbers: Array | None) -> Any:
    """Half floats come as their bits."""
    if numbers is None:
        return None
    return numbers.view(np.float16).astype(np.float32) if numbers.dtype == np.uint16 else numbers


def expected(x: Array, codes: Array, scales: Array, group_size: int, p: dict[str, Any], bits: int) -> Array:
    """gemm_i4.h and kernel.h, each operation rounded to float32 once."""
    rows, k = x.shape
    zero_x = p["x_zero_points"] if p.get("x_zero_points") is not None else np.full(rows, p.get("x_zero_point", 0))
    zero_w = p["zero_points"] if p.get("zero_points") is not None else np.full(scales.shape, middle(bits))
    factors, offsets = as_floats(scales), as_floats(p.get("offsets"))
    zero_w = zero_w if offsets is None else np.zeros(scales.shape)
    centred = codes.astype(np.int64) - np.repeat(zero_w.astype(np.int64), group_size, axis=1)[:, :k]
    parts = [slice(first, first + group_size) for first in range(0, k, group_size)]
    offset = np.zeros(codes.shape[0])
    for g, part in enumerate(parts):
        offset += factors[:, g].astype(np.float64) * centred[:, part].sum(axis=1)
        offset += 0 if offsets is None else offsets[:, g].astype(np.float64) * len(range(k)[part])
    t = -zero_x.astype(np.float32)[:, None] * offset.astype(np.float32)
    for g, part in enumerate(parts):
        t = fma((x[:, part].astype(np.int64) @ centred[:, part].T).astype(np.float32), factors[:, g], t)
        if offsets is not None:
            t = fma(x[:, part].sum(axis=1, dtype=np.int64).astype(np.float32)[:, None], offsets[:, g], t)
    row_scale = p.get("row_scale")
    factor, bias = p["multiplier"], p["bias"]
    t = fma(t, factor, bias) if row_scale is None else fma(t * factor, row_scale[:, None], bias)
    if p.get("residual") is not None:
        t = fma(p["residual"][:, : t.shape[1]].astype(np.float32), np.float32(p["residual_multiplier"]), t)
    if p["output"] == "f32":
        return np.asarray(np.minimum(np.maximum(t, np.float32(p["min"])), np.float32(p["max"])))
    y = np.rint(np.clip(t, p["lo"], p["hi"])).astype(np.int64)
    return np.asarray(y.astype(np.uint8) if p.get("table") is None else p["table"][y])


def check(
    bits: int, kernel: str, x: Array, codes: Array, scales: Array, group: int, p: dict[str, Any], tasks: int = 1
) -> None:
    n = codes.shape[0]
    residual = p.get("residual")
    pitch = n if residual is None else residual.shape[1]
    walk: dict[str, Any] = {"grid": (x.shape[0], 1, 1), "strides": (x.shape[1], 0, 0), "pitch": pitch}
    y = KERNELS[bits](kernel, x, pack_rows(codes, bits), scales, group, tasks=tasks, **walk, **p)
    np.testing.assert_array_equal(y[:, :n], expected(x, codes, scales, group, p, bits), err_msg=kernel, strict=True)
    assert np.all(np.ascontiguousarray(y[:, n:]).view(np.uint8) == 0xA5), f"{kernel} wrote beyond its channels"


def operands(bits: int, rng: np.random.Generator, rows: int, n: int, k: int, group: int, flags: int) -> tuple[Any, ...]:
    """Codes of the whole range, extreme ones often, and an epilogue; the bits of `flags` say what is in it."""
    groups = -(-k // group)
    x = rng.choice([0, 255, 1], (rows, k)) if rng.random() < 0.2 else rng.integers(0, 256, (rows, k))
    codes = rng.choice([0, highest(bits)], (n, k)) if rng.random() < 0.2 else rng.integers(0, 2**bits, (n, k))
    scales = rng.uniform(-0.02, 0.02, (n, groups)).astype(np.float16).view(np.uint16)
    lo, hi = (0, 255) if rng.integers(2) else sorted(int(bound) for bound in rng.integers(0, 256, 2))
    p: dict[str, Any] = {
        "multiplier": (rng.uniform(0.5, 2.0, n) / np.sqrt(k)).astype(np.float32),
        "bias": (rng.integers(0, 256) + rng.uniform(-40, 40, n)).astype(np.float32),
        "x_zero_point": int(rng.integers(0, 256)),
        "lo": lo,
        "hi": hi,
        "min": float(np.float32(rng.choice([-np.inf, 0.0]))),
        "max": float(np.float32(rng.choice([np.inf, 200.0]))),
        "output": "f32" if flags & 1 else "u8",
    }
    if flags & 2:
        p["residual"] = rng.integers(0, 256, (rows, n + int(rng.integers(0, 9))), dtype=np.uint8)
        p["residual_multiplier"] = float(np.float32(rng.uniform(0.01, 1.5)))
    if flags & 4 and not flags & 1:
        p["table"] = rng.integers(0, 256, 256, dtype=np.uint8)
    if flags & 8:
        p["x_zero_points"] = rng.integers(0, 256, rows, dtype=np.uint8)
    if flags & 16 and flags & 1:
        p["row_scale"] = rng.uniform(0.5, 2.0, rows).astype(np.float32)
    if flags & 64:
        p["offsets"] = rng.uniform(-0.02, 0.02, (n, groups)).astype(np.float32)
        if flags & 32:
            p["offsets"] = p["offsets"].astype(np.float16).view(np.uint16)
        else:
            scales = rng.uniform(-0.02, 0.02, (n, groups)).astype(np.float32)
    elif flags & 32:
        p["zero_points"] = rng.integers(0, 2**bits, (n, groups), dtype=np.uint8)
    return x.astype(np.uint8), codes.astype(np.uint8), scales, group, p


@pytest.mark.parametrize(("bits", "kernel"), ROWS)
@settings(max_examples=120, deadline=None)
@given(
    rows=st.integers(0, 40),
    n=st.integers(1, 150),
    k=st.integers(1, 150),
    group=st.sampled_from([0, 8, 16, 24, 32, 64, 128]),
    flags=st.integers(0, 127),
    tasks=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_product(
    bits: int, kernel: str, rows: int, n: int, k: int, group: int, flags: int, tasks: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    check(bits, kernel, *operands(bits, rng, rows, n, k, group or k, flags), tasks)


@pytest.mark.parametrize(("bits", "kernel"), ROWS)
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 150),
    groups=st.integers(1, 5),
    group=st.sampled_from([8, 32, 40, 64, 96]),
    flags=st.integers(0, 127),
    tasks=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_single_row(
    bits: int, kernel: str, n: int, groups: int, group: int, flags: int, tasks: int, seed: int
) -> None:
    """Whose panels follow each other in one call."""
    rng = np.random.default_rng(seed)
    check(bits, kernel, *operands(bits, rng, 1, n, groups * group, group, flags), tasks)


@pytest.mark.parametrize(("bits", "kernel"), ROWS)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 30),
    taps=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    run=st.integers(1, 40),
    group=st.sampled_from([0, 8, 24, 32]),
    flags=st.sampled_from([0, 1, 32, 33, 64, 65, 97]),
    seed=st.integers(0, 2**32 - 1),
)
def test_taps(bits: int, kernel: str, rows: int, taps: list[int], run: int, group: int, flags: int, seed: int) -> None:
    """Pixels that lie apart: as the product of a matrix of what each row meets; groups straddle taps."""
    rng = np.random.default_rng(seed)
    k, step = run * len(taps), int(rng.integers(0, 9))
    _, codes, scales, group, p = operands(bits, rng, rows, int(rng.integers(1, 80)), k, group or k, flags)
    image = rng.integers(0, 256, max(taps) + run + (rows - 1) * step, dtype=np.uint8)
    met = np.stack([np.concatenate([image[r * step + tap :][:run] for tap in taps]) for r in range(rows)])
    walk = {"run": run, "taps": taps, "grid": (1, 1, rows), "strides": (0, 0, step)}
    y = KERNELS[bits](kernel, image, pack_rows(codes, bits), scales, group, tasks=3, **walk, **p)
    np.testing.assert_array_equal(y, expected(met, codes, scales, group, p, bits), err_msg=kernel, strict=True)


@pytest.mark.parametrize(("bits", "kernel"), ROWS)
@pytest.mark.parametrize(("rows", "n", "k", "group"), [(600, 9, 64, 8), (40, 70, 4096, 8), (7, 65, 3000, 3000)])
def test_blocks_of_rows(bits: int, kernel: str, rows: int, n: int, k: int, group: int) -> None:
    """More rows, or more sums of groups, than are held at once."""
    rng = np.random.default_rng(k)
    for tasks in (1, 3):
        check(bits, kernel, *operands(bits, rng, rows, n, k, group, 41), tasks)


@pytest.mark.parametrize(("bits", "kernel"), ROWS)
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("highest_first", [False, True])
@pytest.mark.parametrize("highest_second", [False, True])
def test_extreme_codes_are_exact(bits: int, kernel: str, rows: int, highest_first: bool, highest_second: bool) -> None:
    """Sums of 16 bits must not saturate, whichever codes they hold; int32 sums of 32,768 products stay exact.

    Of each eight codes, the first four and the others are all the highest, or zero.
    """
    k, top = 32768, highest(bits)
    first, second = top * highest_first, top * highest_second
    x, codes = np.full((rows, k), 255, np.uint8), np.tile(np.repeat([first, second], 4), (3, k // 8)).astype(np.uint8)
    scales, one = np.full((3, 1), np.float16(1)).view(np.uint16), np.ones(3, np.float32)
    for zero_point in (0, top):
        zero_points = np.full((3, 1), zero_point, np.uint8)
        p = {"multiplier": one, "bias": 0 * one, "zero_points": zero_points, "output": "f32"}
        y = KERNELS[bits](kernel, x, pack_rows(codes, bits), scales, k, **p)
        assert np.all(y == np.float32(255 * (first + second - 2 * zero_point) * (k // 2)))


def test_arguments_out_of_bounds_are_refused() -> None:
    x, codes, scales = np.zeros((1, 64), np.uint8), np.zeros((2, 32), np.uint8), np.zeros((2, 2), np.uint16)
    one = np.ones(2, np.float32)
    for group, what in ((0, "group_size"), (12, "group_size"), (64, "scales must be"), (16, "scales must be")):
        with pytest.raises(ValueError, match=what):
            _kernels.gemm_i4("scalar_4x8", x, codes, scales, group, one, one)
    with pytest.raises(ValueError, match="codes must be"):
        _kernels.gemm_i4("scalar_4x8", x, codes[:, 1:].copy(), scales, 32, one, one)
