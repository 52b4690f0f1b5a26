"""Linear layers that read the same values run as one product, with the bits and the names that they have alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import BATCH, Maker, feeds
from lowbit.graph.ir import Graph
from lowbit.runtime.session import Session
from test_session import PLACES, check, same

DEPTH = 40


class Layers:
    """Linear layers of one kind that read the same rows, [batch, 3, 40]."""

    def __init__(self, m: Maker, kind: str) -> None:
        self.m, self.kind = m, kind
        x = m.input("x", "batch", 3, DEPTH)
        self.inputs: Sequence[str] = (x,)
        self.rows: Sequence[str] = ()
        self.attrs: dict[str, object] = {"output": "f32"}
        if kind == "static":
            self.inputs = (m.node("quantize", x, scale=0.05, zero_point=120),)
            self.attrs |= {"zero_point_x": 120, "min": -2.0}
        elif kind.startswith("groups"):
            codes, *rows = m.node("quantize_groups", x, outputs=2, group_size=8)
            self.inputs, self.rows, self.attrs = (codes,), ("", "", *rows), {"output": "f32", "x_group_size": 8}
        elif not kind.startswith("float"):
            codes, *rows = m.node("dynamic_quantize", x, outputs=3, granularity="row")
            self.inputs, self.rows = (codes,), ("", "", *rows)

    def weight(self, channels: int) -> str:
        m = self.m
        kinds: dict[str, Callable[[], str]] = {
            "rows": lambda: m.weight(channels, DEPTH),
            "static": lambda: m.weight(channels, DEPTH),
            "sparse": lambda: m.sparse("unstructured", 0.1, channels, DEPTH),
            "four": lambda: m.grouped(channels, DEPTH, 8),
            "affine": lambda: m.grouped(channels, DEPTH, 8, affine=True),
            "two": lambda: m.grouped(channels, DEPTH, 8, bits=2, offsets="float16"),
            "three": lambda: m.grouped(channels, DEPTH, 8, bits=3, scales="float32"),
            "eight": lambda: m.grouped(channels, DEPTH, 8, bits=8),
            "groups of eight": lambda: m.weight(channels, DEPTH),
            "groups of four": lambda: m.grouped(channels, DEPTH, 8, offsets="float32"),
        }
        return kinds[self.kind]()

    def layer(self, channels: int, **attrs: object) -> str:
        m = self.m
        if self.kind == "float":
            return m.node("linear", *self.inputs, m.floats(channels, DEPTH), **attrs)
        if self.kind == "float with bias":
            return m.node("linear", *self.inputs, m.floats(channels, DEPTH), m.floats(channels), **attrs)
        multiplier = m.constant(m.rng.uniform(0.01, 0.1, channels).astype(np.float32))
        return m.node(
            "quantized_linear", *self.inputs, self.weight(channels), multiplier, m.floats(channels), *self.rows,
            **{**self.attrs, **attrs},
        )  # fmt: skip


KINDS = ["float", "float with bias", "static", "rows", "sparse", "four", "affine", "two", "three", "eight",
         "groups of eight", "groups of four"]  # fmt: skip


def products(graph: Graph, isa: str | None = None) -> list[int]:
    """Of how many layers each product is."""
    nodes = Session(graph, isa=isa, threads=1).nodes()
    return [row["node"].count(" + ") + 1 for row in nodes if row["op"] in ("linear", "quantized_linear")]


def same_as_alone(m: Maker, y: str, layers: Sequence[str], batch: int) -> None:
    """What a caller takes is not merged: the same bits."""
    merged, alone = m.graph(y), m.graph(y, *layers)
    assert products(alone) == [1] * len(layers)
    given = feeds(merged, {"batch": batch})
    for isa, threads in PLACES:
        expected = Session(alone, isa=isa, threads=threads).run(**given)[:1]
        assert same(Session(merged, isa=isa, threads=threads).run(**given), expected), (isa, threads)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(data=st.data())
def test_sums_of_layers(kind: str, data: st.DataObject) -> None:
    m = Maker(data.draw(st.integers(0, 99)), BATCH)
    layers, channels = Layers(m, kind), data.draw(st.integers(1, 70))
    made = [layers.layer(channels) for _ in range(data.draw(st.integers(2, 4)))]
    y = made[0]
    for each in made[1:]:
        y = m.node("add", y, m.node("unary", each, kind="tanh"))
    assert products(m.graph(y)) == [len(made)]
    batch = data.draw(st.integers(1, 9))
    check(m.graph(y), {"batch": batch})
    same_as_alone(m, y, made, batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_gates(kind: str, first: bool) -> None:
    m = Maker(3, BATCH)
    layers = Layers(m, kind)
    gate, up = layers.layer(2100), layers.layer(2100)  # more than goes through the function at a time
    opened = m.node("unary", gate, kind="silu")
    y = m.node("mul", *((opened, up) if first else (up, opened)))
    nodes = Session(m.graph(y), threads=1).nodes()
    assert products(m.graph(y)) == [2]
    assert "unary" not in [row["op"] for row in nodes]
    check(m.graph(y), {"batch": 2})
    same_as_alone(m, y, [gate, up], 2)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_of_attention(kind: str) -> None:
    m = Maker(4, BATCH)
    layers = Layers(m, kind)
    made = [layers.layer(channels) for channels in (48, 24, 24)]
    heads = [m.node("transpose", m.node("reshape", each, shape=("batch", 3, count, 12)), perm=(0, 2, 1, 3))
             for each, count in zip(made, (4, 2, 2), strict=True)]  # fmt: skip
    y = m.node("attention", *heads, scale=0.3)
    assert products(m.graph(y)) == [3]
    rows = Session(m.graph(y), threads=1).profile(**feeds(m.graph(y), {"batch": 5}), repeats=1).rows
    assert not {"layout", "transpose", "slice"} & {row.op for row in rows}
    check(m.graph(y), {"batch": 5})
    same_as_alone(m, y, made, 5)


def test_a_profile_speaks_of_single_layers() -> None:
    m = Maker(5, BATCH)
    layers = Layers(m, "rows")
    y = m.node("mul", m.node("unary", layers.layer(30), kind="exp"), layers.layer(30))
    graph = m.graph(y)
    rows = Session(graph, threads=1).profile(**feeds(graph, {"batch": 4}), repeats=1).rows
    shares = {row.node: row for row in rows if row.op == "quantized_linear"}
    assert set(shares) == {node.name for node in graph if node.op == "quantized_linear"}
    assert all(row.operations == 2 * 4 * 3 * 30 * DEPTH for row in shares.values())


def test_layers_that_stay_alone() -> None:
    def is_alone(make: Callable[[Maker, Layers], str]) -> bool:
        m = Maker(6, BATCH)
        graph = m.graph(make(m, Layers(m, "rows")))
        check(graph, {"batch": 3})
        return products(graph) == [1, 1]

    def unlike(m: Maker, layers: Layers) -> str:
        return m.node("add", layers.layer(8), layers.layer(8, max=1.0))

    def other_form(m: Maker, layers: Layers) -> str:
        a = layers.layer(8)
        layers.kind = "four"
        return m.node("add", a, layers.layer(8))

    def whole(m: Maker, layers: Layers) -> str:
        return m.node("add", *(m.node("softmax", layers.layer(8), axis=2) for _ in range(2)))

    def residual(m: Maker, layers: Layers) -> str:
        a = layers.layer(8)
        (codes, _, *rest), more = layers.m.made.nodes[-1].inputs, {"residual_multiplier": 0.5}
        added = m.node("quantize", a, scale=0.1, zero_point=100)
        b = m.node("quantized_linear", codes, m.weight(8, DEPTH), *rest[:2], added, *rest[3:], **more, output="f32")
        return m.node("add", m.node("unary", b, kind="tanh"), a)

    def one_weight(m: Maker, layers: Layers) -> str:
        a = layers.layer(8)
        return m.node("add", a, m.node("quantized_linear", *m.made.nodes[-1].inputs, **m.made.nodes[-1].attrs))

    for make in (unlike, other_form, whole, residual, one_weight):
        assert is_alone(make), make.__name__
