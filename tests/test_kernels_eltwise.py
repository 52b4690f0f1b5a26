"""Every row of the elementwise kernels that this CPU can run: codes equal NumPy bit for bit, floats the scalar row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit import _core, _kernels

Array = npt.NDArray[Any]

ROWS = [row["name"] for row in _core.kernels()["eltwise"] if row["available"]]
SIZES = sorted({size + step for size in (1, 8, 16, 32, 64, 256) for step in (-1, 0, 1)} | {1000, 5000})
TINY_AND_HUGE = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, np.inf, -np.inf, np.nan, 88.7, -88.7, 104.0, -104.0]
TURNING_POINTS = [1.0, -1.0, 0.5, 1.5, 2.5, 0.625, 0.9277, -0.9277, 20.0, 9.0, -9.0, 127.5, 128.5, 254.5, 255.5]
EDGE_FLOATS = np.array([*TINY_AND_HUGE, *TURNING_POINTS], np.float32)


def floats(rng: np.random.Generator, shape: int | tuple[int, ...], edges: bool = True) -> Array:
    """Numbers of all sizes, a few of them special."""
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(np.float32)
    if edges:
        x = np.where(rng.random(shape) < 0.1, rng.choice(EDGE_FLOATS, shape), x)
    return np.asarray(x, np.float32)


def laid_out(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> Array:
    """An uninitialised-looking array of this shape whose axes lie in memory in a random order, perhaps with gaps."""
    order = rng.permutation(len(shape))
    steps = rng.integers(1, 3, len(shape)) if rng.integers(2) else np.ones(len(shape), int)
    base: Array = np.full([shape[axis] * steps[i] for i, axis in enumerate(order)], 77, dtype)
    view = base[tuple(slice(None, None, int(step)) for step in steps)]
    return view.transpose(np.argsort(order))


def same_bits(a: Array, b: Array, message: str = "") -> None:
    """Equal bit for bit, except that one NaN is as good as another."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    equal = (np.ascontiguousarray(a).view(np.uint32) == np.ascontiguousarray(b).view(np.uint32)) | (
        np.isnan(a) & np.isnan(b)
    )
    assert equal.all(), f"{message}: {a[~equal][:5]} instead of {b[~equal][:5]}"


def quantized(x: Array, scale: Array | np.float32, zero_point: Array | int) -> Array:
    with np.errstate(all="ignore"):
        t = x * (np.float32(1) / np.asarray(scale, np.float32))
    zero = np.asarray(zero_point, np.int64)
    codes = np.rint(np.clip(np.where(np.isnan(t), np.float32(0), t), -zero, 255 - zero)) + zero
    return np.asarray(codes.astype(np.uint8))


shapes = st.lists(
    st.one_of(st.integers(0, 6), st.integers(1, 6), st.sampled_from([16, 17, 33, 70])), min_size=1, max_size=4
).map(tuple)
layouts = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(
    seed=layouts,
    shape=shapes,
    tasks=st.integers(1, 4),
    kind=st.sampled_from([np.uint8, np.uint16, np.float32, np.float64]),
)
def test_copy_permutes(seed: int, shape: tuple[int, ...], tasks: int, kind: type) -> None:
    rng = np.random.default_rng(seed)
    x = laid_out(rng, shape, kind)
    x[...] = rng.integers(0, 256, shape)
    for row in ROWS:
        y = laid_out(rng, shape, kind)
        around = y.base if y.base is not None else y
        untouched = int((np.asarray(around) == 77).sum()) - y.size
        _kernels.copy(row, x, y, tasks=tasks)
        np.testing.assert_array_equal(y, x, err_msg=row)
        assert (np.asarray(around) == 77).sum() - (y == 77).sum() == untouched, f"{row} wrote between elements"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 15, 16, 17, 64, 65, 130])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_copy_converts_image_layouts(channels: int, dtype: type) -> None:
    rng = np.random.default_rng(channels)
    for height, width in [(1, 1), (3, 5), (16, 16), (31, 9)]:
        x: Array = rng.integers(0, 256, (2, channels, height, width)).astype(dtype)
        for row in ROWS:
            last: Array = np.zeros((2, height, width, channels), dtype)
            _kernels.copy(row, x, last.transpose(0, 3, 1, 2))
            np.testing.assert_array_equal(last, x.transpose(0, 2, 3, 1), err_msg=row, strict=True)
            first = np.zeros_like(x)
            _kernels.copy(row, last.transpose(0, 3, 1, 2), first)
            np.testing.assert_array_equal(first, x, err_msg=row, strict=True)


def test_copy_fills_and_pads_and_reverses() -> None:
    for row in ROWS:
        y = np.zeros((2, 7, 9), np.float32)
        _kernels.copy(row, np.broadcast_to(np.float32(3.5), y.shape), y)
        assert (y == 3.5).all()
        inner = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
        _kernels.copy(row, inner, y[:, 2:5, 1:5])
        np.testing.assert_array_equal(y[:, 2:5, 1:5], inner)
        assert y[:, :2].min() == y[:, 5:].max() == 3.5
        _kernels.copy(row, inner[:, ::-1, ::-1], y[:, :3, :4])
        np.testing.assert_array_equal(y[:, :3, :4], inner[:, ::-1, ::-1])


@settings(max_examples=100, deadline=None)
@given(seed=layouts, shape=shapes, tasks=st.integers(1, 4), per_sample=st.booleans())
def test_quantize_and_dequantize_equal_numpy(seed: int, shape: tuple[int, ...], tasks: int, per_sample: bool) -> None:
    """Any layouts of input and output, one scale or one for each index of axis 0."""
    rng = np.random.default_rng(seed)
    x = laid_out(rng, shape, np.float32)
    x[...] = floats(rng, shape)
    if per_sample:
        scales = rng.uniform(0.01, 2.0, shape[0]).astype(np.float32)
        zero_points = rng.integers(0, 256, shape[0], dtype=np.uint8)
        p: dict[str, Any] = {"scales": scales, "zero_points": zero_points}
        column = (-1,) + (1,) * (len(shape) - 1)
        scale: Any = scales.reshape(column)
        zero_point: Any = zero_points.reshape(column)
    else:
        scale, zero_point = np.float32(rng.uniform(0.01, 2.0)), np.uint8(rng.integers(256))
        p = {"scale": float(scale), "zero_point": int(zero_point)}
    codes = quantized(x, scale, zero_point)
    numbers = (codes.astype(np.float32) - zero_point.astype(np.float32)) * scale
    for row in ROWS:
        y = laid_out(rng, shape, np.uint8)
        _kernels.quantize(row, x, y, tasks=tasks, **p)
        np.testing.assert_array_equal(y, codes, err_msg=row)
        back = laid_out(rng, shape, np.float32)
        _kernels.dequantize(row, y, back, tasks=tasks, **p)
        np.testing.assert_array_equal(back, numbers, err_msg=row)


def test_more_tasks_than_elements() -> None:
    """Some tasks get nothing, also of a transposition: a tile without columns once divided by zero."""
    rng = np.random.default_rng(2)
    for rows, columns, tasks in itertools.product(range(4), range(4), range(1, 6)):
        x = floats(rng, (rows, columns), edges=False)
        codes = quantized(x, np.float32(0.5), 9)
        for row in ROWS:
            y, back, moved = np.zeros((columns, rows), np.uint8), np.zeros((rows, columns), np.float32), x.T.copy()
            _kernels.quantize(row, x, y.T, scale=0.5, zero_point=9, tasks=tasks)
            np.testing.assert_array_equal(y.T, codes, err_msg=row)
            _kernels.dequantize(row, y.T, back, scale=0.5, zero_point=9, tasks=tasks)
            np.testing.assert_array_equal(back, (codes.astype(np.float32) - 9) * np.float32(0.5), err_msg=row)
            _kernels.copy(row, x, moved.T, tasks=tasks)
            same_bits(moved.T, x, row)
            _kernels.binary(row, "add", x, moved.T, back, tasks=tasks)
            same_bits(back, x + x, row)


@pytest.mark.parametrize("channels", [1, 3, 4, 8, 12, 16, 35])
def test_quantize_transposes_images(channels: int) -> None:
    """Planes of floats become pixels of codes and come back, also into a padded image."""
    rng = np.random.default_rng(channels)
    x = floats(rng, (2, channels, 23, 37))
    codes = quantized(x, np.float32(0.25), 100)
    for row in ROWS:
        y = np.zeros((2, 25, 40, channels), np.uint8)
        _kernels.quantize(row, x, y[:, 1:24, 1:38].transpose(0, 3, 1, 2), scale=0.25, zero_point=100, tasks=3)
        np.testing.assert_array_equal(y[:, 1:24, 1:38].transpose(0, 3, 1, 2), codes, err_msg=row)
        assert y[:, 0].max() == y[:, 24].max() == y[:, :, 0].max() == y[:, :, 38:].max() == 0
        back = np.zeros_like(x)
        _kernels.dequantize(row, y[:, 1:24, 1:38].transpose(0, 3, 1, 2), back, scale=0.25, zero_point=100, tasks=2)
        np.testing.assert_array_equal(back, (codes.astype(np.float32) - 100) * np.float32(0.25), err_msg=row)


@pytest.mark.parametrize("size", SIZES)
def test_dynamic_quantize_equals_numpy(size: int) -> None:
    """The scale of a row that is not finite is NaN, wherever the one number lies; its neighbours' are their own."""
    rng = np.random.default_rng(size)
    x = floats(rng, (12, size), edges=False)
    x[0], x[1], x[2], x[3] = 0.0, np.abs(x[1]), -np.abs(x[2]), np.nan
    for index, bad in enumerate([np.nan, np.inf, -np.inf, np.nan], start=4):
        x[index, rng.integers(0, max(size, 1)) :][:1] = bad
    x[8, :1], x[8, 1:2] = 3e38, -3e38
    x[9, :1], x[9, 1:2] = np.abs(x[9]).max(initial=0), -np.abs(x[9]).max(initial=0)  # 255 / 2 rounds to 128: beyond 255
    x[10] = np.where(x[10] > 0, 1e-44, -3e-45)  # 1 / scale is infinite
    lo, hi = x.min(axis=1, initial=np.float32(0)), x.max(axis=1, initial=np.float32(0))
    with np.errstate(all="ignore"):
        scale = (hi - lo) / np.float32(255)
        scale = np.where(np.isfinite(scale), scale, hi / np.float32(255) - lo / np.float32(255))
        scale = np.where(scale == 0, np.float32(1), np.where(np.isfinite(scale), scale, np.float32(np.nan)))
        zero_point = np.nan_to_num(np.rint(np.clip(-lo * (np.float32(1) / scale), 0, 255))).astype(np.uint8)
    assert np.isnan(scale).tolist() == (~np.isfinite(x).all(axis=1)).tolist()
    for row in ROWS:
        codes, scales, zero_points = _kernels.dynamic_quantize(row, x, tasks=2)
        np.testing.assert_array_equal(scales, scale, err_msg=row, strict=True)
        np.testing.assert_array_equal(zero_points, zero_point, err_msg=row, strict=True)
        np.testing.assert_array_equal(codes, quantized(x, scale[:, None], zero_point[:, None]), err_msg=row)
        factors = rng.uniform(-1, 1, size).astype(np.float32)
        products = _kernels.dynamic_quantize(row, x * factors, tasks=2)
        for found, expected in zip(_kernels.dynamic_quantize(row, x, factors=factors, tasks=2), products, strict=False):
            np.testing.assert_array_equal(found, expected, err_msg=row)


@pytest.mark.parametrize("size", [0, *SIZES])
def test_lookup(size: int) -> None:
    rng = np.random.default_rng(size)
    x, table = rng.integers(0, 256, size, dtype=np.uint8), rng.integers(0, 256, 256, dtype=np.uint8)
    for row in ROWS:
        np.testing.assert_array_equal(_kernels.lookup(row, x, table, tasks=2), table[x], err_msg=row, strict=True)
        every = np.arange(256, dtype=np.uint8)
        np.testing.assert_array_equal(_kernels.lookup(row, every, table), table, err_msg=row, strict=True)


@settings(max_examples=100, deadline=None)
@given(
    seed=layouts,
    size=st.one_of(st.sampled_from(SIZES), st.integers(0, 300)),
    tasks=st.integers(1, 3),
    with_table=st.booleans(),
)
def test_add_i8_equals_numpy(seed: int, size: int, tasks: int, with_table: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, size, dtype=np.uint8), rng.integers(0, 256, size, dtype=np.uint8)
    za, zb, zero_point, lo = (int(value) for value in rng.integers(0, 256, 4))
    hi = int(rng.integers(lo, 256))
    ma, mb = (float(value) for value in rng.uniform(-1.5, 1.5, 2).astype(np.float32))
    t = (a.astype(np.float32) - np.float32(za)) * np.float32(ma) + (b.astype(np.float32) - np.float32(zb)) * np.float32(
        mb
    )
    codes = (np.rint(np.clip(t, lo - zero_point, hi - zero_point)) + zero_point).astype(np.uint8)
    table = rng.integers(0, 256, 256, dtype=np.uint8) if with_table else None
    p: dict[str, Any] = {
        "zero_point_a": za,
        "multiplier_a": ma,
        "zero_point_b": zb,
        "multiplier_b": mb,
        "zero_point": zero_point,
        "lo": lo,
        "hi": hi,
        "table": table,
        "tasks": tasks,
    }
    for row in ROWS:
        y = _kernels.add_i8(row, a, b, **p)
        np.testing.assert_array_equal(y, codes if table is None else table[codes], err_msg=row, strict=True)


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "minimum": lambda a, b: np.where(np.isnan(a) | (a < b), a, b),  # of zeros with unlike signs, the second
    "maximum": lambda a, b: np.where(np.isnan(a) | (a > b), a, b),
}


@settings(max_examples=100, deadline=None)
@given(seed=layouts, shape=shapes, kind=st.sampled_from(sorted(BINARY)), tasks=st.integers(1, 4))
def test_binary_broadcasts(seed: int, shape: tuple[int, ...], kind: str, tasks: int) -> None:
    rng = np.random.default_rng(seed)

    def operand() -> Array:
        lead = int(rng.integers(0, len(shape))) if rng.integers(2) else 0
        own = tuple(1 if rng.integers(3) == 0 else size for size in shape[lead:])
        x = laid_out(rng, own, np.float32)
        x[...] = floats(rng, own)
        return x

    a, b = operand(), operand()
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(BINARY[kind](a, b), shape)
    for row in ROWS:
        y = laid_out(rng, shape, np.float32)
        _kernels.binary(row, kind, np.broadcast_to(a, shape), np.broadcast_to(b, shape), y, tasks=tasks)
        same_bits(y, expected, row)


def elementwise(function: Callable[[float], float]) -> Callable[[Array], Array]:
    return np.vectorize(function, otypes=[np.float64])


def exact_sigmoid(x: Array) -> Array:
    return np.asarray(np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))))


def relu6_of_shifted(x: Array) -> Array:
    return np.asarray(np.clip(x + 3, 0, 6))


EXACT: dict[str, Callable[[Array], Array]] = {
    "clip": lambda x: np.clip(x, -1.25, 6.0),
    "relu": lambda x: np.maximum(x, 0),
    "abs": np.abs,
    "neg": np.negative,
    "square": np.square,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "exp": np.exp,
    "log": np.log,
    "sigmoid": exact_sigmoid,
    "tanh": np.tanh,
    "erf": elementwise(math.erf),
    "silu": lambda x: x * exact_sigmoid(x),
    "gelu": lambda x: x / 2 * elementwise(math.erfc)(-x / math.sqrt(2)),
    "fast_gelu": lambda x: x / 2 * elementwise(math.erfc)(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x * exact_sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "hardsigmoid": lambda x: relu6_of_shifted(x) / 6,
    "hardswish": lambda x: x * relu6_of_shifted(x) / 6,
    "elu": lambda x: np.where(x > 0, x, 0.75 * np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.75 * x),
    "softplus": lambda x: np.logaddexp(0, 0.75 * x) / 0.75,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log2": np.log2,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "round": np.rint,
    "sign": lambda x: np.where(np.isnan(x), 0, np.sign(x)),
    "atan": np.arctan,
    "erfc": elementwise(math.erfc),
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "clip": {"min": -1.25, "max": 6.0},
    "elu": {"alpha": 0.75},
    "leaky_relu": {"alpha": 0.75},
    "softplus": {"alpha": 0.75},
}
ONE_ROUNDING = {"clip", "relu", "abs", "neg", "square", "sqrt", "reciprocal", "leaky_relu"} | {
    "floor", "ceil", "trunc", "round", "sign",
}  # fmt: skip


def sweep(kind: str) -> Array:
    """Numbers where the function is interesting, all exponents, both signs."""
    rng = np.random.default_rng(5)
    near = rng.uniform(-12, 12, 100_000)
    wide = rng.choice([-1.0, 1.0], 50_000) * 2.0 ** rng.uniform(-40, 40, 50_000)
    x = np.concatenate([near, wide, rng.uniform(-110, 95, 50_000), np.arange(-130, 130) / 16]).astype(np.float32)
    return np.abs(x) if kind in ("sqrt", "rsqrt", "log", "log2") else x


def test_every_function_is_tested() -> None:
    assert sorted(EXACT) == sorted(_kernels.unary_kinds())


@pytest.mark.parametrize("kind", sorted(EXACT))
def test_unary_is_accurate(kind: str) -> None:
    """Within 4 ulp or 2e-7 of the float64 value; the operations that IEEE defines are rounded exactly."""
    x = sweep(kind)
    with np.errstate(all="ignore"):
        exact = EXACT[kind](x.astype(np.float64))
        nearest = exact.astype(np.float32)
    y = _kernels.unary("scalar", kind, x, **PARAMETERS.get(kind, {}))
    if kind in ONE_ROUNDING:
        np.testing.assert_array_equal(y, nearest)
        return
    finite = np.isfinite(nearest)
    np.testing.assert_array_equal(y[~finite], nearest[~finite])
    error = np.abs(y[finite].astype(np.float64) - exact[finite])
    bound = np.maximum(4 * np.spacing(np.abs(nearest[finite])).astype(np.float64), 2e-7)
    worst = int(np.argmax(error / bound))
    assert (error <= bound).all(), f"{kind}({x[finite][worst]}) = {y[finite][worst]}, exact {exact[finite][worst]}"


@pytest.mark.parametrize("kind", sorted(EXACT))
def test_unary_rows_agree(kind: str) -> None:
    """All bits, all tails, all special values."""
    rng = np.random.default_rng(3)
    parameters = PARAMETERS.get(kind, {})
    for x in [sweep(kind)[::7].copy(), EDGE_FLOATS, *(floats(rng, size) for size in SIZES), np.zeros(0, np.float32)]:
        truth = _kernels.unary("scalar", kind, x, **parameters)
        assert np.isnan(truth[np.isnan(x)]).all() or kind == "sign"
        for row in ROWS:
            same_bits(_kernels.unary(row, kind, x, tasks=3, **parameters), truth, row)


@pytest.mark.parametrize("kind", sorted(EXACT))
def test_unary_of_neighbours(kind: str) -> None:
    """What stands beside a number changes no bit of its result: not one that is far from all others, nor a NaN."""
    x = np.concatenate([np.linspace(-13, 13, 2048), np.linspace(-89, 89, 2048)]).astype(np.float32)
    alone = np.repeat(x, 16)
    among = alone.copy()
    among[::16] = np.resize(EDGE_FLOATS, len(x))
    for row in ROWS:
        y = _kernels.unary(row, kind, alone, **PARAMETERS.get(kind, {})).reshape(-1, 16)
        z = _kernels.unary(row, kind, among, **PARAMETERS.get(kind, {})).reshape(-1, 16)
        same_bits(z[:, 1:], y[:, 1:], row)


@pytest.mark.parametrize("kind", ["exp", "sigmoid", "tanh", "erf", "elu", "log", "softplus", "sqrt", "rsqrt", "gelu"])
def test_unary_at_infinity_and_zero(kind: str) -> None:
    x = np.array([np.inf, -np.inf, 0.0], np.float32)
    with np.errstate(all="ignore"):
        expected = {"gelu": np.array([np.inf, np.nan, 0.0]), "softplus": np.array([np.inf, 0.0, math.log(2) / 0.75])}
        exact = expected.get(kind, EXACT[kind](x.astype(np.float64))).astype(np.float32)
    for row in ROWS:
        y = _kernels.unary(row, kind, x, **PARAMETERS.get(kind, {}))
        finite = np.isfinite(exact)
        if kind != "gelu":  # -inf * 0: torch, too, gives NaN
            np.testing.assert_array_equal(y[~finite], exact[~finite])
        np.testing.assert_allclose(y[finite], exact[finite], rtol=3e-7)


@pytest.mark.parametrize("size", SIZES[1:])
def test_softmax(size: int) -> None:
    """Near the exact value, rows bit for bit alike, sums near one, NaN fills its row and no other."""
    rng = np.random.default_rng(size)
    x = np.concatenate([rng.standard_normal((5, size)) * 4, rng.uniform(-200, 200, (3, size))]).astype(np.float32)
    truth = _kernels.softmax("scalar", x)
    shifted = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    exact = shifted / shifted.sum(axis=1, keepdims=True)
    bound = 2.0**-22 * (4 + np.abs(x - x.max(axis=1, keepdims=True)))  # the difference is rounded before exp
    assert (np.abs(truth - exact) <= bound * exact + 1e-37).all()
    broken = x.copy()
    broken[2, size // 2] = np.nan
    for row in ROWS:
        same_bits(_kernels.softmax(row, x, tasks=3), truth, row)
        y = _kernels.softmax(row, broken)
        assert np.isnan(y[2]).all()
        same_bits(np.delete(y, 2, axis=0), np.delete(truth, 2, axis=0), row)


def test_softmax_of_infinities() -> None:
    x = np.array([[0.0, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf]], np.float32)
    for row in ROWS:
        y = _kernels.softmax(row, x)
        np.testing.assert_allclose(y[0], [1 / (1 + math.e), 0.0, math.e / (1 + math.e)], rtol=1e-6)
        assert np.isnan(y[1]).all()


@pytest.mark.parametrize("size", SIZES[1:])
def test_rounding_errors(size: int) -> None:
    """Near what float64 makes of the same codes; rows bit for bit alike."""
    rng = np.random.default_rng(size)
    x = rng.standard_normal((7, size)).astype(np.float32)
    factor = rng.uniform(1, 60, (5, 7)).astype(np.float32)
    low, high = -rng.integers(0, 128, (5, 7)).astype(np.float32), rng.integers(0, 128, (5, 7)).astype(np.float32)
    scaled = x * factor[:, :, None]
    codes = np.clip(np.rint(scaled), low[:, :, None], high[:, :, None])
    truth = _core.rounding_errors(x, factor, low, high, isa="scalar")
    np.testing.assert_allclose(truth, np.square(scaled.astype(np.float64) - codes).sum(axis=2), rtol=1e-6 * size)
    for isa in _core.cpu()["isas"]:
        same_bits(_core.rounding_errors(x, factor, low, high, isa=isa), truth, isa)
