"""Operators on elements of any type, in sessions: NumPy's results for odd shapes, every broadcast, every ISA."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import Maker
from lowbit import _core
from lowbit.graph.ir import DTYPES, Array, Graph, Symbol
from lowbit.ops import interpreter
from lowbit.ops.arithmetic import COMPARISONS, LOGIC
from lowbit.ops.reduction import KINDS
from lowbit.runtime.session import Session

ISAS = _core.cpu()["isas"]
SHAPES = st.lists(st.sampled_from([1, 2, 3, 5, 17, 33]), min_size=0, max_size=4).map(tuple)
SEEDS = st.integers(0, 2**31)
NUMBERS = ("f32", "i64", "i32")
SPECIAL = np.float32([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e30, 1e-30, 0.5, -2.5])


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Numbers of all kinds: specials among floats, ends of the range among integers."""
    kind = DTYPES[dtype]
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype == "f32":
        x = (rng.standard_normal(shape) * 3).astype(np.float32)
        return np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), x).astype(np.float32)
    info = np.iinfo(kind)
    x = rng.integers(max(info.min, -9), 10, shape)
    return np.where(rng.random(shape) < 0.1, rng.choice([info.min, info.max], shape), x).astype(kind)


def cast(array: Array, dtype: str) -> Array:
    """Infinite where a half is too narrow."""
    with np.errstate(over="ignore"):
        return array.astype(DTYPES[dtype])


def part_of(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `shape`."""
    lead = int(rng.integers(0, len(shape) + 1)) if rng.integers(3) == 0 else 0
    return tuple(1 if rng.integers(3) == 0 else size for size in shape[lead:])


def run_everywhere(graph: Graph, feeds: dict[str, Array], exact: bool = True) -> None:
    """Every ISA and thread count gives the same bits, and the interpreter's."""
    with np.errstate(all="ignore"):
        expected = interpreter.run(graph, feeds)
    first = Session(graph, isa="scalar", threads=1).run(**feeds)
    for name, y in zip(graph.outputs, first, strict=True):
        assert (y.dtype, y.shape) == (expected[name].dtype, expected[name].shape)
        if exact or y.dtype.kind != "f":
            np.testing.assert_array_equal(y, expected[name])
        else:
            np.testing.assert_allclose(y, expected[name], rtol=3e-7, atol=1e-30)
    for isa, threads in itertools.product(ISAS, (1, 2)):
        for y, truth in zip(Session(graph, isa=isa, threads=threads).run(**feeds), first, strict=True):
            np.testing.assert_array_equal(y, truth, err_msg=isa)


def binary(op: str, dtype: str, shape: tuple[int, ...], seed: int, **attrs: Any) -> None:
    rng = np.random.default_rng(seed)
    a, b = (values(rng, part_of(rng, shape), dtype) for _ in range(2))
    if op in ("floor_div", "trunc_div", "remainder", "fmod") and dtype != "f32":
        b[b == 0] = 3
    m = Maker()
    names = [m.input(name, *array.shape, dtype=dtype) for name, array in (("a", a), ("b", b))]
    run_everywhere(m.graph(m.node(op, *names, **attrs)), {"a": a, "b": b}, exact=op != "pow")


ARITHMETIC = ("add", "sub", "mul", "minimum", "maximum", "pow", "floor_div", "trunc_div", "remainder", "fmod")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ARITHMETIC), st.sampled_from(NUMBERS), SHAPES, SEEDS)
def test_arithmetic(op: str, dtype: str, shape: tuple[int, ...], seed: int) -> None:
    binary(op, dtype, shape, seed)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(COMPARISONS)), st.sampled_from(("f32", "i64", "i32", "bool", "u8", "s8")), SHAPES, SEEDS)
def test_comparisons(kind: str, dtype: str, shape: tuple[int, ...], seed: int) -> None:
    binary("compare", dtype, shape, seed, kind=kind)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LOGIC)), st.sampled_from(("bool", "i64", "i32", "u8", "s8")), SHAPES, SEEDS)
def test_logic(kind: str, dtype: str, shape: tuple[int, ...], seed: int) -> None:
    binary("logical", dtype, shape, seed, kind=kind)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(("f32", "f16", "i64", "i32", "bool", "u8")), SHAPES, SEEDS)
def test_where(dtype: str, shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = "f32" if dtype == "f16" else dtype
    a, b = (cast(values(rng, part_of(rng, shape), source), dtype) for _ in range(2))
    condition = values(rng, part_of(rng, shape), "bool")
    m = Maker()
    names = [m.input("c", *condition.shape, dtype="bool"), m.input("a", *a.shape, dtype=dtype)]
    names.append(m.input("b", *b.shape, dtype=dtype))
    run_everywhere(m.graph(m.node("where", *names)), {"c": condition, "a": a, "b": b})


def test_any_byte_but_zero_is_true() -> None:
    """A caller's bools may hold other bytes than 0 and 1."""
    odd = np.array([0, 1, 2, 255], np.uint8).view(np.bool_)
    m = Maker()
    x, y = m.input("x", 4, dtype="bool"), m.constant(np.ones(4, np.bool_))
    nodes = [
        m.node("cast", x, dtype="f32"),
        m.node("cast", m.node("logical_not", x), dtype="i64"),
        m.node("cast", m.node("compare", x, y, kind="eq"), dtype="i64"),
        m.node("cast", m.node("logical", x, y, kind="and"), dtype="i64"),
        m.node("where", x, m.floats(4), m.floats(4)),
        m.node("cast", m.node("reduce", x, kind="any", axes=(0,), keepdim=1), dtype="i64"),
    ]
    graph = m.graph(*nodes)
    plain = Session(graph).run(x=np.array([False, True, True, True]))
    for found, expected in zip(Session(graph).run(x=odd), plain, strict=True):
        np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------------------------------------ along and over axes


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.sampled_from(NUMBERS), SHAPES, SEEDS, st.data())
def test_reductions(kind: str, dtype: str, shape: tuple[int, ...], seed: int, data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.sampled_from(range(len(shape))), unique=True)) if shape else []
    dtype = "bool" if kind in ("any", "all") else dtype
    rng = np.random.default_rng(seed)
    x = values(rng, shape, dtype)
    if dtype == "f32" and kind in ("sum", "prod"):
        x = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    m = Maker()
    name = m.input("x", *shape, dtype=dtype)
    node = m.node("reduce", name, kind=kind, axes=tuple(axes), keepdim=data.draw(st.integers(0, 1)))
    run_everywhere(m.graph(node), {"x": x}, exact=kind not in ("sum", "prod"))


def test_sums_of_many_numbers_are_accurate_and_split_alike() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (3, 70_000, 2)).astype(np.float32)
    m = Maker()
    name = m.input("x", *x.shape)
    axes = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    run_everywhere(m.graph(*(m.node("reduce", name, kind="sum", axes=each) for each in axes)), {"x": x}, exact=False)


def test_reductions_of_nothing() -> None:
    m = Maker(symbols={"n": Symbol(minimum=0)})
    x = m.input("x", "n", 3)
    graph = m.graph(*(m.node("reduce", x, kind=kind, axes=(0,)) for kind in ("sum", "prod")))
    zeros, ones = Session(graph).run(x=np.zeros((0, 3), np.float32))
    np.testing.assert_array_equal(zeros, np.zeros(3, np.float32))
    np.testing.assert_array_equal(ones, np.ones(3, np.float32))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NUMBERS), SHAPES.filter(bool), SEEDS, st.data())
def test_order_along_an_axis(dtype: str, shape: tuple[int, ...], seed: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    flag = data.draw(st.integers(0, 1))
    x = values(np.random.default_rng(seed), shape, dtype)
    m = Maker()
    name = m.input("x", *shape, dtype=dtype)
    nodes = [
        *m.node("sort", name, axis=axis, descending=flag, outputs=2),
        *m.node("topk", name, axis=axis, largest=flag, k=(shape[axis] + 1) // 2, outputs=2),
        m.node("argmax", name, axis=axis, kind="max" if flag else "min", keepdim=flag),
    ]
    if dtype != "i32":
        nodes.append(m.node("cumsum", m.node("clip", name, min=-9.0, max=9.0) if dtype == "f32" else name, axis=axis))
    run_everywhere(m.graph(*nodes), {"x": x}, exact=False)


# ------------------------------------------------------------------------------------------------------ computed places


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(("f32", "bool", "i64", "f16")), st.sampled_from(("i64", "i32")), SEEDS, st.data())
def test_indexing(dtype: str, index_dtype: str, seed: int, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
    axis = data.draw(st.integers(0, len(shape) - 1))
    rng = np.random.default_rng(seed)
    source = "f32" if dtype == "f16" else dtype
    x = cast(values(rng, shape, source), dtype)
    kind = DTYPES[index_dtype]
    along = (*shape[:axis], int(rng.integers(1, 7)), *shape[axis + 1 :])
    count = data.draw(st.integers(1, len(shape) - axis))
    common = tuple(int(size) for size in rng.integers(1, 4, int(rng.integers(0, 3))))
    feeds = {
        "x": x,
        "i": rng.integers(0, shape[axis], (2, 3)).astype(kind),
        "along": rng.integers(0, shape[axis], along).astype(kind),
        "updates": cast(values(rng, along, source), dtype),
    }
    for place in range(count):
        size = shape[axis + place]
        feeds[f"j{place}"] = rng.integers(-size, size, part_of(rng, common)).astype(kind)
    m = Maker()
    for name, array in feeds.items():
        m.input(name, *array.shape, dtype=index_dtype if name[0] in "ija" else dtype)
    several = [f"j{place}" for place in range(count)]
    found = m.node("index", "x", *several, axis=axis)
    outputs = [m.node("take", "x", "i", axis=axis), m.node("gather", "x", "along", axis=axis), found]
    outputs.append(m.node("index_put", "x", found, *several, axis=axis))
    outputs.append(m.node("scatter", "x", "along", "updates", axis=axis))
    if dtype in NUMBERS:
        for reduce in ("add", "mul", "max", "min"):
            outputs.append(m.node("scatter", "x", "along", "updates", axis=axis, reduce=reduce))
            outputs.append(m.node("index_put", "x", found, *several, axis=axis, reduce=reduce))
    run_everywhere(m.graph(*outputs), feeds)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("dtype", ["f32", "bool", "i64"])
def test_triangles(upper: int, dtype: str) -> None:
    x = np.ones((2, 3, 5), DTYPES[dtype])
    for diagonal in (-9, -3, -1, 0, 1, 4, 9, 2**40, -(2**40)):
        m = Maker()
        name = m.input("x", *x.shape, dtype=dtype)
        run_everywhere(m.graph(m.node("triangle", name, diagonal=diagonal, upper=upper)), {"x": x})


def test_counting_wraps_around_and_steps_down() -> None:
    m = Maker()
    graph = m.graph(
        m.node("arange", start=2**40, length=5, step=-3, dtype="i64"),
        m.node("arange", start=2**31 - 2, length=4, step=1, dtype="i32"),
        m.node("reshape", m.input("x", 1), shape=(1,)),
    )
    down, wrapped, _ = Session(graph).run(x=np.zeros(1, np.float32))
    np.testing.assert_array_equal(down, 2**40 - 3 * np.arange(5))
    assert list(wrapped) == [2**31 - 2, 2**31 - 1, -(2**31), -(2**31) + 1]


def test_powers_are_exact_where_they_can_be() -> None:
    x = np.float32([2, 3, -2, -3, 10, 0.5, -1, 4])
    y = np.float32([10, 4, 3, 4, -2, -3, 1e20, 0.5])
    m = Maker()
    graph = m.graph(m.node("pow", m.input("x", 8), m.input("y", 8)))
    (found,) = Session(graph).run(x=x, y=y)
    np.testing.assert_array_equal(
        found, np.float32([math.pow(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)])
    )
