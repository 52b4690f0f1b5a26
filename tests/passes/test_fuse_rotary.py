"""Rotary embedding that a model writes out goes into the attention over caches."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import Maker, feeds
from lowbit.graph.ir import Graph, Symbol
from lowbit.ops import interpreter
from lowbit.passes.fuse_rotary import fuse_rotary

SIZE = 12


def rotary(turned: int, *, other: bool = False, crossed: bool = False) -> Graph:
    """q and k of which `turned` features are turned. other: k by angles of its own. crossed: halves that are not."""
    m = Maker(2, {"batch": Symbol(), "steps": Symbol(maximum=30)})
    q, k = m.input("q", "batch", 4, "steps", SIZE), m.input("k", "batch", 2, "steps", SIZE)
    angles = m.input("angles", "batch", "steps", turned)
    keys = m.input("keys", "batch", 2, 4, SIZE, 16)
    values = m.input("values", "batch", 2, 4, 16, SIZE)
    length = m.node("remainder", m.input("length", "batch", dtype="i64"), m.constant(np.asarray(20, np.int64)))

    def turns(angles: str) -> list[str]:
        made = [m.node("unary", angles, kind=kind) for kind in ("cos", "sin")]
        return [m.node("reshape", each, shape=("batch", 1, "steps", turned)) for each in made]

    def turn(x: str, cos: str, sin: str) -> str:
        part = x if turned == SIZE else m.node("slice", x, axis=-1, start=0, stop=turned)
        half = turned // 2
        low = m.node("slice", part, axis=3, start=0, stop=half)
        high = m.node("slice", part, axis=3, start=half, stop=turned)
        if crossed:
            low, high = high, low
        pairs = m.node("concat", m.node("unary", high, kind="neg"), low, axis=-1)
        made = m.node("add", m.node("mul", part, cos), m.node("mul", sin, pairs))
        if turned == SIZE:
            return str(made)
        return str(m.node("concat", made, m.node("slice", x, axis=-1, start=turned, stop=SIZE), axis=-1))

    first = turns(angles)
    second = turns(m.node("add", angles, angles)) if other else first
    parts = turn(q, *first), turn(k, *second), k
    y, _, _ = m.node("cached_attention", *parts, keys, values, length, outputs=3, scale=0.3)
    return m.graph(y)


@pytest.mark.parametrize("turned", [SIZE, 8, 2])
def test_what_turns_goes_into_attention(turned: int) -> None:
    graph = rotary(turned)
    made = fuse_rotary(graph)
    assert sorted(node.op for node in made) == ["cached_attention", "remainder", "unary", "unary"]
    x = feeds(graph, {"batch": 2, "steps": 9})
    before, after = (interpreter.run(each, x)[graph.outputs[0]] for each in (graph, made))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("change", ["other", "crossed"])
def test_what_is_no_rotary_embedding_stays(change: str) -> None:
    graph = rotary(8, other=change == "other", crossed=change == "crossed")
    assert fuse_rotary(graph).nodes == graph.nodes
