"""The cost model: deterministic, and right about what matters."""

from __future__ import annotations

import pytest

from graphs import BATCH, PAD1, Maker
from lowbit.errors import InputError
from lowbit.graph.ir import Array, Graph, Symbol, Weight
from lowbit.quantization.cost import NOMINAL, Costs, MeasuredCosts, fastest, nominal_sizes, slower_here, target_of
from lowbit.quantization.plan import decide
from lowbit.quantization.rates import RATES
from lowbit.runtime.targets import LEVELS


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
    if not (dynamic and groups > 1):  # depthwise layers with floats as output gain nothing
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
        assert four.int8 < eight.int8
        assert (four.float32, four.to_codes) == (eight.float32, eight.to_codes)
    else:
        assert [op for op in ops if op.startswith("quantized_")] == ["quantized_linear", "quantized_linear"]


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
    monkeypatch.setattr("lowbit.quantization.cost.fastest", lambda seconds: pytest.fail("timed twice"))
    assert costs.layer(graph.nodes[0], dynamic=True) == found


def test_fastest_runs_at_least_a_few_times() -> None:
    calls: list[int] = []
    assert fastest(lambda: calls.append(1) or 7.0 / len(calls), budget=0.0) == pytest.approx(7e6 / 6)
    assert len(calls) == 6


def test_a_target_is_an_instruction_set() -> None:
    assert list(RATES) == list(LEVELS)
    assert target_of("avx2") == "avx2"
    assert target_of() == "avx512vnni"  # tests/conftest.py
    with pytest.raises(InputError, match=r"target must be one of scalar, avx2, avxvnni, avx512vnni.*'neon'"):
        target_of("neon")


@pytest.mark.parametrize("target", RATES)
@pytest.mark.parametrize("groups", [1, 64])
def test_each_target_has_figures_for_all_that_is_counted(target: str, groups: int) -> None:
    graph = layer(64, 28, groups)
    for dynamic in (False, True):
        found = Costs(graph, target=target).layer(graph.nodes[0], dynamic=dynamic)
        assert min(found.int8, found.float32, found.to_codes, found.to_float) > 0


def test_instruction_sets_decide_differently() -> None:
    """A first layer of three channels gains on AVX512-VNNI, and not on AVX2."""
    m = Maker(0, BATCH)
    first = m.node("conv2d", m.input("x", "batch", 3, 224, 224), m.floats(32, 3, 3, 3), m.floats(32), stride=(2, 2))
    costs = {target: Costs(m.graph(first), target=target) for target in ("avx2", "avx512vnni")}
    found = {name: made.layer(made.graph.nodes[0], dynamic=False) for name, made in costs.items()}
    assert found["avx512vnni"].int8 < 0.7 * found["avx512vnni"].float32
    assert found["avx2"].int8 > 0.9 * found["avx2"].float32


@pytest.mark.parametrize(("layers", "coded"), [(1, 0), (3, 3)])
def test_a_layer_that_hardly_gains_spares_its_neighbours_conversions(layers: int, coded: int) -> None:
    """A first layer of three channels on AVX2: behind it are layers on codes, or none."""
    m = Maker(0, BATCH)
    y = m.node("conv2d", m.input("x", "batch", 3, 224, 224), m.floats(32, 3, 3, 3), m.floats(32), stride=(2, 2))
    if layers > 1:
        y = m.node("conv2d", y, m.floats(32, 1, 3, 3), m.floats(32), padding=PAD1, groups=32)
        y = m.node("conv2d", y, m.floats(96, 32, 1, 1), m.floats(96))
    graph = m.graph(y)
    plan = decide(graph, Costs(graph, target="avx2"), static=True, floats={})
    assert len(plan.int8) == coded, [decision.reason for decision in plan.decisions]


def test_layers_that_lose_on_this_machine_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Maker(0, BATCH)
    q = m.node("quantize", m.input("x", "batch", 16), scale=0.1, zero_point=3)
    codes = [m.node("quantized_linear", q, m.weight(n, 16), m.floats(n), m.floats(n), output="f32") for n in (8, 8, 12)]
    four = m.node("quantized_linear", q, m.grouped(24, 16, 8), m.floats(24), m.floats(24), output="f32")
    times = {("quantized_linear", 8): 2.0, ("linear", 8): 1.0, ("quantized_linear", 12): 1.0, ("linear", 12): 1.0}
    times |= {("quantized_linear", 24): 3.0, ("linear", 24): 2.0}
    asked: list[str] = []

    def run(self: MeasuredCosts, op: str, attrs: object, x: Array, weight: Array | Weight, *rest: object) -> float:
        asked.append(op)
        return times[op, weight.shape[0]]

    monkeypatch.setattr(MeasuredCosts, "_run", run)
    graph = m.graph(*codes, four)
    names = [node.name for node in graph if node.op == "quantized_linear"]
    assert slower_here(graph, {"batch": 1}) == {names[0]: (2.0, 1.0), names[1]: (2.0, 1.0), names[3]: (3.0, 2.0)}
    assert len(asked) == 6  # equal layers are timed once
