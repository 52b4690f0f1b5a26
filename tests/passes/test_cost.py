"""The cost model: deterministic, and right about what matters."""

from __future__ import annotations

import pytest

from graphs import BATCH, PAD1, Maker
from lowbit.ir import Graph, Symbol
from lowbit.passes.cost import NOMINAL, Costs, MeasuredCosts, fastest, nominal_sizes


def layer(channels: int, size: int, groups: int = 1) -> Graph:
    m = Maker(0, BATCH)
    x = m.input("x", "batch", channels, size, size)
    weight = m.floats(channels, channels // groups, 3, 3)
    return m.graph(m.node("conv2d", x, weight, m.floats(channels), padding=PAD1, groups=groups))


@pytest.mark.parametrize("groups", [1, 64])
@pytest.mark.parametrize("dynamic", [False, True])
def test_costs_grow_with_the_batch_and_int8_is_cheaper(groups: int, dynamic: bool) -> None:
    graph = layer(64, 28, groups)
    one, eight = (Costs(graph, {"batch": n}).layer(graph.nodes[0], dynamic=dynamic) for n in (1, 8))
    assert one == Costs(graph).layer(graph.nodes[0], dynamic=dynamic)
    for name in ("int8", "float32", "to_codes", "to_float"):
        assert 0 < getattr(one, name) < getattr(eight, name)
    assert one.int8 < one.float32
    static = Costs(graph).layer(graph.nodes[0], dynamic=False)
    assert Costs(graph).layer(graph.nodes[0], dynamic=True).to_codes > static.to_codes


@pytest.mark.parametrize("kind", [Costs, MeasuredCosts])
def test_a_four_bit_row_reads_half_as_much(kind: type[Costs], monkeypatch: pytest.MonkeyPatch) -> None:
    m = Maker(0, BATCH)
    graph = m.graph(m.node("linear", m.input("x", "batch", 1024), m.floats(1024, 1024), m.floats(1024)))
    ops: list[str] = []
    monkeypatch.setattr(MeasuredCosts, "_run", lambda self, op, *rest: ops.append(op) or 1.0)
    eight, four = (kind(graph).layer(graph.nodes[0], dynamic=True, group_size=size) for size in (0, 128))
    if kind is Costs:
        assert 0.5 < four.int8 / eight.int8 < 0.6
        assert (four.float32, four.to_codes) == (eight.float32, eight.to_codes)
    else:
        assert [op for op in ops if op.startswith("linear_")] == ["linear_i8", "linear_i4"]


def test_free_sizes_are_priced_at_one_sample_of_a_usual_length() -> None:
    symbols = {**BATCH, "length": Symbol(minimum=1, maximum=512), "short": Symbol(minimum=1, maximum=9)}
    m = Maker(0, symbols)
    m.input("x", "batch", "length", 8)
    m.input("y", "batch", "short")
    assert nominal_sizes(m.graph()) == {"batch": 1, "length": NOMINAL, "short": 9}
    assert Costs(m.graph(), {"length": 7}).sizes == {"batch": 1, "length": 7, "short": 9}


def test_a_conversion_costs_more_than_a_tiny_layer_gains() -> None:
    graph = layer(2, 3)
    cost = Costs(graph).layer(graph.nodes[0], dynamic=False)
    assert cost.int8 + cost.to_codes > cost.float32


def test_measured_costs_are_times_and_known_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lowbit._core")
    graph = layer(16, 10)
    costs = MeasuredCosts(graph, threads=1)
    for dynamic in (False, True):
        found = costs.layer(graph.nodes[0], dynamic=dynamic)
        assert min(found.int8, found.float32, found.to_codes, found.to_float) > 0
    monkeypatch.setattr("lowbit.passes.cost.fastest", lambda call: pytest.fail("timed twice"))
    assert costs.layer(graph.nodes[0], dynamic=True) == found


def test_fastest_runs_at_least_a_few_times() -> None:
    calls: list[int] = []
    assert fastest(lambda: calls.append(1), budget=0.0) >= 0
    assert len(calls) == 6
