"""Channels are scaled so that the graph's function stays and their ranges come closer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphs import BATCH, PAD1, Maker
from lowbit.graph.ir import Array, Graph
from lowbit.ops.interpreter import run, validate
from lowbit.quantization.calibrate import gather
from lowbit.quantization.equalize import ChannelRanges, equalize, find_groups
from passes.same import apply


def data(graph: Graph) -> list[dict[str, Array]]:
    rng = np.random.default_rng(5)
    shape = [4, *graph.values["x"].shape[1:]]
    return [{"x": rng.standard_normal(shape).astype(np.float32)}]  # type: ignore[arg-type]


def uneven(m: Maker, filters: int, depth: int, kernel: int = 1) -> str:
    weight = m.rng.standard_normal((filters, depth, kernel, kernel)) * np.logspace(0, -2, filters)[:, None, None, None]
    return m.constant(weight.astype(np.float32))


def chain(**attrs: Any) -> Graph:
    m = Maker(3, BATCH)
    x = m.input("x", "batch", 4, 6, 6)
    y = m.node("conv2d", x, uneven(m, 8, 4, 3), m.floats(8, scale=0.01), padding=PAD1, **attrs)
    z = m.node("conv2d", y, m.floats(8, 1, 3, 3), m.floats(8), padding=PAD1, groups=8, activation_min=0.0)
    z = m.node("max_pool2d", z, kernel=(2, 2), stride=(2, 2))
    z = m.node("conv2d", z, m.floats(6, 4, 1, 1), m.floats(6), groups=2)
    return m.graph(z)


def ranges_of(graph: Graph, data: list[dict[str, Array]], names: list[str]) -> dict[str, Array]:
    seen = ChannelRanges(names)
    gather(graph, data, [seen], stage="equalize")
    return seen.largest


def spread(ranges: Array) -> float:
    return float(ranges.max() / ranges.min())


def test_relu_chains_are_balanced_and_compute_the_same() -> None:
    graph = validate(chain(activation_min=0.0))
    after = apply(graph, lambda before: equalize(before, data(before)))
    before_ranges, after_ranges = (ranges_of(g, data(g), ["v0", "v1"]) for g in (graph, after))
    for name in ("v0", "v1"):
        assert spread(after_ranges[name]) < 0.8 * spread(before_ranges[name])
        assert after_ranges[name].max() == pytest.approx(before_ranges[name].max(), rel=1e-5)


def test_a_clip_that_acts_forbids_scaling() -> None:
    graph = chain(activation_min=0.0, activation_max=0.5)
    assert [group.values for group in find_groups(graph)] == [["v1", "v2"]]
    apply(graph, lambda before: equalize(before, data(before)))


def residual(pool: bool = False) -> Graph:
    m = Maker(4, BATCH)
    x = m.input("x", "batch", 3, 8, 8)
    stem = m.node("conv2d", x, uneven(m, 6, 3), m.floats(6, scale=0.1), activation_min=0.0)
    inner = m.node("conv2d", stem, uneven(m, 12, 6), m.floats(12), activation_min=0.0, activation_max=6.0)
    out = m.node("conv2d", inner, uneven(m, 6, 12), m.floats(6), stem, activation_min=0.0)
    out = m.node("add", out, stem)
    out = m.node("adaptive_avg_pool2d", out, output_size=(1, 1))
    out = m.node("reshape", out, shape=("batch", 6))
    return m.graph(m.node("linear", out, m.floats(5, 6), m.floats(5)))


def test_a_residual_stream_is_scaled_as_one() -> None:
    (group,) = find_groups(residual())
    assert set(group.values) == {"v0", "v2", "v3", "v4", "v5"}
    assert [node.name for node in group.writers] == ["n0_conv2d", "n2_conv2d"]
    assert [node.name for node in group.readers] == ["n1_conv2d", "n6_linear"]
    after = apply(residual(), lambda before: equalize(before, data(before)))
    graph = residual()
    ratio = spread(ranges_of(graph, data(graph), ["v0"])["v0"])
    assert spread(ranges_of(after, data(graph), ["v0"])["v0"]) < ratio


def test_dead_channels_and_shared_weights_are_no_trouble() -> None:
    m = Maker(6, BATCH)
    x = m.input("x", "batch", 4, 5, 5)
    weight = m.rng.standard_normal((4, 4, 1, 1)).astype(np.float32)
    weight[2] = 0
    shared = m.constant(weight)
    y = m.node("conv2d", x, shared, activation_min=0.0)
    y = m.node("conv2d", y, shared, activation_min=0.0)
    after = apply(m.graph(m.node("conv2d", y, shared)), lambda before: equalize(before, data(before)))
    found = run(after, data(after)[0], keep=["v0", "v1"])
    assert all(np.isfinite(array).all() for array in found.values())


def test_outputs_and_other_readers_block() -> None:
    m = Maker(7, BATCH)
    x = m.input("x", "batch", 4)
    y = m.node("linear", x, m.floats(4, 4), m.floats(4), activation_min=0.0)
    z = m.node("linear", y, m.floats(4, 4))
    assert find_groups(m.graph(z, y)) == []
    m.node("unary", y, kind="tanh")
    assert find_groups(m.graph(z)) == []
