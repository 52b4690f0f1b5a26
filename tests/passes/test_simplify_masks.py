"""Bookkeeping on masks and positions that can only give one thing is decided at conversion."""

from __future__ import annotations

import numpy as np
import pytest

from graphs import BATCH, Maker, feeds
from lowbit.graph.ir import Graph, Symbol
from lowbit.ops import interpreter
from lowbit.passes import optimize
from lowbit.passes.drop_expands import drop_expands
from lowbit.passes.simplify_masks import simplify_masks


def assert_same(before: Graph, after: Graph) -> None:
    """Equal bits, on inputs of every dtype."""
    given = feeds(before, {"batch": 2, "n": 7})
    found = interpreter.run(interpreter.validate(after), given)
    for name, expected in interpreter.run(before, given).items():
        np.testing.assert_array_equal(found[name], expected)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph]


def maker(*symbols: str) -> Maker:
    known = {**BATCH, "n": Symbol(minimum=1, maximum=64)}
    return Maker(1, {name: known[name] for name in symbols})


def padding_mask(m: Maker) -> str:
    """[batch, 1, n, n] as transformers makes it from a [batch, n] mask."""
    mask = m.input("mask", "batch", "n", dtype="bool")
    rows = m.node("arange", start=0, length="batch", step=1, dtype="i64")
    places = m.node("arange", start=0, length="n", step=1, dtype="i64")
    rows = m.node("reshape", rows, shape=("batch", 1, 1, 1))
    columns = m.node("reshape", places, shape=(1, 1, 1, "n"))
    queries = m.node("reshape", places, shape=(1, 1, "n", 1))
    always = m.node("compare", queries, m.constant(np.asarray(0, np.int64)), kind="ge")
    return m.node("logical", always, m.node("index", mask, rows, columns, axis=0), kind="and")


def test_the_mask_of_a_padded_batch_is_the_mask_itself() -> None:
    m = maker("batch", "n")
    q = m.input("q", "batch", 2, "n", 4)
    graph = m.graph(m.node("attention", q, q, q, padding_mask(m), scale=0.5))
    simple = drop_expands(simplify_masks(graph))
    assert ops(simple) == ["reshape", "attention"]
    assert_same(graph, simple)
    assert ops(optimize(graph)) == ["reshape", "attention"]


@pytest.mark.parametrize(
    ("kind", "bound", "left"),
    [("ge", 0, "sin"), ("gt", -1, "sin"), ("lt", 64, "sin"), ("le", 63, "sin"), ("lt", 0, "exp"), ("gt", 63, "exp")],
)
def test_comparisons_of_positions(kind: str, bound: int, left: str) -> None:
    m = maker("n")
    x = m.input("x", "n")
    places = m.node("arange", start=0, length="n", step=1, dtype="i64")
    chosen = m.node("compare", places, m.constant(np.asarray(bound, np.int64)), kind=kind)
    graph = m.graph(m.node("where", chosen, m.node("unary", x, kind="sin"), m.node("unary", x, kind="exp")))
    simple = optimize(graph)
    assert [node.attrs["kind"] for node in simple if node.op == "unary"] == [left]
    assert "compare" not in ops(simple)
    assert "where" not in ops(simple)
    assert_same(graph, simple)


def test_what_may_be_either_stays() -> None:
    m = maker("n")
    x = m.input("x", "n")
    places = m.node("arange", start=0, length="n", step=1, dtype="i64")
    chosen = m.node("compare", places, m.constant(np.asarray(5, np.int64)), kind="lt")
    graph = m.graph(m.node("where", chosen, x, m.constant(np.asarray(0, np.float32))))
    assert ops(simplify_masks(graph)) == ops(graph)


def test_indices_out_of_order_stay() -> None:
    m = maker("n")
    x = m.input("x", 3, "n")
    rows = m.constant(np.array([[0], [2], [1]]))
    columns = m.node("arange", start=0, length="n", step=1, dtype="i64")
    graph = m.graph(m.node("index", x, rows, columns, axis=0), m.node("index", x, rows, axis=0))
    assert ops(simplify_masks(graph)).count("index") == 2
    turned = m.graph(m.node("index", x, m.constant(np.arange(3)), m.node("reshape", columns, shape=("n", 1)), axis=0))
    assert "index" in ops(simplify_masks(turned))


def test_logic_with_what_is_known() -> None:
    m = maker("batch")
    a = m.input("a", "batch", 1, dtype="bool")
    yes, no = m.constant(np.ones((1, 5), np.bool_)), m.constant(np.zeros((1, 5), np.bool_))
    nodes = [m.node("logical", *pair, kind=kind) for kind in ("and", "or", "xor") for pair in ((a, yes), (no, a))]
    graph = m.graph(*nodes)
    simple = simplify_masks(graph)
    assert ops(simple) == ["expand"] * 4 + ["logical"] * 2
    assert_same(graph, simple)


def test_an_expand_that_gives_the_shape_stays() -> None:
    m = maker("batch")
    x = m.input("x", "batch", 1)
    wide = m.node("expand", x, shape=("batch", 6))
    graph = m.graph(m.node("add", wide, m.constant(np.asarray(1, np.float32))), m.node("add", wide, m.floats(6)))
    assert ops(drop_expands(graph)) == ["expand", "add", "add"]
    assert drop_expands(graph).nodes[2].inputs[0] == "x"
    assert_same(graph, drop_expands(graph))
