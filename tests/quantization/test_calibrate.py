"""Histograms whose result does not depend on how data arrive, and the ranges that are read from them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import BATCH, Maker
from lowbit.errors import CalibrationError
from lowbit.graph.ir import Array, Graph
from lowbit.quantization.calibrate import (
    BINS,
    Histogram,
    Histograms,
    affine,
    choose,
    gather,
    minmax_range,
    mse_range,
    percentile_range,
    quantized,
)
from lowbit.quantization.equalize import ChannelRanges
from lowbit.quantization.schemes import Scheme

floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


def histogram(*arrays: Array) -> Histogram:
    made = Histogram()
    for array in arrays:
        made.add(np.asarray(array, np.float32))
    return made


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(floats, min_size=1, max_size=20), min_size=1, max_size=6))
def test_a_histogram_counts_each_element_whatever_the_range(batches: list[list[float]]) -> None:
    made = histogram(*(np.float32(batch) for batch in batches))
    everything = np.float32([x for batch in batches for x in batch])
    assert made.counts.sum() + made.zeros == everything.size
    assert (made.minimum, made.maximum) == (everything.min(), everything.max())
    assert made.counts.size <= BINS
    x, n = made.points()
    assert (np.diff(x) > 0).all()
    assert n.sum() == everything.size
    assert float(x @ n) == pytest.approx(float(everything.sum(dtype=np.float64)), rel=1e-9, abs=1e20)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(floats, min_size=1, max_size=20), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_order_and_cuts_do_not_matter(batches: list[list[float]], random: object) -> None:
    one = histogram(np.float32([x for batch in batches for x in batch]))
    merged = Histogram()
    for batch in reversed(batches):
        merged.merge(histogram(np.float32(batch)))
    for other in (histogram(*map(np.float32, reversed(batches))), merged):
        assert (other.exponent, other.first, other.zeros) == (one.exponent, one.first, one.zeros)
        np.testing.assert_array_equal(other.counts, one.counts)


def test_memory_is_constant_in_the_number_of_batches() -> None:
    rng = np.random.default_rng(0)
    made = Histogram()

    def peak(batches: int) -> int:
        tracemalloc.start()
        for _ in range(batches):
            made.add(rng.standard_normal(10_000).astype(np.float32) * 3)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)
    assert peak(50) < 1.2 * peak(5) + 10_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="1 of 3 elements"):
        histogram(np.float32([1, bad, 2]))


def test_zero_has_an_exact_code() -> None:
    for low, high in ((-1.0, 3.0), (0.0, 6.0), (-5.0, 0.0), (2.0, 7.0), (-3.0, -1.0), (0.0, 0.0), (-1e-30, 1e30)):
        quant = affine(low, high)
        assert 0 <= int(quant.zero_point) <= 255
        assert quantized(np.zeros(1), quant) == 0
        assert float(np.float32(quant.scale)) == quant.scale
    assert affine(0.0, 6.0).zero_point == 0


def test_pixels_keep_their_grid() -> None:
    """u8 pixels normalized as (x - 127) / 128 have codes without any error; every method must find them."""
    pixels = histogram((np.arange(256, dtype=np.float32) - 127) / 128)
    for method in ("minmax", "mse"):
        quant = choose(pixels, Scheme(name="x", range_method=method))
        assert (quant.scale, quant.zero_point) == (1 / 128, 127)


def test_squared_error_cuts_rare_outliers() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(100_000).astype(np.float32)
    x[0] = 100
    seen = histogram(x)
    quant = affine(*mse_range(seen))
    assert mse_range(seen)[1] < 100
    for other in (minmax_range(seen), percentile_range(seen, 99.99), percentile_range(seen, 99.0)):
        loss = np.square(quantized(x.astype(np.float64), quant) - x).mean()
        assert loss <= 1.001 * np.square(quantized(x.astype(np.float64), affine(*other)) - x).mean()


def test_percentiles_are_counted_from_each_side() -> None:
    seen = histogram(np.linspace(-1, 3, 100_001, dtype=np.float32))
    low, high = percentile_range(seen, 99.0)
    assert low == pytest.approx(-0.96, abs=2e-3)
    assert high == pytest.approx(2.96, abs=2e-3)
    assert percentile_range(seen, 100.0) == minmax_range(seen) == (-1.0, 3.0)
    assert percentile_range(histogram(np.float32([0, 0, 0, 1])), 80.0) == (0.0, 1.0)


def test_a_percentile_does_not_drop_all_there_is() -> None:
    rare = np.zeros(100_000, np.float32)
    rare[:3] = 5
    assert choose(histogram(rare), Scheme(name="x", range_method="percentile")) == affine(0.0, 5.0)


def test_a_table_gets_codes_where_its_function_moves() -> None:
    rng = np.random.default_rng(0)
    seen = histogram((20 * rng.standard_normal(50_000)).astype(np.float32))
    low, high = mse_range(seen, np.tanh)
    assert -12 < low < -2
    assert 2 < high < 12


# ------------------------------------------------------------------------------------------------------------ observing


def observe(graph: Graph, data: Iterable[dict[str, Array]], names: list[str], **options: Any) -> dict[str, Histogram]:
    seen = Histograms(names)
    gather(graph, data, [seen], stage="calibrate", **options)
    return seen.whole()


def net() -> Graph:
    m = Maker(0, BATCH)
    y = m.node("conv2d", m.input("x", "batch", 3, 6, 6), m.floats(4, 3, 3, 3), m.floats(4), activation_min=0.0)
    return m.graph(m.node("unary", y, kind="exp"))


def test_observing_inputs_and_inner_values() -> None:
    graph = net()
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((n, 3, 6, 6)).astype(np.float32)} for n in (1, 5, 20)]
    seen = observe(graph, data, ["x", "v0"])
    everything = np.concatenate([batch["x"] for batch in data])
    assert (seen["x"].minimum, seen["x"].maximum) == (everything.min(), everything.max())
    assert seen["v0"].minimum == 0
    assert seen["v0"].counts.sum() + seen["v0"].zeros == 26 * 4 * 16


def test_one_pass_serves_several() -> None:
    graph = net()
    data = [{"x": np.random.default_rng(n).standard_normal((n, 3, 6, 6)).astype(np.float32)} for n in (1, 5, 20)]
    read = 0

    def batches() -> Iterator[dict[str, Array]]:
        nonlocal read
        for batch in data:
            read += 1
            yield batch

    histograms, ranges = Histograms(["v0"]), ChannelRanges(["x", "v0"])
    gather(graph, batches(), [histograms, ranges], stage="calibrate")
    assert read == len(data)
    alone = ChannelRanges(["x"])
    gather(graph, data, [alone], stage="calibrate")
    np.testing.assert_array_equal(ranges.largest["x"], alone.largest["x"])
    assert ranges.counts == {"x": 26 * 36, "v0": 26 * 16}
    assert float(ranges.largest["v0"].max()) == histograms.whole()["v0"].maximum
    first, second = histograms.halves
    assert first["v0"].counts.sum() + first["v0"].zeros + second["v0"].counts.sum() + second["v0"].zeros == 26 * 64


def test_progress_counts_batches() -> None:
    calls: list[tuple[str, int, int | None]] = []
    data = [{"x": np.zeros((20, 3, 6, 6), np.float32)}] * 3
    observe(net(), data, ["x"], progress=lambda stage, done, total: calls.append((stage, done, total)))
    assert calls[-1] == ("calibrate", 3, 3)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": np.full((1, 3, 6, 6), np.nan, np.float32)}, "batch 1: input 'x' has 108 elements that are NaN"),
        ({"x": np.zeros((0, 3, 6, 6), np.float32)}, "batch 1: input 'x' is empty"),
        ({"x": np.zeros((1, 3, 6, 7), np.float32)}, "batch 1: .*shape"),
        ({}, "batch 1: inputs .*'x'.* are missing"),
        ({"x": np.full((1, 3, 6, 6), 1e30, np.float32)}, "batch 1: value 'v1': .* elements are NaN or infinite"),
    ],
)
def test_bad_batches_are_named(batch: dict[str, Array], message: str) -> None:
    good = {"x": np.zeros((1, 3, 6, 6), np.float32)}
    with pytest.raises(CalibrationError, match=message):
        observe(net(), [good, batch], ["x", "v1"])


def test_no_data_at_all() -> None:
    def nothing() -> Iterator[dict[str, Array]]:
        yield from ()

    for empty in ([], nothing()):
        with pytest.raises(CalibrationError, match="no batch"):
            observe(net(), empty, ["x"])
