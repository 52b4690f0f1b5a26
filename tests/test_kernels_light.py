"""Every row of attention, norm, rnn, blend and gather: near the exact values, and in a family the same bits.

What is made of rounded operations in a stated order (norm, blend, gather) equals NumPy bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit import _core, _kernels
from lowbit.graph.weights import pack_rows
from lowbit.ops.integer import fma
from lowbit.ops.recurrent import state_codes

Array = npt.NDArray[Any]
TAILS = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 128, 129, 200]))
SEEDS = st.integers(0, 2**32 - 1)


def rows_of(family: str) -> list[str]:
    return [row["name"] for row in _core.kernels()[family] if row["available"]]


def same_bits(family: str, results: dict[str, Array]) -> Array:
    """The scalar row's result, which all others equal."""
    truth = results["scalar"]
    for name, y in results.items():
        np.testing.assert_array_equal(y.view(np.uint8), truth.view(np.uint8), err_msg=f"{family} {name}")
    return truth


def test_every_family_ends_with_scalar_rows() -> None:
    """So there is a kernel on every CPU, and something to compare the others with; no two rows have one name.

    Filtering of windows stands beside direct sums, which all CPUs have and it is compared with.
    """
    for family, rows in _core.kernels().items():
        if family != "winograd_i8":
            assert rows[-1]["isa"] == "scalar", family
            assert rows[-1]["available"], family
        assert len({row["name"] for row in rows}) == len(rows), family


def attention(q: Array, k: Array, v: Array, mask: Array | None, scale: float, causal: bool, empty: float) -> Array:
    """attention.h in float64."""
    sharing = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, sharing, axis=1).astype(np.float64), np.repeat(v, sharing, axis=1).astype(np.float64)
    s = q.astype(np.float64) @ k.swapaxes(2, 3) * scale
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    if causal:
        s = np.where(np.tri(*s.shape[2:], dtype=bool), s, -np.inf)
    top = s.max(axis=3, keepdims=True, initial=-np.inf)
    e = np.exp(s - np.where(np.isinf(top), 0.0, top))
    total = e.sum(axis=3, keepdims=True)
    return np.asarray(np.where(total == 0, empty, e / np.where(total == 0, 1.0, total)) @ v)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    batch=st.integers(1, 2),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]),
    length=st.one_of(st.integers(1, 20), st.just(70)),
    keys=TAILS,
    depth=st.integers(1, 20),
    value_depth=st.integers(1, 35),
    masked=st.sampled_from(["none", "floats", "bool", "one float a row", "one bool a row", "all dropped"]),
    causal=st.booleans(),
    divides_last=st.booleans(),
    threads=st.integers(1, 3),
)
def test_attention(
    seed: int,
    batch: int,
    heads: tuple[int, int],
    length: int,
    keys: int,
    depth: int,
    value_depth: int,
    masked: str,
    causal: bool,
    divides_last: bool,
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((batch, heads[0], length, depth)).astype(np.float32)
    k = rng.standard_normal((batch, heads[1], keys, depth)).astype(np.float32)
    v = rng.standard_normal((batch, heads[1], keys, value_depth)).astype(np.float32)
    shape = (batch, heads[0], length, 1 if masked.startswith("one") else keys)
    mask: Array | None = None
    if "float" in masked:
        mask = rng.standard_normal(shape).astype(np.float32)
    elif masked != "none":
        mask = rng.random(shape) < (0.0 if masked == "all dropped" else 0.7)
    if mask is not None:
        mask = np.broadcast_to(mask, (batch, heads[0], length, keys))
    options: dict[str, Any] = {"scale": 0.3, "causal": causal, "divides_last": divides_last, "threads": threads}
    results = {name: _kernels.attention(name, q, k, v, mask=mask, **options) for name in rows_of("attention")}
    expected = attention(q, k, v, mask, 0.3, causal, 0.0)
    np.testing.assert_allclose(same_bits("attention", results), expected, rtol=1e-5, atol=1e-5)


def test_attention_to_nothing_may_be_nan() -> None:
    q = np.ones((1, 1, 3, 2), np.float32)
    v = np.ones((1, 1, 5, 4), np.float32)
    mask = np.ones((1, 1, 3, 5), bool)
    mask[0, 0, 1] = False
    for name, last in itertools.product(rows_of("attention"), (False, True)):
        k, options = np.ones((1, 1, 5, 2), np.float32), {"nan_if_empty": True, "divides_last": last}
        y = _kernels.attention(name, q, k, v, mask=mask, **options)
        assert np.isnan(y[0, 0, 1]).all()
        assert not np.isnan(y[0, 0, [0, 2]]).any()


def sum_of(x: Array, add: Callable[[Array, Array], Array]) -> np.float32:
    """Adds the elements of a row in the order of norm.h: add(elements, sums so far)."""
    total = np.zeros(16, np.float32)
    for block in np.split(x, range(4096, x.size, 4096)):
        lanes = np.zeros(64, np.float32)
        for step in np.split(block, range(64, block.size, 64)):
            lanes[: step.size] = add(step, lanes[: step.size])
        a, b, c, d = lanes.reshape(4, 16)
        total = total + ((a + b) + (c + d))
    while total.size > 1:
        total = total[: total.size // 2] + total[total.size // 2 :]
    return np.float32(total[0])


def norm(x: Array, weight: Array | None, bias: Array | None, inner: int, eps: float, centered: bool) -> Array:
    """norm.h operation by operation, of one row."""
    inverse, high, low = np.float32(1) / np.float32(x.size), np.float32(0), np.float32(0)
    if centered:
        near = np.sort(x[[0, x.size // 2, -1]])[1]
        apart = sum_of(x, lambda v, acc: acc + (v - near)) * inverse
        high = near + apart
        part = high - near
        low = (near - (high - part)) + (apart - part)
    m2 = sum_of(x, lambda v, acc: fma(v - high, v - high, acc)) * inverse - low * low
    scale = np.float32(1) / np.sqrt(m2 + np.float32(eps))
    centred = (x - high) - low
    weight = None if weight is None else np.repeat(weight, inner)
    bias = None if bias is None else np.repeat(bias, inner)
    if inner > 1:
        factor = np.full(x.size, scale) if weight is None else scale * weight
        return fma(centred, factor, np.float32(0) if bias is None else bias)
    normal = centred * scale
    if weight is not None and bias is not None:
        return fma(normal, weight, bias)
    return normal * (1 if weight is None else weight) + (0 if bias is None else bias)


@settings(max_examples=80, deadline=None)
@given(
    seed=SEEDS,
    rows=st.integers(1, 7),
    channels=TAILS,
    inner=st.sampled_from([1, 1, 1, 2, 9, 17, 64]),
    cycle=st.integers(1, 3),
    centered=st.booleans(),
    weighted=st.booleans(),
    biased=st.booleans(),
    offset=st.sampled_from([0.0, 3.0, -300.0]),
    tasks=st.integers(1, 3),
)
def test_norm(
    seed: int,
    rows: int,
    channels: int,
    inner: int,
    cycle: int,
    centered: bool,
    weighted: bool,
    biased: bool,
    offset: float,
    tasks: int,
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, channels * inner)) + offset).astype(np.float32)
    weight = rng.standard_normal((cycle, channels)).astype(np.float32) if weighted else None
    bias = rng.standard_normal((cycle, channels)).astype(np.float32) if biased else None
    expected = np.stack(
        [
            norm(row, *(v if v is None else v[r % cycle] for v in (weight, bias)), inner, 1e-3, centered)
            for r, row in enumerate(x)
        ]
    )
    for name in rows_of("norm"):
        y = _kernels.norm(
            name, x, weight=weight, bias=bias, inner=inner, cycle=cycle, eps=1e-3, centered=centered, tasks=tasks
        )
        np.testing.assert_array_equal(y, expected, err_msg=name, strict=True)


@pytest.mark.parametrize("size", [4095, 4096, 4097, 13001])
def test_norm_of_long_rows(size: int) -> None:
    """Sums of more than a block of 4,096 elements, whole and with a tail; equal elements give 0."""
    x = np.random.default_rng(size).standard_normal((2, size)).astype(np.float32)
    x[1] = 0.1
    expected = norm(x[0], None, None, 1, 1e-5, True)
    exact = x[0].astype(np.float64) - x[0].mean(dtype=np.float64)
    np.testing.assert_allclose(expected, exact / np.sqrt((exact**2).mean() + 1e-5), rtol=1e-5, atol=1e-6)
    for name in rows_of("norm"):
        y = _kernels.norm(name, x, eps=1e-5)
        np.testing.assert_array_equal(y[0], expected, err_msg=name)
        assert not y[1].any()


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, hidden=TAILS, scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_lstm(seed: int, hidden: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    gates = (rng.standard_normal(4 * hidden) * scale).astype(np.float32)
    c = rng.standard_normal(hidden).astype(np.float32)
    results = {name: np.stack(_kernels.lstm(name, gates, c)) for name in rows_of("rnn")}
    i, f, g, o = gates.reshape(4, hidden)
    state = sigmoid(f) * c + sigmoid(i) * np.tanh(g.astype(np.float64))
    expected = np.stack([state, sigmoid(o) * np.tanh(state)])
    np.testing.assert_allclose(same_bits("lstm", results), expected, rtol=2e-6, atol=1e-6)


def rnn_share(w: Array, scales: Array, h: Array, start: Array) -> Array:
    """rnn.h, operation by operation."""
    codes, row_scales = state_codes(h)
    sums = (codes @ w.T.astype(np.float64)).astype(np.float32)
    return fma(sums * scales, row_scales[:, None], start)


@settings(max_examples=80, deadline=None)
@given(
    seed=SEEDS,
    gates=st.sampled_from([1, 3, 4]),
    rows=st.integers(1, 4),
    hidden=TAILS,
    outputs=TAILS,
    kind=st.sampled_from(["normal", "zero", "tiny", "huge", "largest"]),
    has_bias=st.booleans(),
    backward=st.booleans(),
    tasks=st.integers(1, 3),
)
def test_rnn_steps_on_codes(
    seed: int, gates: int, rows: int, hidden: int, outputs: int, kind: str, has_bias: bool, backward: bool, tasks: int
) -> None:
    """Sums are exact, the cells those of float states: a step is what `lstm` and `gru` make of NumPy's products."""
    rng = np.random.default_rng(seed)
    k = hidden if gates == 3 else outputs
    h = rng.standard_normal((rows, k)).astype(np.float32)
    factor = {"zero": 0.0, "tiny": 1e-42, "huge": 1e38}.get(kind, 1.0)
    h[0] = np.float32(-5) if kind == "largest" else h[0] * np.float32(factor)
    w = rng.integers(-128, 128, (gates * hidden, k)).astype(np.int8)
    w[0] = -128 if kind == "largest" else w[0]
    scales = rng.uniform(1e-3, 1e-2, gates * hidden).astype(np.float32)
    x = rng.standard_normal((rows, gates * hidden)).astype(np.float32)
    c = rng.standard_normal((rows, hidden)).astype(np.float32)
    bias = rng.standard_normal(gates * hidden).astype(np.float32) if has_bias and gates == 3 else None
    options: dict[str, Any] = {"gates": gates, "backward": backward, "tasks": tasks, "relu": True}
    options |= {"c": c} if gates == 4 else {} if bias is None else {"bias": bias}
    results = {name: _kernels.rnn_step(name, w, scales, h, x, **options) for name in rows_of("rnn")}
    y = same_bits("rnn", {name: found[0] for name, found in results.items()})
    start = np.zeros_like(x) if gates == 3 else x
    if gates == 3:
        start = np.broadcast_to(np.float32(0) if bias is None else bias, x.shape).copy()
        start[:, : 2 * hidden] += x[:, : 2 * hidden]
    s = rnn_share(w, scales, h, start)
    if gates == 1:
        np.testing.assert_array_equal(y, np.maximum(s, np.float32(0)))
    for row in range(rows):
        if gates == 4:
            cell, state = _kernels.lstm("scalar", s[row], c[row])
            np.testing.assert_array_equal([y[row], results["scalar"][1][row]], [state, cell])
        elif gates == 3:
            only_x = np.concatenate([np.zeros(2 * hidden, np.float32), x[row, 2 * hidden :]])
            np.testing.assert_array_equal(y[row], _kernels.gru("scalar", only_x, s[row], h[row]))


def test_a_state_that_is_not_finite_makes_nan_of_its_row() -> None:
    w, scales = np.full((16, 37), -128, np.int8), np.ones(16, np.float32)
    h, x = np.ones((4, 37), np.float32), np.zeros((4, 16), np.float32)
    h[1, 7], h[2, 36] = np.nan, np.inf
    for name in rows_of("rnn"):
        y, _ = _kernels.rnn_step(name, w, scales, h, x)
        np.testing.assert_array_equal(y[[0, 3]], -1, err_msg=name)
        assert np.isnan(y[1:3]).all(), name


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, hidden=TAILS, scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_gru(seed: int, hidden: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, s = (rng.standard_normal((2, 3 * hidden)) * scale).astype(np.float32)
    before = rng.standard_normal(hidden).astype(np.float32)
    results = {name: _kernels.gru(name, x, s, before) for name in rows_of("rnn")}
    (xr, xz, xn), (sr, sz, sn) = x.reshape(3, hidden), s.reshape(3, hidden)
    fresh = np.tanh(xn + sigmoid(xr + sr) * sn)
    expected = fresh + sigmoid(xz + sz) * (before - fresh)
    np.testing.assert_allclose(same_bits("gru", results), expected, rtol=1e-5, atol=2e-6)


@settings(max_examples=80, deadline=None)
@given(
    seed=SEEDS,
    codes=st.booleans(),
    rows=st.integers(1, 5),
    pixels=st.integers(0, 9),
    taps=st.integers(1, 6),
    channels=TAILS,
    counted=st.booleans(),
    gap=st.integers(0, 3),
)
def test_blend(
    seed: int, codes: bool, rows: int, pixels: int, taps: int, channels: int, counted: bool, gap: int
) -> None:
    """blend.h operation by operation; nothing is written behind a pixel's channels."""
    rng = np.random.default_rng(seed)
    size = channels * 7
    x = rng.integers(0, 256, (rows, size)).astype(np.uint8) if codes else rng.standard_normal((rows, size))
    x = x if codes else x.astype(np.float32)
    row_weights = rng.uniform(-0.5, 1.5, rows).astype(np.float32)
    offsets = rng.integers(0, size - channels + 1, (pixels, taps))
    weights = rng.uniform(-0.3, 0.8, (pixels, taps)).astype(np.float32)
    counts = rng.integers(0, taps + 1, pixels).astype(np.int32) if counted else None
    expected = np.zeros((pixels, channels), np.float32)
    for p in range(pixels):
        count = taps if counts is None else counts[p]
        products = [
            (row_weights[i] * weights[p, k]) * x[i, offsets[p, k] :][:channels].astype(np.float32)
            for i in range(rows)
            for k in range(count)
        ]
        for i, product in enumerate(products):
            expected[p] = product if i == 0 else expected[p] + product
    for name in rows_of("blend"):
        y = _kernels.blend(name, x, row_weights, offsets, weights, channels=channels, counts=counts, gap=gap)
        wanted = np.rint(np.clip(expected, 0, 255)).astype(np.uint8) if codes else expected
        np.testing.assert_array_equal(y[:, :channels], wanted, err_msg=name, strict=True)
        assert np.all(np.ascontiguousarray(y[:, channels:]).view(np.uint8) == 0xA5), f"{name} wrote beyond"


def test_blend_of_nan_is_the_code_zero() -> None:
    for name in rows_of("blend"):
        y = _kernels.blend(
            name,
            np.full((1, 20), 7, np.uint8),
            np.ones(1, np.float32),
            np.zeros((1, 1), np.int64),
            np.full((1, 1), np.nan, np.float32),
            channels=20,
        )
        assert not y.any()


@pytest.mark.parametrize(
    ("bits", "kind"),
    [
        (bits, kind)
        for bits in (8, 4, 2)
        for kind in ("", "affine", "floats", "offsets", "floats, offsets")
        if bits < 8 or kind != "affine"
    ],
)
@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, groups=st.integers(1, 4), half=st.integers(1, 40), odd=st.integers(0, 3))
def test_gather(bits: int, kind: str, seed: int, groups: int, half: int, odd: int) -> None:
    """gather.h: one product a number; to what is there it is added times a weight, in one rounding."""
    rng = np.random.default_rng(seed)
    groups = 1 if odd else groups
    group_size = 4 * half - odd
    k, n = groups * group_size, 3
    wide, has_offsets = "floats" in kind, "offsets" in kind
    scales, offsets = rng.uniform(-0.1, 0.1, (2, n, groups)).astype(np.float32 if wide else np.float16)
    zeros = rng.integers(0, 1 << bits, (n, groups)).astype(np.uint8) if kind == "affine" else None
    if bits == 8:
        codes = stored = rng.integers(-128, 128, (n, k)).astype(np.int8)
    else:
        whole = rng.integers(0, 1 << bits, (n, k)).astype(np.uint8)
        middle = np.full((n, groups), 0 if has_offsets else 1 << (bits - 1), np.uint8) if zeros is None else zeros
        codes, stored = (
            whole.astype(np.int8) - np.repeat(middle.astype(np.int8), group_size, axis=1),
            pack_rows(whole, bits),
        )
    single, added = (np.repeat(part.astype(np.float32), group_size, axis=1) for part in (scales, offsets))
    added = added if has_offsets else np.zeros_like(added)
    weight, sums = float(np.float32(rng.normal())), rng.normal(size=k).astype(np.float32)
    given, beside = (part if wide else part.view(np.uint16) for part in (scales, offsets))
    parts = {"bits": bits, "zero_points": zeros, "offsets": beside if has_offsets else None}
    for name in rows_of("gather"):
        for row in range(n):
            y = _kernels.gather(name, stored, given, k, row, **parts)
            expected = codes[row].astype(np.float32) * single[row] + added[row]
            np.testing.assert_array_equal(y, expected, err_msg=name, strict=True)
            y = _kernels.gather(name, stored, given, k, row, weight=weight, y=sums, **parts)
            expected = fma(codes[row], single[row] * np.float32(weight), sums)
            expected = fma(added[row], np.float32(weight), expected)
            np.testing.assert_array_equal(y, expected, err_msg=name, strict=True)
