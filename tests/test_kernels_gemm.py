"""Every row of the matrix kernels that this CPU can run: int8 equals NumPy bit for bit, float32 the scalar row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import Maker
from int8_products import check_i8, convolution, convolutions, gather, random_epilogue, random_operands
from lowbit import _core, _kernels
from lowbit.graph.ir import Weight
from lowbit.runtime.session import Session

Array = npt.NDArray[Any]

I8 = [row["name"] for row in _core.kernels()["gemm_i8"] if row["available"]]
F32 = [row["name"] for row in _core.kernels()["gemm_f32"] if row["available"]]
EDGES = sorted({size + step for size in (1, 4, 8, 16, 32, 64) for step in (-1, 0, 1)} - {0})


@pytest.mark.parametrize("kernel", I8)
@settings(max_examples=120, deadline=None)
@given(
    rows=st.integers(0, 70),
    n=st.integers(1, 150),
    k=st.integers(1, 90),
    flags=st.integers(0, 63),
    per_row=st.booleans(),
    tasks=st.integers(1, 5),
    gap=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_i8_product(
    kernel: str, rows: int, n: int, k: int, flags: int, per_row: bool, tasks: int, gap: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, w = random_operands(rng, rows * k, (n, k))
    p = random_epilogue(rng, n, rows if per_row else 1, rows, n + gap, k, flags)
    p |= {"grid": (rows, 1, 1), "strides": (k, 0, 0)} if per_row else {"grid": (1, 1, rows), "strides": (0, 0, k)}
    check_i8(_kernels.gemm_i8, kernel, x, w, p, tasks, gap)


@pytest.mark.parametrize("kernel", I8)
@pytest.mark.parametrize("flags", [0, 3, 6, 25])
def test_i8_edges_of_tiles(kernel: str, flags: int) -> None:
    rng = np.random.default_rng(7)
    for size in EDGES:
        for rows, n, k in ((size, 33, 20), (5, size, 20), (13, 40, size)):
            x, w = random_operands(rng, rows * k, (n, k))
            check_i8(_kernels.gemm_i8, kernel, x, w, random_epilogue(rng, n, 1, rows, n, k, flags))


@pytest.mark.parametrize("kernel", I8)
def test_i8_every_height_of_a_tile(kernel: str) -> None:
    rng = np.random.default_rng(8)
    for rows in range(1, 50):
        x, w = random_operands(rng, rows * 9, (70, 9))
        check_i8(_kernels.gemm_i8, kernel, x, w, random_epilogue(rng, 70, 1, rows, 70, 9, rows % 4))


@pytest.mark.parametrize("kernel", I8)
@pytest.mark.parametrize(("rows", "k"), [(700, 9), (70, 1000), (27, 3001), (9, 8192), (9, 8193), (2, 40000)])
def test_i8_blocks_of_rows(kernel: str, rows: int, k: int) -> None:
    """Rows beyond one block, and rows too long to be packed."""
    rng = np.random.default_rng(k)
    x, w = random_operands(rng, rows * k, (35, k))
    for tasks in (1, 3):
        check_i8(_kernels.gemm_i8, kernel, x, w, random_epilogue(rng, 35, 1, rows, 35, k, 3), tasks)


@pytest.mark.parametrize("kernel", I8)
@settings(max_examples=80, deadline=None)
@given(conv=convolutions(), seed=st.integers(0, 2**32 - 1))
def test_i8_convolution(kernel: str, conv: dict[str, int], seed: int) -> None:
    check_i8(_kernels.gemm_i8, kernel, *convolution(conv, seed), conv["tasks"])


@pytest.mark.parametrize("kernel", I8)
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    n=st.integers(1, 40),
    k=st.integers(1, 700),
    taps=st.integers(1, 3),
    spread=st.sampled_from([3, 12, 30, 60, 200]),
    extreme=st.sampled_from([0, 0.001, 0.02, 0.3]),
    zero=st.sampled_from([0, 0.5, 0.95]),
    seed=st.integers(0, 2**32 - 1),
)
def test_i8_weights_of_every_kind(
    kernel: str, rows: int, n: int, k: int, taps: int, spread: int, extreme: float, zero: float, seed: int
) -> None:
    """Narrow and wide distributions, with the extreme codes here and there: what 16 bits hold and what they do not."""
    rng = np.random.default_rng(seed)
    x = rng.choice(np.array([0, 254, 255], np.uint8), rows * taps * k)
    w = np.clip(np.rint(rng.normal(size=(n, taps, k)) * spread), -128, 127).astype(np.int8)
    w[rng.random(w.shape) < zero] = 0
    w[rng.random(w.shape) < extreme] = rng.choice([-128, 127])
    p = random_epilogue(rng, n, 1, rows, n, taps * k, 3)
    p |= {"grid": (1, 1, rows), "strides": (0, 0, taps * k), "taps": [k * tap for tap in range(taps)]}
    check_i8(_kernels.gemm_i8, kernel, x, w, p)


@pytest.mark.parametrize("kernel", I8)
@pytest.mark.parametrize("signs", [(1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (-1, 1, 1, -1)])
@pytest.mark.parametrize("size", [62, 63, 64, 65, 127, 128])
def test_i8_sums_of_16_bits_never_saturate(kernel: str, signs: tuple[int, ...], size: int) -> None:
    """Neighbours beside and at the limits of 255 * 128 and -128 * 256, in one channel of each vector."""
    k, n = 148, 19
    w = np.zeros((n, k), np.int8)
    w[::5] = np.clip(size * np.resize(signs, k), -128, 127)
    w[:, 100:] //= 2
    x = np.full((9, k), 255, np.uint8)
    x[1::3], x[2::3, ::2] = 0, 0
    multiplier, bias = np.ones(n, np.float32), np.zeros(n, np.float32)
    y = _kernels.gemm_i8(kernel, x, w, multiplier, bias, output="f32")
    np.testing.assert_array_equal(y, x.astype(np.int64) @ w.T.astype(np.int64))


@pytest.mark.parametrize("isa", [isa for isa in _core.cpu()["isas"] if isa == "avx2"])
def test_i8_weights_choose_between_the_kernels_of(isa: str) -> None:
    """Most weights share 16 bits; where few do, and for a single row, the kernel runs that needs no such thing."""
    rng = np.random.default_rng(4)
    normal = np.clip(np.rint(rng.normal(size=(40, 512)) * 25), -127, 127).astype(np.int8)
    wide = rng.choice(np.array([-127, 127], np.int8), (40, 512))
    kernels = {}
    for name, w, rows in (("normal", normal, 30), ("wide", wide, 30), ("row", normal, 1)):
        m = Maker()
        x = m.input("x", rows, 512, dtype="u8")
        weight = m.constant(Weight(codes=w, scales=np.ones(40, np.float32)))
        graph = m.graph(m.node("quantized_linear", x, weight, m.floats(40), m.floats(40), zero_point_x=7, output="f32"))
        session = Session(graph, isa=isa, threads=1)
        codes = rng.integers(0, 256, (rows, 512), dtype=np.uint8)
        np.testing.assert_array_equal(session.run(codes)[0], Session(graph, isa="scalar", threads=1).run(codes)[0])
        (kernels[name],) = (
            row.kernel for row in session.profile(codes, repeats=1).rows if row.op == "quantized_linear"
        )
    assert kernels == {"normal": "avx2_8x8", "wide": "avx2_paired_4x16", "row": "avx2_4x16"}


@pytest.mark.parametrize("kernel", I8)
@pytest.mark.parametrize("x_code", [0, 255])
@pytest.mark.parametrize("w_code", [-128, -127, 127])
@pytest.mark.parametrize("x_zero_point", [0, 128, 255])
def test_i8_extreme_codes_are_exact(kernel: str, x_code: int, w_code: int, x_zero_point: int) -> None:
    """k just below the limit 255 * sum |w| < 2^31: no pair, chain or zero-point sum may saturate or overflow."""
    k = (2**31 - 1) // (255 * abs(w_code))
    x, w = np.full((2, k), x_code, np.uint8), np.full((3, k), w_code, np.int8)
    p = {
        "multiplier": np.ones(3, np.float32),
        "bias": np.zeros(3, np.float32),
        "x_zero_point": x_zero_point,
        "output": "f32",
    }
    y = _kernels.gemm_i8(kernel, x, w, **p)
    assert np.all(y == np.float32((x_code - x_zero_point) * w_code * k))


@pytest.mark.parametrize("kernel", I8)
@pytest.mark.parametrize("value", [-1e30, -3e9, -2147483648.0, 2147483648.0, 3e9, 1e30])
def test_i8_overflow_of_the_conversion_clamps(kernel: str, value: float) -> None:
    """cvtps2dq turns what does not fit into INT_MIN: the clamp must come before."""
    x, w = np.ones((3, 4), np.uint8), np.ones((50, 4), np.int8)
    multiplier, bias = np.zeros(50, np.float32), np.full(50, value, np.float32)
    y = _kernels.gemm_i8(kernel, x, w, multiplier, bias, lo=3, hi=250)
    assert np.all(y == (250 if value > 0 else 3))


@pytest.mark.parametrize("kernel", I8)
def test_i8_rounds_half_to_even(kernel: str) -> None:
    bias = np.arange(100, dtype=np.float32) + np.float32(0.5)
    zeros = np.zeros((100, 4), np.int8)
    for bounded in (False, True):
        y = _kernels.gemm_i8(kernel, np.ones((1, 4), np.uint8), zeros, np.ones(100, np.float32), bias, bounded=bounded)
        np.testing.assert_array_equal(y[0], np.rint(bias))


@pytest.mark.parametrize("kernel", F32)
@settings(max_examples=120, deadline=None)
@given(
    rows=st.integers(0, 70),
    n=st.integers(1, 150),
    k=st.integers(1, 90),
    flags=st.integers(0, 15),
    tasks=st.integers(1, 5),
    gap=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_f32_product(kernel: str, rows: int, n: int, k: int, flags: int, tasks: int, gap: int, seed: int) -> None:
    """Equal to the scalar row's bits, which lie within the bound of a sum of k products and two additions."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(rows, k)).astype(np.float32), rng.normal(size=(n, k)).astype(np.float32)
    p: dict[str, Any] = {"pitch": n + gap, "grid": (1, 1, rows), "strides": (0, 0, k)}
    p["bias"] = rng.normal(size=n).astype(np.float32) if flags & 1 else None
    p["residual"] = rng.normal(size=(rows, n + gap)).astype(np.float32) if flags & 2 else None
    p |= ({"min": 0.0} if flags & 4 else {}) | ({"max": 6.0} if flags & 8 else {})
    y = _kernels.gemm_f32(kernel, x, w, tasks=tasks, **p)
    truth = _kernels.gemm_f32(F32[-1], x, w, **p)
    np.testing.assert_array_equal(y.view(np.uint32), truth.view(np.uint32), err_msg=kernel, strict=True)

    addends = [x.astype(np.float64) @ w.astype(np.float64).T]
    magnitude = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T
    addends += [p["bias"].astype(np.float64)] if flags & 1 else []
    addends += [p["residual"][:, :n].astype(np.float64)] if flags & 2 else []
    magnitude = magnitude + sum(np.abs(a) for a in addends[1:])
    exact = np.clip(sum(addends), p.get("min", -np.inf), p.get("max", np.inf))
    bound = (k + 2) * np.finfo(np.float32).eps * magnitude
    assert np.all(np.abs(y[:, :n] - exact) <= bound)
    assert np.all(np.ascontiguousarray(y[:, n:]).view(np.uint8) == 0xA5)


@pytest.mark.parametrize("kernel", F32)
def test_f32_convolution_and_not_finite_values(kernel: str) -> None:
    """3 x 3, stride 2, over [2, 9, 9, 5]; NaN passes the clamp, and reaches only the windows that hold it."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 9, 9, 5)).astype(np.float32)
    x[0, 0, 0, 0], x[1, 8, 8, 4] = np.nan, np.inf
    w = rng.normal(size=(37, 3, 15)).astype(np.float32)
    p: dict[str, Any] = {"grid": (2, 4, 4), "strides": (405, 90, 10), "taps": [0, 45, 90], "min": 0.0, "max": 6.0}
    y = _kernels.gemm_f32(kernel, x, w, **p)
    truth = _kernels.gemm_f32(F32[-1], x, w, **p)
    np.testing.assert_array_equal(y, truth)
    assert np.isnan(y[0]).all()
    assert not np.isnan(y[1:-1]).any()
    fields = gather(x, p["grid"], p["strides"], p["taps"], 15)
    np.testing.assert_allclose(y[1:-1], np.clip(fields @ w.reshape(37, -1).T, 0, 6)[1:-1], atol=1e-4)


@pytest.mark.parametrize(
    ("select", "rows"),
    [(_kernels.select_gemm_i8, _core.kernels()["gemm_i8"]), (_kernels.select_gemm_f32, _core.kernels()["gemm_f32"])],
)
def test_selection_uses_the_best_isa_under_the_cap(select: Any, rows: list[dict[str, Any]]) -> None:
    isa_of = {row["name"]: row["isa"] for row in rows}
    available = [row["isa"] for row in rows if row["available"]]
    for n in EDGES:
        for count in (0, 1, 5, 49, 3136):
            assert isa_of[select(n, 1, 64, count)] == available[0]
            for isa in available:
                assert isa_of[select(n, 3, 64, count, isa)] == isa


@pytest.mark.parametrize(
    "arguments",
    [
        {"grid": (1, 1, 4)},
        {"taps": [9]},
        {"taps": [-1]},
        {"grid": (1, 1, -1)},
        {"strides": (0, 0, 2**40)},
        {"lo": 9, "hi": 3},
        {"table": np.zeros(255, np.uint8)},
        {"residual": np.zeros((3, 3), np.uint8)},
        {"x_zero_points": np.zeros(2, np.uint8)},
        {"output": "s8"},
        {"pitch": 1},
    ],
)
def test_arguments_out_of_bounds_are_refused(arguments: dict[str, Any]) -> None:
    ones = np.ones(2, np.float32)
    with pytest.raises(ValueError):
        _kernels.gemm_i8(I8[-1], np.zeros((3, 8), np.uint8), np.zeros((2, 8), np.int8), ones, ones, **arguments)
