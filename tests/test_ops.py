"""The references of the operators against even plainer ones: loops over elements, one float32 operation at a time."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import BATCH, GRAPHS, Maker, feeds
from lowbit.errors import GraphError
from lowbit.graph import dims
from lowbit.graph.ir import DTYPES, Array, Graph, Node, Symbol, Value, Weight
from lowbit.ops import OPS, constant_value, interpreter
from lowbit.ops.float import UNARY, unary
from lowbit.ops.integer import dynamic_quantize, fma, quantize
from lowbit.runtime.session import Session

F = np.float32
SEEDS = st.integers(0, 2**31)


def as_weight(op: str, place: int, array: Array | None) -> Array | Weight | None:
    """Codes as a weight, where the operator wants one."""
    if array is None or not OPS[op].input(place).weight:
        return array
    return Weight(codes=array, scales=np.ones(array.shape[0], np.float32))


def run(op: str, *arrays: Array | None, **attrs: Any) -> list[Array]:
    """One node, by its reference, after its shape rule has accepted it and foretold the outputs' types."""
    names = tuple("" if array is None else f"i{place}" for place, array in enumerate(arrays))
    node = Node(op=op, name="node", inputs=names, outputs=tuple(f"o{i}" for i in range(OPS[op].outputs)), attrs=attrs)
    given = [as_weight(op, place, array) for place, array in enumerate(arrays)]
    inferred = OPS[op].infer(node, [None if each is None else constant_value(each) for each in given])
    outputs = OPS[op].reference(node, given)
    assert [(v.dtype, v.shape) for v in inferred] == [(NAMES[o.dtype], o.shape) for o in outputs]
    return list(outputs)


NAMES = {dtype: name for name, dtype in DTYPES.items()}


def naive_code(t: Any, zero_point: int, lo: int = 0, hi: int = 255) -> int:
    """base/numerics.h, code_from_float, in plain Python."""
    value = 0.0 if math.isnan(t) else min(max(float(t), float(lo - zero_point)), float(hi - zero_point))
    return round(value) + zero_point  # Python's round is half to even


def naive_fma(a: Any, b: Any, c: Any) -> Any:
    """F(a) * F(b) + F(c), the exact value rounded once: to the nearest of its neighbours in float32, ties to even."""
    exact = Fraction(float(F(a))) * Fraction(float(F(b))) + Fraction(float(F(c)))
    near = F(float(exact))
    around = [np.nextafter(near, F(-np.inf)), near, np.nextafter(near, F(np.inf))]
    return min(around, key=lambda y: (abs(Fraction(float(y)) - exact), int(y.view(np.int32)) & 1))


def naive_epilogue(acc: int, c: int, call: dict[str, Any], row: int, residual: int | None) -> Any:
    factor, bias = call["multiplier"][c], call["bias"][c]
    if residual is not None:
        bias = naive_fma(-call["residual_zero_point"], call["residual_multiplier"], bias)
    if call["x_scale"] is None:
        t = naive_fma(acc, factor, bias)
    else:
        t = naive_fma(F(F(acc) * factor), call["x_scale"][row], bias)
    if residual is not None:
        t = naive_fma(residual, call["residual_multiplier"], t)
    is_coded = call["output"] == "u8"
    if call["slope"] is not None:
        t = naive_fma(t, call["slope"][c] if t < 0 else F(1), F(call["zero_point_y"] if is_coded else 0))
    if not is_coded:
        low, high = F(call.get("min", -np.inf)), F(call.get("max", np.inf))
        return min(max(t, low), high)
    zero_point = call["zero_point_y"] if call["slope"] is None else 0
    code = naive_code(t, zero_point, call["lo"], call["hi"])
    return code if call["table"] is None else call["table"][code]


@settings(max_examples=300, deadline=None)
@given(
    a=st.integers(-(2**24), 2**24).map(float),
    b=st.floats(width=32, min_value=2.0**-60, max_value=2.0**30) | st.integers(1, 2**24).map(lambda i: i * 2.0**-12),
    near=st.integers(-2, 2),
    shift=st.integers(0, 60),
    free=st.floats(width=32, min_value=-(2.0**40), max_value=2.0**40),
)
def test_fma_rounds_once(a: float, b: float, near: int, shift: int, free: float) -> None:
    """Also where the exact sum lies next to the middle of two floats, which two roundings get wrong."""
    product = Fraction(float(F(a))) * Fraction(float(F(b)))
    tie = F(float(product)) * F(1 + 2**-23)
    for c in (free, float(F(near * 2.0**-shift)), float(tie - F(float(product))), -float(tie)):
        assert fma(F(a), F(b), F(c)) == naive_fma(a, b, c)


def test_two_roundings_differ_from_one() -> None:
    """2^24 + 3 - 2^-40: float64 makes it the middle of two floats, of which float32 then takes the even one."""
    a, b, c = F(1 + 2**-20), F(1 - 2**-20), F(2**24 + 2)
    assert F(np.float64(a) * np.float64(b) + np.float64(c)) == 2**24 + 4
    assert fma(a, b, c) == naive_fma(a, b, c) == 2**24 + 2


@st.composite
def epilogues(draw: st.DrawFn, rng_seed: int, channels: int, dynamic: bool) -> dict[str, Any]:
    rng = np.random.default_rng(rng_seed)
    output = "f32" if dynamic else draw(st.sampled_from(["u8", "f32"]))
    lo, hi = sorted(draw(st.tuples(st.integers(0, 255), st.integers(0, 255))))
    attrs: dict[str, Any] = {
        "zero_point_x": draw(st.integers(0, 255)),
        "output": output,
        "zero_point_y": draw(st.integers(0, 255)),
        "lo": lo,
        "hi": hi,
    }
    if output == "f32" and draw(st.booleans()):
        attrs |= {"min": -2.5, "max": 11.0}
    return {
        "attrs": attrs,
        "multiplier": (rng.uniform(1e-4, 1e-2, channels)).astype(F),
        "bias": rng.normal(0, 20, channels).astype(F),
        "table": rng.integers(0, 256, 256).astype(np.uint8) if output == "u8" and draw(st.booleans()) else None,
        "slope": rng.uniform(-0.5, 1.5, channels).astype(F) if draw(st.booleans()) else None,
        "with_residual": draw(st.booleans()),
        "residual_attrs": {
            "residual_multiplier": draw(st.sampled_from([0.37, 1.0, -0.2])),
            "residual_zero_point": draw(st.integers(0, 255)),
        },
    }


@settings(max_examples=60, deadline=None)
@given(st.data(), SEEDS)
def test_conv2d_i8(data: st.DataObject, seed: int) -> None:
    draw, rng = data.draw, np.random.default_rng(seed)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    depth, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        depth = per_group = 1  # depthwise
    kernel, stride = draw(st.tuples(*[st.integers(1, 3)] * 2)), draw(st.tuples(*[st.integers(1, 3)] * 2))
    dilation, padding = draw(st.tuples(*[st.integers(1, 2)] * 2)), draw(st.tuples(*[st.integers(0, 2)] * 4))
    size = [
        draw(st.integers(max(1, dilation[a] * (kernel[a] - 1) + 1 - sum(padding[2 * a : 2 * a + 2])), 6))
        for a in (0, 1)
    ]
    n, channels, filters = draw(st.integers(0, 2)), groups * depth, groups * per_group
    x = rng.integers(0, 256, (n, channels, *size)).astype(np.uint8)
    w = rng.integers(-127, 128, (filters, depth, *kernel)).astype(np.int8)
    dynamic = draw(st.booleans())
    epilogue = draw(epilogues(seed, filters, dynamic))
    x_scale = rng.uniform(0.01, 1, n).astype(F) if dynamic else None
    x_zero = rng.integers(0, 256, n).astype(np.uint8) if dynamic else None
    out = [
        (size[a] + sum(padding[2 * a : 2 * a + 2]) - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1)
    ]
    residual = rng.integers(0, 256, (n, filters, *out)).astype(np.uint8) if epilogue["with_residual"] else None
    attrs = {**epilogue["attrs"], **(epilogue["residual_attrs"] if residual is not None else {})}
    (y,) = run(
        "quantized_conv2d", x, w, epilogue["multiplier"], epilogue["bias"], residual, epilogue["table"], x_scale,
        x_zero, epilogue["slope"],
        stride=stride, padding=padding, dilation=dilation, groups=groups, **attrs,
    )  # fmt: skip
    call = {**attrs, **epilogue, "x_scale": x_scale}
    for b, c, oh, ow in itertools.product(range(n), range(filters), range(out[0]), range(out[1])):
        acc = 0
        for k, i, j in itertools.product(range(depth), range(kernel[0]), range(kernel[1])):
            h, v = oh * stride[0] + i * dilation[0] - padding[0], ow * stride[1] + j * dilation[1] - padding[2]
            if 0 <= h < size[0] and 0 <= v < size[1]:
                zero = attrs["zero_point_x"] if x_zero is None else int(x_zero[b])
                acc += (int(x[b, c // per_group * depth + k, h, v]) - zero) * int(w[c, k, i, j])
        r = None if residual is None else int(residual[b, c, oh, ow])
        assert y[b, c, oh, ow] == naive_epilogue(acc, c, call, b, r)


@settings(max_examples=60, deadline=None)
@given(st.data(), SEEDS)
def test_linear_i8(data: st.DataObject, seed: int) -> None:
    draw, rng = data.draw, np.random.default_rng(seed)
    lead = draw(st.sampled_from([(), (3,), (2, 2), (0,)]))
    depth, filters, dynamic = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.booleans())
    rows = math.prod(lead)
    x = rng.integers(0, 256, (*lead, depth)).astype(np.uint8)
    w = rng.integers(-127, 128, (filters, depth)).astype(np.int8)
    epilogue = draw(epilogues(seed, filters, dynamic))
    x_scale = rng.uniform(0.01, 1, rows).astype(F) if dynamic else None
    x_zero = rng.integers(0, 256, rows).astype(np.uint8) if dynamic else None
    residual = rng.integers(0, 256, (*lead, filters)).astype(np.uint8) if epilogue["with_residual"] else None
    attrs = {**epilogue["attrs"], **(epilogue["residual_attrs"] if residual is not None else {})}
    (y,) = run(
        "quantized_linear",
        x,
        w,
        epilogue["multiplier"],
        epilogue["bias"],
        residual,
        epilogue["table"],
        x_scale,
        x_zero,
        epilogue["slope"],
        **attrs,
    )
    call = {**attrs, **epilogue, "x_scale": x_scale}
    flat = y.reshape(-1, filters)
    for row, c in itertools.product(range(rows), range(filters)):
        zero = attrs["zero_point_x"] if x_zero is None else int(x_zero[row])
        acc = sum((int(a) - zero) * int(b) for a, b in zip(x.reshape(-1, depth)[row], w[c], strict=True))
        r = None if residual is None else int(residual.reshape(-1, filters)[row, c])
        assert flat[row, c] == naive_epilogue(acc, c, call, row, r)


def test_large_sums_stay_exact() -> None:
    """float32 holds sums below 2^24 only: past that bound the reference must switch to float64."""
    depth = 40_000
    x, w = np.full((1, depth), 255, np.uint8), np.full((1, depth), 127, np.int8)
    w[0, -1] = 126
    one, zero = np.float32([1]), np.float32([0])
    (y,) = run("quantized_linear", x, w, one, zero, output="f32")
    assert y[0, 0] == F(255 * (127 * depth - 1))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=True), max_size=20), st.floats(2.0**-20, 100, width=32), st.integers(0, 255)
)
def test_quantize(values: list[float], scale: float, zero_point: int) -> None:
    x = np.array(values, F)
    (codes,) = run("quantize", x, scale=scale, zero_point=zero_point)
    inverse = F(1) / F(scale)
    with np.errstate(all="ignore"):
        assert codes.tolist() == [naive_code(F(v) * inverse, zero_point) for v in x]
    (back,) = run("dequantize", codes, scale=scale, zero_point=zero_point)
    assert back.tolist() == [F(int(code) - zero_point) * F(scale) for code in codes]


def test_quantize_at_its_edges() -> None:
    x = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.5, 1.5, 2.5, -0.5, 0.0])
    assert quantize(x, 1.0, 100).tolist() == [100, 255, 0, 255, 0, 100, 102, 102, 100, 100]


@settings(max_examples=60, deadline=None)
@given(
    SEEDS,
    st.sampled_from(["row", "sample"]),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    st.sampled_from([0.0, np.nan, np.inf, -np.inf]),
)
def test_dynamic_quantize(seed: int, granularity: str, size: float, special: float) -> None:
    rng = np.random.default_rng(seed)
    x = (size * rng.standard_normal((3, 2, 4)) + rng.choice([0, size, -size])).astype(F)
    x[0, 0] = 0
    x[1, 1, 2] = special
    codes, scale, zero = run("dynamic_quantize", x, granularity=granularity)
    rows = x.reshape(6, 4) if granularity == "row" else x.reshape(3, 8)
    for index, row in enumerate(rows):
        if not np.isfinite(row).all():
            assert (np.isnan(scale[index]), zero[index], codes.reshape(rows.shape)[index].max()) == (True, 0, 0)
            continue
        low, high = min(F(0), *row), max(F(0), *row)
        s = F(F(high - low) / F(255)) or F(1)
        inverse = F(1) / s
        z = naive_code(-low * inverse, 0)
        assert (scale[index], zero[index]) == (s, z)
        assert codes.reshape(rows.shape)[index].tolist() == [naive_code(F(v * inverse), z) for v in row]


def test_factors_of_dynamic_quantize_multiply_first() -> None:
    rng = np.random.default_rng(0)
    x, factors = rng.standard_normal((4, 3, 7)).astype(F), rng.uniform(0.1, 3, 7).astype(F)
    for found, expected in zip(
        run("dynamic_quantize", x, factors, granularity="row"),
        run("dynamic_quantize", x * factors, granularity="row"),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 6), min_size=1, max_size=7))
def test_copies_of_dynamic_quantize_share_a_value_among_codes(seed: int, copies: list[int]) -> None:
    """The first code takes what it can hold, the next what is left; together they are the value in the row's scale."""
    rng = np.random.default_rng(seed)
    x, factors = rng.standard_normal((5, 7)).astype(F), rng.uniform(0.1, 3, 7).astype(F)
    x[:, copies] *= F(4)
    counts = [F(1 + copies.count(k)) for k in range(7)]
    codes, scale, zero = run("dynamic_quantize", x, factors, np.array(copies), granularity="row")
    assert codes.shape == (5, 7 + len(copies))
    for row, found, s, z in zip(x, codes.astype(int), scale, zero.astype(int), strict=True):
        bounds = [v * F(f / n) for v, f, n in zip(row, factors, counts, strict=True)]
        assert s == F(F(max(0, *bounds) - min(0, *bounds)) / F(255))
        for k in range(7):
            left = round(float(F(F(row[k] * factors[k]) * F(F(1) / s))))
            for place in [k, *(7 + i for i, source in enumerate(copies) if source == k)]:
                assert found[place] - z == min(max(left, -z), 255 - z)
                left -= found[place] - z
            assert abs(left) <= counts[k], "but for the rounding of the zero point, nothing is left"


def test_copies_of_dynamic_quantize_are_checked() -> None:
    x, factors = np.ones((2, 3), F), np.ones(3, F)
    with pytest.raises(GraphError, match="copies need factors"):
        run("dynamic_quantize", x, None, np.array([0]), granularity="row")
    with pytest.raises(GraphError, match="more copies than values"):
        run("dynamic_quantize", x, factors, np.array([0, 1, 2, 0]), granularity="row")
    m = Maker(0, BATCH)
    given = m.constant(factors), m.constant(np.array([3]))
    codes, *_ = m.node("dynamic_quantize", m.input("x", "batch", 3), *given, outputs=3, granularity="row")
    with pytest.raises(GraphError, match="a copy is of no value"):
        Session(m.graph(codes))


def test_dynamic_quantize_does_not_look_at_other_samples() -> None:
    x = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(F)
    whole = dynamic_quantize(x, "sample")
    for index in range(5):
        alone = dynamic_quantize(x[index : index + 1], "sample")
        assert all((a == w[index : index + 1]).all() for a, w in zip(alone, whole, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.data(), SEEDS)
def test_add_i8(data: st.DataObject, seed: int) -> None:
    draw, rng = data.draw, np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 50)).astype(np.uint8)
    lo, hi = sorted(draw(st.tuples(st.integers(0, 255), st.integers(0, 255))))
    za, zb, zy = draw(st.tuples(*[st.integers(0, 255)] * 3))
    ma, mb = draw(st.tuples(*[st.floats(0.0009765625, 4, width=32)] * 2))
    table = rng.integers(0, 256, 256).astype(np.uint8) if draw(st.booleans()) else None
    (y,) = run(
        "quantized_add",
        a,
        b,
        table,
        zero_point_a=za,
        multiplier_a=ma,
        zero_point_b=zb,
        multiplier_b=mb,
        zero_point_y=zy,
        lo=lo,
        hi=hi,
    )
    for p, q, got in zip(a, b, y, strict=True):
        t = F(F(F(int(p) - za) * F(ma)) + F(F(int(q) - zb) * F(mb)))
        code = naive_code(t, zy, lo, hi)
        assert got == (code if table is None else table[code])


@st.composite
def pools(draw: st.DrawFn) -> tuple[dict[str, Any], list[int]]:
    kernel, stride = draw(st.tuples(*[st.integers(1, 4)] * 2)), draw(st.tuples(*[st.integers(1, 4)] * 2))
    half = [kernel[0] // 2] * 2 + [kernel[1] // 2] * 2
    padding = tuple(draw(st.integers(0, limit)) for limit in half)
    size = [draw(st.integers(max(1, kernel[a] - sum(padding[2 * a : 2 * a + 2])), 9)) for a in (0, 1)]
    return {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": draw(st.integers(0, 1))}, size


def naive_windows(attrs: dict[str, Any], size: list[int], out: tuple[int, ...]) -> Any:
    """For each output pixel: the real pixels of its window, and how many of the window lie on the padded image."""
    (kh, kw), (sh, sw), (top, bottom, left, right) = attrs["kernel"], attrs["stride"], attrs["padding"]
    for oh, ow in itertools.product(range(out[0]), range(out[1])):
        pixels = [(oh * sh - top + i, ow * sw - left + j) for i, j in itertools.product(range(kh), range(kw))]
        real = [(h, w) for h, w in pixels if 0 <= h < size[0] and 0 <= w < size[1]]
        yield oh, ow, real, sum(h < size[0] + bottom and w < size[1] + right for h, w in pixels)


@settings(max_examples=80, deadline=None)
@given(pools(), st.integers(0, 1), st.sampled_from(["u8", "f32"]), SEEDS)
def test_avg_pool2d_i8(pool: tuple[dict[str, Any], list[int]], include: int, output: str, seed: int) -> None:
    attrs, size = pool
    x = np.random.default_rng(seed).integers(0, 256, (1, 2, *size)).astype(np.uint8)
    rest = {"zero_point_x": 37, "multiplier": 0.83, "zero_point_y": 12, "lo": 3, "hi": 240, "output": output}
    (y,) = run("quantized_avg_pool2d", x, **attrs, count_include_pad=include, **rest)
    for c in range(2):
        for oh, ow, real, padded in naive_windows(attrs, size, y.shape[2:]):
            acc = sum(int(x[0, c, h, w]) - 37 for h, w in real)
            t = F(F(F(acc) * F(0.83)) / F(padded if include else len(real)))
            assert y[0, c, oh, ow] == (t if output == "f32" else naive_code(t, 12, 3, 240))


@settings(max_examples=80, deadline=None)
@given(pools(), SEEDS)
def test_max_pool2d(pool: tuple[dict[str, Any], list[int]], seed: int) -> None:
    attrs, size = pool
    x = np.random.default_rng(seed).integers(0, 256, (1, 2, *size)).astype(np.uint8)
    (y,) = run("max_pool2d", x, **attrs)
    (z,) = run("max_pool2d", x.astype(F) - 300, **attrs)
    assert (z + 300 == y).all()
    for oh, ow, real, _ in naive_windows(attrs, size, y.shape[2:]):
        assert all(y[0, c, oh, ow] == max(x[0, c, h, w] for h, w in real) for c in range(2))


@pytest.mark.parametrize(("size", "out"), [((7, 7), (1, 1)), ((7, 5), (3, 2)), ((4, 4), (7, 6)), ((1, 9), (1, 4))])
def test_adaptive_avg_pool2d_i8(size: tuple[int, int], out: tuple[int, int]) -> None:
    x = np.random.default_rng(5).integers(0, 256, (2, 3, *size)).astype(np.uint8)
    (y,) = run(
        "quantized_adaptive_avg_pool2d",
        x,
        output_size=out,
        zero_point_x=99,
        multiplier=1.7,
        output="u8",
        zero_point_y=31,
    )
    for b, c, i, j in itertools.product(range(2), range(3), range(out[0]), range(out[1])):
        rows = range(i * size[0] // out[0], math.ceil((i + 1) * size[0] / out[0]))
        columns = range(j * size[1] // out[1], math.ceil((j + 1) * size[1] / out[1]))
        acc = sum(int(x[b, c, h, w]) - 99 for h in rows for w in columns)
        t = F(F(F(acc) * F(1.7)) / F(len(rows) * len(columns)))
        assert y[b, c, i, j] == naive_code(t, 31)


def test_float_pools_and_convolution_against_torch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(6)
    x = rng.standard_normal((2, 6, 11, 9)).astype(F)
    t = torch.from_numpy(x)
    for kernel, stride, pad, ceil, include in itertools.product((2, 3), (1, 2, 3), (0, 1), (0, 1), (0, 1)):
        attrs = {"kernel": (kernel, kernel), "stride": (stride, stride), "padding": (pad,) * 4, "ceil_mode": ceil}
        (y,) = run("avg_pool2d", x, **attrs, count_include_pad=include)
        np.testing.assert_allclose(
            y, functional.avg_pool2d(t, kernel, stride, pad, bool(ceil), bool(include)), atol=1e-6
        )
        (y,) = run("max_pool2d", x, **attrs)
        assert (y == functional.max_pool2d(t, kernel, stride, pad, ceil_mode=bool(ceil)).numpy()).all()
    for out in ((1, 1), (3, 4), (13, 2)):
        np.testing.assert_allclose(
            run("adaptive_avg_pool2d", x, output_size=out)[0], functional.adaptive_avg_pool2d(t, out), atol=1e-6
        )
    for groups, stride, dilation in itertools.product((1, 2, 3, 6), (1, 2), (1, 2)):
        w, b = rng.standard_normal((6, 6 // groups, 3, 2)).astype(F), rng.standard_normal(6).astype(F)
        (y,) = run("conv2d", x, w, b, stride=(stride, 1), padding=(2, 2, 1, 1), dilation=(1, dilation), groups=groups)
        expected = functional.conv2d(
            t, torch.from_numpy(w), torch.from_numpy(b), (stride, 1), (2, 1), (1, dilation), groups
        )
        np.testing.assert_allclose(y, expected, atol=2e-5)


def test_unary_against_torch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    theirs = {kind: getattr(torch, kind) for kind in ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "sigmoid", "tanh")}
    theirs["fast_gelu"] = functional.gelu
    theirs["gelu_tanh"] = lambda t: functional.gelu(t, approximate="tanh")
    x = np.concatenate([np.linspace(-30, 30, 401), [0.0, -0.0, 1e-3, 88.0, -88.0, 1e5, -1e5]]).astype(F)
    for kind in UNARY:
        function = theirs.get(kind) or getattr(functional, kind, None) or getattr(torch, kind)
        expected = function(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(unary(kind, x), expected, rtol=2e-5, atol=1e-6, err_msg=kind)


def test_nan_stays_nan_in_float() -> None:
    x = np.float32([np.nan, 1.0])
    assert np.isnan(run("clip", x, min=0.0, max=6.0)[0][0])
    assert np.isnan(run("linear", x, np.ones((1, 2), F), activation_min=0.0)[0][0])


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("i32", [1.9, -1.9, np.nan, 3e9, -3e9], [1, -1, 0, 2**31 - 1, -(2**31)]),
        ("u8", [1.9, -1.9, np.nan, 3e9], [1, 0, 0, 255]),
        ("s8", [127.5, -200.0], [127, -128]),
        ("i64", [np.inf, -np.inf, 2.0**62], [2**63 - 1, -(2**63), 2**62]),
        ("f16", [1.5, 1e9], [1.5, np.inf]),
        ("bool", [0.0, -0.0, 0.1, np.nan], [False, False, True, True]),
    ],
)
def test_cast(dtype: str, values: list[float], expected: list[float]) -> None:
    assert run("cast", np.array(values, F), dtype=dtype)[0].tolist() == expected


@pytest.mark.parametrize("kind", ["relu", "relu6"])
def test_zeros_keep_their_sign(kind: str) -> None:
    """As in torch, and in sessions: what divides by them is of either sign."""
    zeros = np.array([0.0, -0.0, -1.0, np.nan], F)
    found = run("unary", zeros, kind=kind)[0]
    np.testing.assert_array_equal(np.signbit(found[:3]), [False, True, False])
    assert np.isnan(found[3])


def test_remainders_of_floats_are_torchs() -> None:
    values = np.array([0.0, -0.0, 1.0, -1.0, 3.5, -3.5, 6.0, -6.0, np.inf, -np.inf, np.nan, 1e30], F)
    a, b = (np.array(side, F) for side in zip(*itertools.product(values, values), strict=True))
    torch = pytest.importorskip("torch")
    expected = torch.remainder(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    found = run("remainder", a, b)[0]
    np.testing.assert_array_equal(found, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(expected[number]))


# -------------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_shape_rules_foretell_what_references_make(name: str, size: int) -> None:
    graph = GRAPHS[name]()
    sizes = {name: symbol.minimum + size for name, symbol in graph.symbols.items()}
    every = [output for node in graph.nodes for output in node.outputs]
    made = interpreter.run(graph, feeds(graph, sizes), keep=every)
    for output in every:
        value = graph.values[output]
        assert made[output].shape == tuple(dims.evaluate(dim, sizes) for dim in value.shape)
        assert NAMES[made[output].dtype] == value.dtype


@pytest.mark.parametrize("name", GRAPHS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    graph = GRAPHS[name]()
    whole = feeds(graph, {"batch": 4})
    results = interpreter.run(graph, whole)
    axes = {key: graph.values[key].shape.index("batch") for key in graph.inputs if "batch" in graph.values[key].shape}
    alone = interpreter.run(graph, {key: a.take([2], axes[key]) if key in axes else a for key, a in whole.items()})
    for key, result in results.items():
        axis = graph.values[key].shape.index("batch")
        expected = result.take([2], axis)
        assert alone[key].shape == expected.shape
        if graph.values[key].dtype == "f32" and name in ("float_net", "elementwise_net"):
            np.testing.assert_allclose(alone[key], expected, rtol=1e-5, atol=1e-6)
        else:
            assert (alone[key] == expected).all()


def test_symbolic_geometry() -> None:
    m = Maker(0, {"h": Symbol(minimum=8, maximum=500)})
    x = m.input("x", 1, 4, "h", "h")
    y = m.node("conv2d", x, m.floats(4, 4, 3, 3), padding=(1, 1, 1, 1), stride=(2, 2))
    z = m.node("max_pool2d", y, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    assert m.made.values[z].shape == (1, 4, "((h + 3) // 4)", "((h + 3) // 4)")
    flat = m.node("reshape", z, shape=(1, "4 * ((h + 3) // 4) * ((h + 3) // 4)"))
    assert interpreter.run(m.graph(flat), {"x": np.zeros((1, 4, 30, 30), F)})[flat].shape == (1, 256)


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("conv2d", [(1, 3, 8, 8), (4, 2, 3, 3)], {}, "do not fit"),
        ("conv2d", [(1, 3, 8, 8), (4, 3, 3, 3)], {"groups": 3}, "do not fit"),
        ("conv2d", [(1, 3, 2, 2), (4, 3, 3, 3)], {}, "does not fit into"),
        ("conv2d", [(1, 3, 8, 8), (4, 3, 3, 3), (5,)], {}, "input 2 must have shape"),
        ("conv2d", [(3, 8, 8), (4, 3, 3, 3)], {}, "rank 4"),
        ("conv2d", [(1, 3, 8, 8), (4, 3, 3, 3)], {"stride": (0, 1)}, "stride"),
        ("conv2d", [(1, 3, 8, 8), (4, 3, 3, 3)], {"padding": (1, 1)}, "4 items"),
        ("conv2d", [(1, 3, 8, 8), (4, 3, 3, 3)], {"colour": 3}, "unknown attribute"),
        ("conv2d", [(1, 3, 8, 8), (4, 3, 3, 3)], {"activation_min": math.inf}, "activation_min"),
        ("conv2d", [(1, 3, 8, 8)], {}, "takes 2 to 4 inputs, has 1"),
        ("linear", [(2, 5), (4, 6)], {}, "do not fit"),
        ("add", [(2, 5), (4, 5)], {}, "do not broadcast"),
        ("add", [("s", 5), (4, 5)], {}, "do not broadcast"),
        ("reshape", [(2, 5)], {"shape": (3, 3)}, "does not reshape"),
        ("reshape", [("s", 4)], {"shape": ("2*s", 3)}, "does not reshape"),
        ("reshape", [("s", 4)], {"shape": ("s *", 4)}, "shape"),
        ("transpose", [(2, 5)], {"perm": (0, 0)}, "permutation"),
        ("concat", [(2, 5), (3, 4)], {"axis": 0}, "axis 1"),
        ("concat", [(2, 5), (2, 5)], {"axis": 2}, "out of range"),
        ("softmax", [(2, 5)], {"axis": -3}, "out of range"),
        ("mean", [(2, 5)], {"axes": (0, -2)}, "repeat"),
        ("max_pool2d", [(1, 1, 4, 4)], {"kernel": (2, 2), "stride": (2, 2), "padding": (2, 0, 0, 0)}, "wider"),
        ("pad", [(2, 5)], {"padding": (1, 1)}, "needs 4"),
        ("slice", [(2, 5)], {"axis": 0, "start": 0, "stop": 1, "step": 0}, "step"),
        ("unary", [(2, 5)], {"kind": "sinus"}, "one of"),
        ("quantize", [(2, 5)], {"scale": 0.0, "zero_point": 1}, "scale"),
        ("quantize", [(2, 5)], {"scale": 0.1, "zero_point": 256}, "zero_point"),
        ("quantize", [(2, 5)], {"scale": 0.1, "zero_point": True}, "zero_point"),
        ("quantize", [(2, 5)], {"scale": 0.1}, "missing"),
        ("dequantize", [(2, 5)], {"scale": 0.1, "zero_point": 1}, "is f32, must be u8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(op: str, shapes: list[Any], attrs: dict[str, Any], message: str) -> None:
    node = Node(
        op=op, name="x", inputs=tuple(f"i{i}" for i in range(len(shapes))), outputs=("o",), attrs=attrs, source="net.3"
    )
    symbols = Graph(inputs=(), outputs=(), values={}, nodes=(), constants={}, symbols={"s": Symbol()})
    with pytest.raises(GraphError, match=message) as caught:
        OPS[op].infer(node, [Value(dtype="f32", shape=shape) for shape in shapes], symbols)
    assert "'x'" in str(caught.value)
    assert op in str(caught.value)
    assert "net.3" in str(caught.value)
