"""Clips become the bounds of the layer before them."""

from __future__ import annotations

from typing import Any

import pytest

from graphs import BATCH, Maker
from lowbit.passes.fuse_activation import fuse_activation
from passes.same import apply, ops


@pytest.mark.parametrize("op", ["conv2d", "linear"])
def test_a_clip_becomes_bounds(op: str) -> None:
    m = Maker(symbols=BATCH)
    x = m.input("x", "batch", *((4, 5, 5) if op == "conv2d" else (4,)))
    y = m.node(op, x, m.floats(*((3, 4, 3, 3) if op == "conv2d" else (3, 4))), m.floats(3))
    after = apply(m.graph(m.node("clip", y, min=0.0, max=0.5)), fuse_activation)
    assert ops(after) == {op: 1}
    assert (after.nodes[0].attrs["activation_min"], after.nodes[0].attrs["activation_max"]) == (0.0, 0.5)
    assert after.nodes[0].name == m.graph(y).nodes[0].name


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"min": 0.0}, {"max": 1.0}, {"min": 0.0, "max": 1.0}),
        ({"min": -0.5, "max": 0.7}, {"min": 0.0, "max": 2.0}, {"min": 0.0, "max": 0.7}),
        ({"min": -1.0, "max": -0.5}, {"min": 0.0, "max": 1.0}, {"min": 0.0, "max": 0.0}),
        ({"min": 0.0}, {}, {"min": 0.0}),
    ],
)
def test_clips_merge(first: dict[str, float], second: dict[str, float], expected: dict[str, float]) -> None:
    m = Maker(symbols=BATCH)
    y = m.node("clip", m.node("clip", m.input("x", "batch", 9), **first), **second)
    after = apply(m.graph(y), fuse_activation)
    assert [dict(node.attrs) for node in after] == [expected]


@pytest.mark.parametrize("kind", ["read twice", "returned"])
def test_a_result_that_others_see_keeps_its_clip(kind: str) -> None:
    m = Maker(symbols=BATCH)
    y = m.node("linear", m.input("x", "batch", 4), m.floats(3, 4))
    outputs: list[Any] = [m.node("clip", y, min=0.0)]
    outputs.append(m.node("unary", y, kind="tanh") if kind == "read twice" else y)
    graph = m.graph(*outputs)
    assert ops(apply(graph, fuse_activation)) == ops(graph)
