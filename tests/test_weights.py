"""Quantized weights of every kind: what they stand for, in files, in float operators, and where kernels are missing."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphs import BATCH, Maker, feeds
from lowbit import Session
from lowbit.errors import FormatError, GraphError
from lowbit.graph import weights
from lowbit.graph.ir import Array, Graph, Weight, replace
from lowbit.ops import interpreter
from lowbit.runtime import format, format_v1

BESIDE = ("", "zero_points", "offsets", "values")


@st.composite
def any_weight(draw: st.DrawFn, rank: int = 0) -> Weight:
    """A sound weight of two to four axes, small."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    rank = rank or draw(st.integers(2, 4))
    shape = tuple(draw(st.integers(1, most)) for most in (5, 9, 3, 2)[:rank])
    bits = draw(st.sampled_from(weights.BITS))
    depth = math.prod(shape[1:])
    sizes = [size for size in range(1, depth + 1) if depth % size == 0 and (size % 8 == 0 or size == depth)]
    size = draw(st.sampled_from([0, *sizes]))
    each = (shape[0], depth // size) if size else shape[:1]
    beside = draw(st.sampled_from(BESIDE if bits < 8 else ("", "offsets")))
    parts: dict[str, Any] = {
        "": {},
        "zero_points": {"zero_points": rng.integers(0, 1 << bits, each).astype(np.uint8)},
        "offsets": {"offsets": rng.standard_normal(each).astype(np.float16)},
        "values": {"values": rng.standard_normal(1 << bits).astype(np.float32)},
    }[beside]
    low = -(1 << (bits - 1)) if not parts or bits == 8 else 0
    return Weight(
        codes=rng.integers(low, low + (1 << bits), shape).astype(np.int8),
        scales=rng.uniform(0.01, 1, each).astype(draw(st.sampled_from([np.float16, np.float32]))),
        bits=bits,
        group_size=size,
        **parts,
    )


def naive(weight: Weight) -> Array:
    """The numbers one by one, in float32."""
    numbers = np.empty(weight.shape, np.float32)
    inputs, *window = weight.shape[1:]
    for channel in range(weight.shape[0]):
        places = itertools.product(*map(range, window), range(inputs))
        for place, (*at, source) in enumerate(places):
            group = (channel, place // weight.group_size) if weight.group_size else (channel,)
            code = int(weight.codes[(channel, source, *at)])
            value = np.float32(code) if weight.values is None else weight.values[code]
            if weight.zero_points is not None:
                value = np.float32(code - int(weight.zero_points[group]))
            value = value * np.float32(weight.scales[group])
            if weight.offsets is not None:
                value = value + np.float32(weight.offsets[group])
            numbers[(channel, source, *at)] = value
    return numbers


@settings(max_examples=60, deadline=None)
@given(any_weight())
def test_what_a_weight_stands_for(weight: Weight) -> None:
    assert list(weights.problems(weight)) == []
    np.testing.assert_array_equal(weight.numbers, naive(weight), strict=True)
    np.testing.assert_array_equal(np.asarray(weight), weight.numbers)


def float_layer(weight: Weight, seed: int = 0) -> Graph:
    """A float layer that reads the weight."""
    m = Maker(seed, BATCH)
    window = weight.shape[2:]
    w = m.constant(weight)
    if not window:
        return m.graph(m.node("linear", m.input("x", "batch", weight.shape[1]), w, m.floats(weight.shape[0])))
    if len(window) == 1:
        return m.graph(m.node("mul", m.node("reshape", w, shape=(1, *weight.shape)), m.input("x", "batch", 1, 1, 1)))
    x = m.input("x", "batch", weight.shape[1], 5, 6)
    return m.graph(m.node("conv2d", x, w, m.floats(weight.shape[0])))


def dense(graph: Graph) -> Graph:
    """The same with arrays in the place of weights."""
    return replace(graph, constants={name: np.asarray(constant) for name, constant in graph.constants.items()})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_weight(), st.integers(0, 2**31))
def test_float_operators_read_the_numbers(tmp_path: Path, weight: Weight, seed: int) -> None:
    """Before and after a file, in the interpreter and in sessions: bit for bit as with the numbers themselves."""
    graph = float_layer(weight, seed)
    given = feeds(graph, seed=seed)
    format.save(tmp_path / "net.lowbit", graph)
    loaded, _ = format.load(tmp_path / "net.lowbit")
    held = next(constant for constant in loaded.constants.values() if isinstance(constant, Weight))
    for part in ("codes", "scales", "zero_points", "offsets", "values"):
        one, other = getattr(held, part), getattr(weight, part)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other, strict=True)
    assert (held.bits, held.group_size) == (weight.bits, weight.group_size)
    (y,) = graph.outputs
    expected = interpreter.run(dense(graph), given)[y]
    np.testing.assert_array_equal(interpreter.run(loaded, given)[y], expected)
    np.testing.assert_array_equal(Session(loaded).run(**given)[0], Session(dense(graph)).run(**given)[0])


@settings(max_examples=60, deadline=None)
@given(any_weight(rank=2))
def test_kernels_are_found_by_the_format(weight: Weight) -> None:
    """A weight that no kernel reads is refused by name; the others run, as the interpreter says."""
    m = Maker(0, BATCH)
    n, depth = weight.shape
    x = m.input("x", "batch", depth, dtype="u8")
    y = m.node("quantized_linear", x, m.constant(weight), m.floats(n), m.floats(n), zero_point_x=3, output="f32")
    graph = m.graph(y)
    if weights.format_of(weight) is None:
        with pytest.raises(GraphError, match=f"no kernel of quantized_linear reads {weight.bits}-bit codes"):
            Session(graph)
        return
    given = feeds(graph)
    np.testing.assert_array_equal(Session(graph).run(**given)[0], interpreter.run(graph, given)[y])


def test_one_weight_for_two_kinds_of_readers() -> None:
    """Codes for one, numbers for the other, and the numbers as an output."""
    m = Maker(3, BATCH)
    w = m.weight(6, 8)
    codes = m.node("quantized_linear", m.input("x", "batch", 8, dtype="u8"), w, m.floats(6), m.floats(6), output="f32")
    plain = m.node("linear", m.input("z", "batch", 8), w)
    graph = m.graph(codes, plain, w)
    given = feeds(graph)
    expected = interpreter.run(graph, given)
    found = Session(graph).run(**given)
    np.testing.assert_array_equal(found[0], expected[codes])
    np.testing.assert_allclose(found[1], expected[plain], rtol=1e-5)
    np.testing.assert_array_equal(found[2], graph.constants[w].numbers)  # type: ignore[union-attr]


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({}, "constants is not an object"),
    ({"constants": {}, "values": []}, "values is not an object"),
    ({"constants": {"w": {"weight": []}}, "values": {}}, "not an object"),
    ({"constants": {"w": {"weight": {"bits": 4}}}, "values": {}}, "lacks"),
    ({"constants": {}, "values": {}, "nodes": {}}, "nodes is not a list"),
    ({"constants": {}, "values": {}, "nodes": [{"op": "quantized_linear"}]}, "version 1 has no operator"),
]
SOUND = {"codes": "c", "scales": "s", "bits": 8, "axis": 0, "group_size": 0, "packing": "plain"}
for change in ({"bits": 4}, {"packing": "zip"}, {"axis": 1}, {"axis": False}, {"g_idx": "g"}, {"bits": True}):
    BROKEN.append(({"constants": {"w": {"weight": {**SOUND, **change}}}, "values": {}}, "w"))
for value in ({"dtype": "f32", "shape": [1]}, {"dtype": "s8", "shape": 3}, {"dtype": "s8"}, 7):
    BROKEN.append(({"constants": {"w": {"weight": SOUND}}, "values": {"w": value}}, "w"))


@pytest.mark.parametrize("index", range(len(BROKEN)))
def test_documents_of_version_1_that_are_none(index: int) -> None:
    document, message = BROKEN[index]
    with pytest.raises(FormatError, match=message):
        format_v1.upgrade(document)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31))
def test_ternary_codes_take_a_byte_for_five(channels: int, depth: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, (channels, depth)).astype(np.int8)
    weight = Weight(codes=codes, scales=np.ones((channels, 1), np.float16), bits=2, group_size=depth)
    packed = weights.pack_trits(weight)
    assert packed.shape == (channels, -(-depth // 5))
    assert weights.is_ternary(weight)
    assert weights.stored(weight).bytes == packed.nbytes + weight.scales.nbytes
    np.testing.assert_array_equal(weights.unpack_trits(packed, codes.shape), codes)


def test_what_is_no_ternary_code_is_refused() -> None:
    with pytest.raises(GraphError, match="above 242"):
        weights.unpack_trits(np.full((1, 2), 243, np.uint8), (1, 10))
    with pytest.raises(GraphError, match="beyond its depth"):
        weights.unpack_trits(np.full((1, 1), 242, np.uint8), (1, 4))
    with pytest.raises(GraphError, match="must be uint8"):
        weights.unpack_trits(np.zeros((1, 3), np.uint8), (1, 10))
