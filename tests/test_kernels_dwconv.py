"""Every row of the depthwise and pooling kernels equals NumPy bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import int8_products
from lowbit import _core, _kernels
from lowbit.ops.integer import fma

Array = npt.NDArray[Any]

I8 = [row["name"] for row in _core.kernels()["dwconv_i8"] if row["available"]]
F32 = [row["name"] for row in _core.kernels()["dwconv_f32"] if row["available"]]
POOL = [row["name"] for row in _core.kernels()["pool"] if row["available"]]
CHANNELS = [1, 3, 7, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 80, 96, 127, 128, 129, 144, 200]


def windows(x: Array, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """The receptive fields [n][oh][ow][c][kh][kw] of an image [n][h][w][c]."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def epilogue(acc: Array, p: dict[str, Any]) -> Array:
    """kernel.h's epilogue, each operation rounded to float32 once."""
    t, factor, bias = acc.astype(np.float32), p["multiplier"], p["bias"]
    t = (
        fma(t, factor, bias)
        if p.get("row_scale") is None
        else fma(t * factor, p["row_scale"][:, None, None, None], bias)
    )
    if p.get("residual") is not None:
        t = fma(p["residual"].astype(np.float32), np.float32(p["residual_multiplier"]), t)
    assert t.dtype == np.float32
    if p["output"] == "f32":
        return np.asarray(np.minimum(np.maximum(t, np.float32(p["min"])), np.float32(p["max"])))
    codes = np.rint(np.clip(t, p["lo"], p["hi"])).astype(np.int64)
    return np.asarray(codes.astype(np.uint8) if p.get("table") is None else p["table"][codes])


def check_i8(
    x: Array,
    w: Array,
    p: dict[str, Any],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    tasks: int,
    gap: int,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> None:
    """Every row against NumPy; beyond the channels nothing is written. padding: what the kernel must add to x."""
    zero = p["x_zero_points"][:, None, None, None].astype(np.int64) if "x_zero_points" in p else p["x_zero_point"]
    top, left, bottom, right = padding
    image = np.pad(x.astype(np.int64) - zero, ((0, 0), (top, bottom), (left, right), (0, 0)))
    fields = windows(image, (w.shape[1], w.shape[2]), stride, dilation)
    expected = epilogue(np.einsum("nhwcij,cij->nhwc", fields, w.astype(np.int64)), p)
    for kernel in I8:
        y = _kernels.dwconv_i8(
            kernel, x, w, stride=stride, dilation=dilation, padding=padding, tasks=tasks, gap=gap, **p
        )
        np.testing.assert_array_equal(y[..., : w.shape[0]], expected, err_msg=kernel, strict=True)
        assert np.all(np.ascontiguousarray(y[..., w.shape[0] :]).view(np.uint8) == 0xA5), f"{kernel} wrote beyond"


def random_epilogue(rng: np.random.Generator, output: tuple[int, ...], taps: int, flags: int) -> dict[str, Any]:
    """As of a product that has these outputs; the residual counts negative, too."""
    n, channels = output[0], output[3]
    p = int8_products.random_epilogue(rng, channels, n, int(np.prod(output[:3])), channels, taps, flags)
    if flags & 2:
        p["residual"] = p["residual"].reshape(output)
        p["residual_multiplier"] = float(np.float32(rng.uniform(-0.5, 0.5)))
    return p


def image_of(
    grid: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    channels: int,
) -> tuple[int, int, int, int]:
    """The padded image whose outputs are `grid`."""
    sides = [(o - 1) * s + (k - 1) * d + 1 for o, k, s, d in zip(grid[1:], kernel, stride, dilation, strict=True)]
    return grid[0], sides[0], sides[1], channels


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.one_of(st.sampled_from(CHANNELS), st.integers(1, 300)),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 20)),
    kernel=st.one_of(st.sampled_from([(3, 3), (5, 5), (7, 7)]), st.tuples(st.integers(1, 9), st.integers(1, 9))),
    stride=st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 2), (2, 1)]),
    dilation=st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 2), (1, 3), (2, 1)]),
    flags=st.integers(0, 63),
    tasks=st.integers(1, 5),
    gap=st.sampled_from([0, 0, 5]),
    padding=st.tuples(*[st.integers(0, 9)] * 4) | st.just((0, 0, 0, 0)),
)
def test_int8_equals_numpy(
    seed: int,
    channels: int,
    grid: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    flags: int,
    tasks: int,
    gap: int,
    padding: tuple[int, int, int, int],
) -> None:
    rng = np.random.default_rng(seed)
    whole = image_of(grid, kernel, stride, dilation, channels)
    top, left = min(padding[0], whole[1] - 1), min(padding[1], whole[2] - 1)
    bottom, right = min(padding[2], whole[1] - 1 - top), min(padding[3], whole[2] - 1 - left)
    x = rng.integers(0, 256, (whole[0], whole[1] - top - bottom, whole[2] - left - right, channels), dtype=np.uint8)
    w = rng.integers(-128, 128, (channels, *kernel), dtype=np.int8)
    p = random_epilogue(rng, (*grid, channels), kernel[0] * kernel[1], flags)
    check_i8(x, w, p, stride, dilation, tasks, gap, (top, left, bottom, right))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.one_of(st.sampled_from(CHANNELS), st.integers(1, 300)),
    image=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 40)),
    size=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    padding=st.tuples(*[st.integers(0, 4)] * 4),
    dynamic=st.booleans(),
    table=st.booleans(),
    tasks=st.integers(1, 5),
    gap=st.sampled_from([0, 0, 5]),
)
def test_int8_fast_shapes_equal_numpy(
    seed: int,
    channels: int,
    image: tuple[int, int, int],
    size: int,
    stride: int,
    padding: tuple[int, int, int, int],
    dynamic: bool,
    table: bool,
    tasks: int,
    gap: int,
) -> None:
    rng = np.random.default_rng(seed)
    height = max(image[1], size - padding[0] - padding[2])
    width = max(image[2], size - padding[1] - padding[3])
    grid = (
        image[0],
        (height + padding[0] + padding[2] - size) // stride + 1,
        (width + padding[1] + padding[3] - size) // stride + 1,
    )
    x = rng.integers(0, 256, (image[0], height, width, channels), dtype=np.uint8)
    w = rng.integers(-128, 128, (channels, size, size), dtype=np.int8)
    p = random_epilogue(rng, (*grid, channels), size * size, 32 | 4 * table)
    if dynamic:
        p["x_zero_points"] = rng.integers(0, 256, image[0], dtype=np.uint8)
    check_i8(x, w, p, (stride, stride), (1, 1), tasks, gap, padding)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("channels", CHANNELS)
def test_int8_fast_shapes_with_every_tail(channels: int, size: int, stride: int) -> None:
    """Kernels 3x3 to 7x7, odd and even heights, row widths around the tile and the strip."""
    rng = np.random.default_rng(channels)
    for height, width in [(1, 1), (2, 3), (3, 4), (4, 7), (2, 130), (9, 5), (7, 33)]:
        image = image_of((1, height, width), (size, size), (stride, stride), (1, 1), channels)
        x = rng.integers(0, 256, image, dtype=np.uint8)
        w = rng.integers(-128, 128, (channels, size, size), dtype=np.int8)
        for flags in (0, 32, 36):
            p = random_epilogue(rng, (1, height, width, channels), size * size, flags)
            check_i8(x, w, p, (stride, stride), (1, 1), 2, 0)
        if height > 2 and width > 2:
            check_i8(np.ascontiguousarray(x[:, 1:-1, 1:-1]), w, p, (stride, stride), (1, 1), 2, 0, (1, 1, 1, 1))


def test_int8_extremes_do_not_saturate() -> None:
    """All codes at their ends: pair sums pass 16 bits, accumulators do not."""
    x = np.full((1, 9, 9, 70), 255, np.uint8)
    for weight in (-128, 127):
        w = np.full((70, 7, 7), weight, np.int8)
        for zero_point in (0, 255):
            p: dict[str, Any] = {
                "multiplier": np.full(70, 1.0, np.float32),
                "bias": np.zeros(70, np.float32),
                "x_zero_point": zero_point,
                "output": "f32",
                "min": -np.inf,
                "max": np.inf,
            }
            check_i8(x, w, p, (1, 1), (1, 1), 1, 0)


def test_int8_far_out_of_range_clamps() -> None:
    """Products beyond int32, where a conversion alone would turn a large positive number into a negative one."""
    rng = np.random.default_rng(7)
    x = rng.integers(0, 256, (1, 5, 20, 40), dtype=np.uint8)
    w = rng.integers(-127, 128, (40, 3, 3), dtype=np.int8)
    p = random_epilogue(rng, (1, 3, 18, 40), 9, 0)
    p["multiplier"] = np.full(40, 1e9, np.float32)
    check_i8(x, w, p, (1, 1), (1, 1), 1, 0)


def test_int8_wide_kernels_leave_the_strip() -> None:
    """Reaches too long for the strip of interleaved columns take the direct path."""
    rng = np.random.default_rng(11)
    for kernel, dilation in [((3, 120), (1, 1)), ((31, 31), (1, 1)), ((2, 3), (1, 90)), ((17, 5), (3, 2))]:
        x = rng.integers(0, 256, image_of((2, 3, 5), kernel, (1, 1), dilation, 49), dtype=np.uint8)
        w = rng.integers(-127, 128, (49, *kernel), dtype=np.int8)
        p = random_epilogue(rng, (2, 3, 5, 49), kernel[0] * kernel[1], 0)
        check_i8(x, w, p, (1, 1), dilation, 3, 0)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.one_of(st.sampled_from(CHANNELS), st.integers(1, 100)),
    grid=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 21) | st.sampled_from([33, 70])),
    kernel=st.sampled_from([(3, 3), (5, 5), (7, 7)]) | st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 3),
    dilation=st.sampled_from([1, 1, 2]),
    extras=st.integers(0, 3),
    tasks=st.integers(1, 4),
    padding=st.tuples(*[st.integers(0, 9)] * 4) | st.just((0, 0, 0, 0)),
)
def test_float_rows_equal_numpy(
    seed: int,
    channels: int,
    grid: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: int,
    dilation: int,
    extras: int,
    tasks: int,
    padding: tuple[int, int, int, int],
) -> None:
    """Sums in the order of dwconv_f32.h, each product and sum rounded once."""
    rng = np.random.default_rng(seed)
    steps, spread = (stride, stride), (dilation, dilation)
    whole = image_of(grid, kernel, steps, spread, channels)
    top, left = min(padding[0], whole[1] - 1), min(padding[1], whole[2] - 1)
    bottom, right = min(padding[2], whole[1] - 1 - top), min(padding[3], whole[2] - 1 - left)
    inside = (whole[0], whole[1] - top - bottom, whole[2] - left - right, channels)
    x = rng.standard_normal(inside).astype(np.float32)
    w = rng.standard_normal((channels, *kernel)).astype(np.float32)
    p: dict[str, Any] = {"stride": steps, "dilation": spread, "min": -1.0, "max": 2.0}
    if extras & 1:
        p["bias"] = rng.standard_normal(channels).astype(np.float32)
    if extras & 2:
        p["residual"] = rng.standard_normal((*grid, channels)).astype(np.float32)
    image = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    fields = windows(image, kernel, steps, spread)
    expected = np.zeros((*grid, channels), np.float32)
    for i, j in np.ndindex(kernel):
        expected = fma(fields[..., i, j], w[:, i, j], expected)
    for name in ("bias", "residual"):
        expected = expected + p[name] if name in p else expected
    expected = np.clip(expected, np.float32(-1.0), np.float32(2.0))
    for name in F32:
        y = _kernels.dwconv_f32(name, x, w, tasks=tasks, gap=3, padding=(top, left, bottom, right), **p)
        np.testing.assert_array_equal(y[..., :channels], expected, err_msg=name, strict=True)
        assert np.all(np.ascontiguousarray(y[..., channels:]).view(np.uint8) == 0xA5), f"{name} wrote beyond"


def test_float_keeps_nan() -> None:
    x = np.zeros((1, 3, 19, 20), np.float32)
    x[0, 1, 4, 7] = np.nan
    w = np.ones((20, 3, 3), np.float32)
    for name in F32:
        y = _kernels.dwconv_f32(name, x, w, min=0.0, max=6.0)
        assert np.isnan(y[0, 0, 2:5, 7]).all()
        assert np.isnan(y).sum() == 3


def spans(size: int, p: dict[str, Any], axis: int) -> list[tuple[list[int], int]]:
    """For each output of an axis: the positions its window covers inside the image, and its length with padding."""
    if "outputs" in p:
        count = p["outputs"][axis]
        ends = [(o * size // count, -(-(o + 1) * size // count)) for o in range(count)]
        return [(list(range(begin, end)), end - begin) for begin, end in ends]
    kernel, stride, dilation = p["window"][axis], p["stride"][axis], p["dilation"][axis]
    begin, end = p["padding"][axis], p["padding"][axis + 2]
    result = []
    for first in range(-begin, size + end - (kernel - 1) * dilation, stride):
        inside = [first + i * dilation for i in range(kernel) if 0 <= first + i * dilation < size]
        result.append((inside, min(kernel, size + end - first)))
    return result


def pool(x: Array, kind: str, p: dict[str, Any]) -> Array:
    """pool.h in NumPy, one output pixel at a time."""
    codes = x.dtype == np.uint8
    rows, columns = spans(x.shape[1], p, 0), spans(x.shape[2], p, 1)
    as_codes = codes and (kind == "max" or p["output"] == "u8")
    y = np.zeros((x.shape[0], len(rows), len(columns), x.shape[3]), np.uint8 if as_codes else np.float32)
    for h, (inside_h, length_h) in enumerate(rows):
        for w, (inside_w, length_w) in enumerate(columns):
            window = x[:, inside_h][:, :, inside_w].reshape(x.shape[0], -1, x.shape[3])
            elements = window.shape[1]
            count = np.float32(max(1, length_h * length_w if p["count_include_pad"] else elements))
            if kind == "max":
                y[:, h, w] = window.max(axis=1, initial=0 if codes else -np.inf)
            elif codes:
                acc = window.astype(np.int64).sum(axis=1) - elements * p["x_zero_point"]
                t = acc.astype(np.float32) * np.float32(p["multiplier"]) / count
                zero_point = p["zero_point"]
                rounded = np.rint(np.clip(t, p["lo"] - zero_point, p["hi"] - zero_point)) + zero_point
                y[:, h, w] = rounded if p["output"] == "u8" else t
            elif "outputs" in p or elements > 16:
                pairs = window[:, : elements // 2 * 2].reshape(x.shape[0], -1, 2, x.shape[3])
                total = np.concatenate([pairs[:, :, 0] + pairs[:, :, 1], window[:, elements // 2 * 2 :]], axis=1)
                y[:, h, w] = total.astype(np.float64).sum(axis=1) / np.float64(count)
            else:
                acc_f32 = np.zeros((x.shape[0], x.shape[3]), np.float32)
                for i in range(elements):
                    acc_f32 = window[:, i] + acc_f32
                y[:, h, w] = acc_f32 / count
    return y


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["max", "avg"]),
    codes=st.booleans(),
    adaptive=st.booleans(),
    n=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.one_of(st.sampled_from(CHANNELS), st.integers(1, 600)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.integers(1, 2),
    tasks=st.integers(1, 5),
)
def test_pools_equal_numpy(
    seed: int,
    kind: str,
    codes: bool,
    adaptive: bool,
    n: int,
    size: tuple[int, int],
    channels: int,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: int,
    tasks: int,
) -> None:
    """Codes and floats: the sums have one order, so NumPy equals every row bit for bit."""
    rng = np.random.default_rng(seed)
    shape = (n, *size, channels)
    x = rng.integers(0, 256, shape, dtype=np.uint8) if codes else rng.standard_normal(shape).astype(np.float32)
    lo = int(rng.integers(0, 256))
    p: dict[str, Any] = {
        "count_include_pad": bool(rng.integers(2)),
        "x_zero_point": int(rng.integers(256)),
        "multiplier": float(np.float32(rng.uniform(0.2, 3.0))),
        "zero_point": int(rng.integers(256)),
        "lo": lo,
        "hi": int(rng.integers(lo, 256)),
        "output": str(rng.choice(["u8", "f32"])),
    }
    if adaptive:
        p["outputs"] = (int(rng.integers(1, 10)), int(rng.integers(1, 10))) if rng.integers(2) else (1, 1)
    else:
        p |= {
            "window": window,
            "stride": stride,
            "padding": padding,
            "dilation": (dilation if kind == "max" else 1,) * 2,
        }
    expected = pool(x, kind, p)
    for name in POOL:
        y = _kernels.pool(name, x, kind, tasks=tasks, gap=3, **p)
        np.testing.assert_array_equal(y[..., :channels], expected, err_msg=name, strict=True)
        assert np.all(np.ascontiguousarray(y[..., channels:]).view(np.uint8) == 0xA5), f"{name} wrote beyond"


def test_max_pool_keeps_nan() -> None:
    x = np.zeros((1, 4, 4, 21), np.float32)
    x[0, 1, 1, 5] = np.nan
    for name in POOL:
        y = _kernels.pool(name, x, "max", window=(2, 2), stride=(2, 2))
        assert np.isnan(y[0, 0, 0, 5])
        assert np.isnan(y).sum() == 1


def test_global_average_of_a_large_image() -> None:
    """More elements than 16-bit sums would hold, all at the top code."""
    x = np.full((1, 33, 300, 5), 255, np.uint8)
    for name in POOL:
        y = _kernels.pool(name, x, "avg", outputs=(1, 1), x_zero_point=0, output="f32")
        np.testing.assert_array_equal(y, np.full((1, 1, 1, 5), 255, np.float32))


def test_unknown_rows_and_bad_shapes_are_refused() -> None:
    from lowbit.errors import LowbitError

    x, w, one = np.zeros((1, 3, 3, 2), np.uint8), np.zeros((2, 3, 3), np.int8), np.ones(2, np.float32)
    with pytest.raises(LowbitError, match="no kernel"):
        _kernels.dwconv_i8("none", x, w, one, one)
    with pytest.raises(LowbitError, match="multiplier"):
        _kernels.dwconv_i8("scalar", x, w, np.ones(3, np.float32), one)
