"""Residual additions move into a layer before them."""

from __future__ import annotations

from graphs import BATCH, Maker
from lowbit.passes.fuse_residual import fuse_residual
from passes.same import apply, ops


def test_an_add_and_its_relu_become_part_of_the_layer() -> None:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", 4, 5, 5)
    y = m.node("add", m.node("conv2d", x, m.floats(4, 4, 3, 3), padding=(1, 1, 1, 1)), x)
    graph = m.graph(m.node("clip", y, min=0.0))
    after = apply(graph, fuse_residual)
    assert ops(after) == {"conv2d": 1}
    assert after.nodes[0].inputs[2:] == ("", "x")
    assert after.nodes[0].outputs == graph.outputs
    assert after.nodes[0].attrs["activation_min"] == 0.0


def test_of_two_branches_the_later_layer_takes_the_add() -> None:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", 6)
    first = m.node("linear", x, m.floats(5, 6), m.floats(5))
    second = m.node("linear", x, m.floats(5, 6), m.floats(5))
    after = apply(m.graph(m.node("add", first, second)), fuse_residual)
    assert ops(after) == {"linear": 2}
    assert after.nodes[1].inputs[3] == first


def test_what_cannot_be_fused_stays() -> None:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", 6)
    relu = m.node("linear", x, m.floats(6, 6), m.floats(6), activation_min=0.0)
    read_twice = m.node("linear", x, m.floats(6, 6))
    a = m.node("add", relu, x)
    b = m.node("add", read_twice, x)
    c = m.node("add", read_twice, m.constant(m.rng.standard_normal(6).astype("float32")))
    d = m.node("linear", x, m.floats(6, 6))
    after = apply(m.graph(a, b, c, m.node("add", d, d)), fuse_residual)
    assert ops(after) == {"linear": 3, "add": 4}
