"""Reshapes between layers over one axis meet and vanish."""

from __future__ import annotations

import numpy as np

from graphs import BATCH, Maker, feeds
from lowbit.graph.ir import Graph, Symbol
from lowbit.ops.interpreter import run, validate
from lowbit.passes import optimize
from lowbit.passes.sink_reshapes import sink_reshapes


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph]


def assert_same(before: Graph, after: Graph) -> None:
    given = feeds(before, {"batch": 3, "steps": 9})
    expected, found = run(before, given), run(validate(after), given)
    for name in before.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)


def sequence_net(*, mean: bool = True) -> Graph:
    """Two layers over one axis with all between them that can work on images."""
    m = Maker(1, {**BATCH, "steps": Symbol(minimum=4, maximum=40)})
    x = m.input("x", "batch", 3, 1, "steps")
    y = m.node("conv2d", x, m.floats(4, 3, 1, 3), padding=(0, 0, 1, 1))
    y = m.node("reshape", y, shape=("batch", 4, "steps"))
    y = m.node("add", m.node("mul", y, m.floats(4, 1)), m.floats(4, 1))
    z = m.node("clip", y, min=0.0)
    z = m.node("concat", m.node("unary", z, kind="sigmoid"), m.node("slice", y, axis=1, start=1, stop=3), axis=1)
    z = m.node("pad", z, padding=(0, 0, 0, 0, 1, 2))
    z = m.node("div", z, m.constant(np.float32([3.0])))
    z = m.node("reshape", z, shape=("batch", 6, 1, "steps + 3"))
    z = m.node("conv2d", z, m.floats(2, 6, 1, 2))
    z = m.node("reshape", z, shape=("batch", 2, "steps + 2"))
    return m.graph(m.node("mean", z, axes=(-1,), keepdim=0) if mean else z)


def test_reshapes_sink_and_vanish() -> None:
    graph = sequence_net()
    after = optimize(graph)
    assert_same(graph, after)
    assert ops(after).count("reshape") == 1, "only at the end"
    assert "adaptive_avg_pool2d" in ops(after)
    assert "mul" not in ops(after), "folded into the layer"


def test_other_shapes_are_left_alone() -> None:
    m = Maker(1, BATCH)
    x = m.input("x", "batch", 4, 3, 5)
    y = m.node("unary", m.node("reshape", x, shape=("batch", 12, 5)), kind="tanh")
    z = m.node("add", m.node("reshape", m.input("y", "batch", 4, 1, 5), shape=("batch", 4, 5)), m.input("z", 5))
    graph = m.graph(y, z)
    assert ops(sink_reshapes(graph)) == ops(graph)
