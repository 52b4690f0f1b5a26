"""From float graphs to integer graphs: what is decided, what is emitted, and how far the answers are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace as change
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import BATCH, PAD1, Maker
from lowbit.errors import CalibrationError
from lowbit.graph.ir import Array, Graph, Weight
from lowbit.ops.interpreter import run, validate
from lowbit.passes.fuse_residual import fuse_residual
from lowbit.quantization.cost import Costs
from lowbit.quantization.quantize import quantize
from lowbit.quantization.quantizer import Quantized, Quantizer
from lowbit.quantization.rates import RATES
from lowbit.quantization.schemes import Rules, Scheme, rules
from lowbit.runtime.session import Session
from passes.cheap import cheap_conversions
from passes.same import ops
from passes.textbook import simulate

INT8 = Scheme(name="int8")
PLAIN = Scheme(name="plain", equalize=False, correct_bias=False, compensate=False)


@pytest.fixture(autouse=True)
def _cheap_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small graphs are worth quantizing here."""
    cheap_conversions(monkeypatch, dynamic=0.08)


def data(graph: Graph, batches: int = 2, size: int = 4, seed: int = 5) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)

    def batch() -> dict[str, Array]:
        shapes = {name: [size, *graph.values[name].shape[1:]] for name in graph.inputs}
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}  # type: ignore[arg-type]

    return [batch() for _ in range(batches)]


def static(graph: Graph, scheme: Scheme | Rules = INT8, **options: Any) -> Quantized:
    return quantize(validate(graph), scheme=scheme, calibration=data(graph), **options)


def sqnr(graph: Graph, made: Quantized, seed: int = 99) -> float:
    """The worst output's, on data that calibration has not seen."""
    feeds = data(graph, 1, 6, seed)[0]
    return decibels(run(graph, feeds), run(made.graph, feeds))


def decibels(expected: dict[str, Array], found: dict[str, Array]) -> float:
    """The worst output's ratio of signal to noise."""
    ratios = []
    for name, signal in expected.items():
        assert found[name].dtype == signal.dtype == np.float32
        noise = float(np.square(found[name].astype(np.float64) - signal).sum())
        ratios.append(10 * np.log10(float(np.square(signal.astype(np.float64)).sum()) / max(noise, 1e-30)))
    return min(ratios)


def decisions(made: Quantized) -> dict[str, str]:
    return {decision.node: decision.scheme for decision in made.decisions}


def residual_net() -> Graph:
    m = Maker(1, BATCH)
    x = m.input("x", "batch", 3, 12, 12)
    stem = m.node("conv2d", x, m.floats(16, 3, 3, 3, scale=0.2), m.floats(16), padding=PAD1, activation_min=0.0)
    pooled = m.node("max_pool2d", stem, kernel=(2, 2), stride=(2, 2))
    y = m.node(
        "conv2d", pooled, m.floats(32, 16, 1, 1, scale=0.3), m.floats(32), activation_min=0.0, activation_max=6.0
    )
    y = m.node("conv2d", y, m.floats(32, 1, 3, 3, scale=0.4), m.floats(32), padding=PAD1, groups=32, activation_min=0.0)
    y = m.node("conv2d", y, m.floats(16, 32, 1, 1, scale=0.2), m.floats(16))
    y = m.node("clip", m.node("add", y, pooled), min=0.0)
    y = m.node("adaptive_avg_pool2d", y, output_size=(1, 1))
    y = m.node("reshape", y, shape=("batch", 16))
    return m.graph(m.node("linear", y, m.floats(10, 16), m.floats(10)))


def test_a_residual_net_is_integer_from_end_to_end() -> None:
    graph = residual_net()
    made = static(graph)
    assert ops(made.graph) == {
        "quantize": 1,
        "quantized_conv2d": 4,
        "max_pool2d": 1,
        "quantized_adaptive_avg_pool2d": 1,
        "reshape": 1,
        "quantized_linear": 1,
    }
    assert set(decisions(made).values()) == {"int8"}
    last = made.graph.nodes[-1]
    assert last.attrs["output"] == "f32"
    fused = next(node for node in made.graph if len(node.inputs) > 4 and node.inputs[4])
    assert fused.inputs[4] == "v1"
    assert fused.attrs["lo"] == fused.attrs["zero_point_y"] == 0
    assert sqnr(graph, made) > 30


def test_every_coded_value_stands_for_its_float_twin() -> None:
    graph = residual_net()
    made = static(graph)
    feeds = data(graph, 1)[0]
    names = [name for node in made.graph for name in node.outputs if made.graph.values[name].quant is not None]
    found, twins = run(made.graph, feeds, keep=names), {name.removesuffix(".codes") for name in names}
    assert {"x", "v0", "v1"} < twins
    expected = run(made.reference, feeds, keep=[name for name in twins if name != "x"]) | feeds
    for name in names:
        quant = made.graph.values[name].quant
        assert quant is not None
        real = (found[name].astype(np.float64) - float(quant.zero_point)) * float(quant.scale)
        twin = expected[name.removesuffix(".codes")]
        assert np.square(real - twin).sum() < 1e-3 * np.square(twin).sum()


def test_each_refinement_helps_or_does_no_harm() -> None:
    """Depthwise layers behind smooth inputs with a large mean: nearest rounding alone shifts every channel."""
    m = Maker(8, BATCH)
    x = m.input("x", "batch", 8, 10, 10)
    y = m.node("conv2d", x, m.floats(8, 1, 3, 3), m.floats(8), groups=8, activation_min=0.0)
    graph = m.graph(m.node("conv2d", y, m.floats(12, 8, 1, 1), m.floats(12)))
    rng = np.random.default_rng(0)

    def smooth(n: int) -> dict[str, Array]:
        base = rng.uniform(1, 5, (n, 1, 1, 1)) + 0.05 * rng.standard_normal((n, 8, 10, 10))
        return {"x": base.astype(np.float32)}

    calibration, feeds = [smooth(16) for _ in range(3)], smooth(30)
    expected = run(graph, feeds)[graph.outputs[0]]

    def noise(scheme: Scheme) -> float:
        made = quantize(graph, scheme=scheme, calibration=calibration)
        return float(np.square(run(made.graph, feeds)[graph.outputs[0]] - expected).sum())

    plain = noise(PLAIN)
    assert noise(change(PLAIN, compensate=True)) < plain
    assert noise(change(PLAIN, correct_bias=True)) < plain
    assert noise(INT8) < 0.7 * plain


def test_conversion_is_deterministic() -> None:
    a, b = (static(residual_net()) for _ in range(2))
    assert a.decisions == b.decisions
    assert a.graph.nodes == b.graph.nodes
    for name, constant in a.graph.constants.items():
        other = b.graph.constants[name]
        if isinstance(constant, Weight):
            assert isinstance(other, Weight)
            np.testing.assert_array_equal(constant.codes, other.codes)
        else:
            np.testing.assert_array_equal(constant, np.asarray(other))


@pytest.mark.parametrize("kind", ["hardswish", "silu", "sigmoid", "gelu", "tanh"])
def test_a_function_between_layers_becomes_the_layers_table(kind: str) -> None:
    m = Maker(2, BATCH)
    x = m.input("x", "batch", 8, 6, 6)
    y = m.node("conv2d", x, m.floats(16, 8, 3, 3, scale=0.3), m.floats(16))
    graph = m.graph(m.node("conv2d", m.node("unary", y, kind=kind), m.floats(4, 16, 1, 1), m.floats(4)))
    made = static(graph)
    assert ops(made.graph) == {"quantize": 1, "quantized_conv2d": 2}
    table = made.graph.constants[made.graph.nodes[1].inputs[5]]
    assert not isinstance(table, Weight)
    assert table.shape == (256,)
    assert sqnr(graph, made) > 30


@pytest.mark.parametrize("kind", ["leaky_relu", "prelu", "one slope"])
@pytest.mark.parametrize("groups", [1, 16])
def test_slopes_below_zero_belong_to_the_layer(kind: str, groups: int) -> None:
    m = Maker(2, BATCH)
    x = m.input("x", "batch", 16, 24, 24)
    y = m.node("conv2d", x, m.floats(16, 16 // groups, 3, 3, scale=0.3), m.floats(16), groups=groups)
    slope = np.linspace(-0.5, 2, 16 if kind == "prelu" else 1, dtype=np.float32)
    if kind == "leaky_relu":
        y = m.node("unary", y, kind=kind, alpha=0.2)
    else:
        y = m.node("prelu", y, m.constant(slope.reshape(-1, 1, 1)))
    graph = m.graph(m.node("conv2d", y, m.floats(4, 16, 1, 1), m.floats(4)))
    made = static(graph, change(INT8, activations="static"))
    assert ops(made.graph) == {"quantize": 1, "quantized_conv2d": 2}
    expected = np.full(16, 0.2, np.float32) if kind == "leaky_relu" else np.broadcast_to(slope, 16)
    np.testing.assert_array_equal(np.asarray(made.graph.constants[made.graph.nodes[1].inputs[8]]), expected)
    assert sqnr(graph, made) > 30


def test_steep_slopes_are_tables() -> None:
    m = Maker(2, BATCH)
    x = m.input("x", "batch", 16, 24, 24)
    y = m.node("conv2d", x, m.floats(16, 16, 3, 3, scale=0.3), m.floats(16))
    y = m.node("prelu", y, m.constant(np.linspace(0, 17, 16, dtype=np.float32).reshape(-1, 1, 1)))
    made = static(m.graph(m.node("conv2d", y, m.floats(4, 16, 1, 1), m.floats(4))))
    assert ops(made.graph) == {"quantize": 1, "quantized_conv2d": 2, "lookup": 1}


def test_values_with_two_kinds_of_readers() -> None:
    """A value that is returned and read by a layer and by a float op exists in both forms, once each."""
    m = Maker(3, BATCH)
    x = m.input("x", "batch", 16)
    y = m.node("linear", x, m.floats(24, 16, scale=0.2), m.floats(24), activation_min=0.0)
    z = m.node("linear", y, m.floats(8, 24, scale=0.2), m.floats(8))
    graph = m.graph(m.node("softmax", y, axis=-1), z, y, m.node("unary", z, kind="tanh"))
    made = static(graph, Scheme(name="int8", activations="static"))
    assert ops(made.graph) == {"quantize": 1, "quantized_linear": 2, "dequantize": 1, "softmax": 1, "unary": 1}
    assert made.graph.values[y].dtype == "f32"
    assert made.graph.values[f"{y}.codes"].quant is not None
    assert sqnr(graph, made) > 25


def test_pools_adds_concats_and_lookups_stay_in_codes() -> None:
    m = Maker(4, BATCH)
    x = m.input("x", "batch", 4, 8, 8)
    a = m.node("conv2d", x, m.floats(8, 4, 1, 1), m.floats(8))
    b = m.node("conv2d", x, m.floats(8, 4, 1, 1, scale=4.0), m.floats(8))
    c = m.node("conv2d", x, m.floats(8, 4, 1, 1), m.floats(8), activation_min=0.0)
    pooled = m.node("avg_pool2d", c, kernel=(3, 3), stride=(1, 1), padding=PAD1, count_include_pad=1)
    padded = m.node("pad", m.node("slice", b, axis=2, start=1, stop=8), padding=(0, 0, 0, 0, 0, 1, 0, 0), value=0.0)
    added = m.node("clip", m.node("add", pooled, m.node("max_pool2d", c, kernel=(1, 1), stride=(1, 1))), max=3.0)
    squashed = m.node("unary", m.node("add", added, b), kind="tanh")
    joined = m.node("concat", a, padded, squashed, b, axis=1)
    turned = m.node("transpose", joined, perm=(0, 1, 3, 2))
    graph = m.graph(m.node("conv2d", turned, m.floats(6, 32, 1, 1), m.floats(6)))
    made = static(graph, Scheme(name="int8", activations="static"))
    counts = ops(made.graph)
    assert not {"dequantize", "unary", "clip", "add", "avg_pool2d"} & set(counts)
    assert counts["quantize"] == 1
    assert counts["quantized_add"] == 2
    assert sqnr(graph, made) > 25


@pytest.mark.parametrize(("scale", "translations"), [(1.0, 0), (40.0, 1)])
def test_concats_share_a_scale_where_no_range_becomes_much_wider(scale: float, translations: int) -> None:
    m = Maker(6, BATCH)
    x = m.input("x", "batch", 4, 8, 8)
    a = m.node("conv2d", x, m.floats(8, 4, 1, 1), m.floats(8), activation_min=0.0)
    b = m.node("conv2d", a, m.floats(8, 8, 1, 1, scale=0.25 * scale), m.floats(8), activation_min=0.0)
    joined = m.node("concat", a, b, axis=1)  # a is read by b, too
    c = m.node("conv2d", joined, m.floats(8, 16, 1, 1, scale=0.15), m.floats(8), activation_min=0.0)
    again = m.node("concat", a, b, c, axis=1)
    graph = m.graph(m.node("conv2d", again, m.floats(6, 24, 1, 1), m.floats(6)))
    made = static(graph)
    assert ops(made.graph).get("lookup", 0) <= 3 * translations
    assert (ops(made.graph).get("lookup", 0) > 0) == (translations > 0)
    assert sqnr(graph, made) > 25


def test_what_is_float_by_nature_stays_float_with_a_reason() -> None:
    m = Maker(5, BATCH)
    x = m.input("x", "batch", 32)
    y = m.node("linear", x, m.floats(32, 32), m.floats(32))
    y = m.node("softmax", y, axis=-1)
    y = m.node("mul", y, m.constant(np.float32([32.0])))
    graph = m.graph(m.node("linear", y, m.floats(16, 32), m.floats(16)))
    made = static(graph)
    assert decisions(made) == {"n0_linear": "int8", "n1_softmax": "float32", "n2_mul": "float32", "n3_linear": "int8"}
    reasons = {decision.node: decision.reason for decision in made.decisions}
    assert reasons["n1_softmax"] == "has no int8 form"
    assert "times faster by the cost model" in reasons["n0_linear"]
    assert sqnr(graph, made) > 25


def test_a_layer_that_would_be_slower_stays_float(monkeypatch: pytest.MonkeyPatch) -> None:
    costly = dataclasses.replace(RATES["avx512vnni"], node=5000.0)
    monkeypatch.setitem(RATES, "avx512vnni", costly)
    m = Maker(6, BATCH)
    graph = m.graph(m.node("linear", m.input("x", "batch", 4), m.floats(3, 4), m.floats(3)))
    made = static(graph)
    assert ops(made.graph) == {"linear": 1}
    (decision,) = made.decisions
    assert decision.scheme == "float32"
    assert decision.reason.startswith("int8 would be slower by the cost model")
    assert decision.cost_int8_us is not None
    assert decision.cost_float_us is not None
    assert decision.cost_int8_us > decision.cost_float_us
    assert sqnr(graph, made) > 100


@pytest.mark.parametrize("is_static", [True, False])
def test_layers_that_cannot_be_int8_say_why(is_static: bool) -> None:
    m = Maker(7, BATCH)
    x = m.input("x", "batch", 70_000)
    deep = m.node("linear", x, m.constant(np.ones((4, 70_000), np.float32)))
    broken = m.node("linear", x, m.constant(np.full((2, 70_000), np.nan, np.float32)))
    graph = m.graph(deep, broken)
    made = quantize(graph, calibration=data(graph, 1, 2) if is_static else None)
    reasons = [decision.reason for decision in made.decisions]
    assert reasons == ["its sums of 70000 products could pass 32 bits", "its weight or bias holds NaN or infinity"]
    assert ops(made.graph) == {"linear": 2}


def test_without_calibration_layers_find_their_ranges_themselves() -> None:
    graph = residual_net()
    made = quantize(graph)
    counts = ops(made.graph)
    assert counts["dynamic_quantize"] == counts["quantized_conv2d"] + counts["quantized_linear"] > 0
    assert counts["add"] == counts["clip"] == 1
    assert sqnr(graph, made) > 30
    feeds = data(graph, 1, 5)[0]
    whole = run(made.graph, feeds)[graph.outputs[0]]
    for sample in range(5):  # a sample's codes do not depend on its neighbours
        alone = run(made.graph, {"x": feeds["x"][sample : sample + 1]})[graph.outputs[0]]
        np.testing.assert_allclose(alone[0], whole[sample], rtol=1e-6, atol=1e-6)


def test_one_dynamic_range_serves_all_readers_of_its_kind() -> None:
    m = Maker(9, BATCH)
    x = m.input("x", "batch", 6, 16)
    graph = m.graph(m.node("linear", x, m.floats(32, 16)), m.node("linear", x, m.floats(64, 16), activation_min=0.0))
    made = quantize(graph)
    assert ops(made.graph) == {"dynamic_quantize": 1, "quantized_linear": 2}
    assert sqnr(graph, made) > 35


def test_float32_changes_nothing() -> None:
    graph = residual_net()
    made = quantize(graph, scheme="float32", calibration=data(graph))
    assert made.graph is made.reference is graph
    assert set(decisions(made).values()) == {"float32"}


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_range_methods(method: str) -> None:
    graph = residual_net()
    assert sqnr(graph, static(graph, change(INT8, range_method=method))) > 28


def test_constant_and_dead_values() -> None:
    """A value that is always zero, or always the same, must not break a scale."""
    m = Maker(10, BATCH)
    x = m.input("x", "batch", 4, 4, 4)
    dead = m.node("conv2d", x, m.constant(np.zeros((8, 4, 1, 1), np.float32)), m.constant(np.zeros(8, np.float32)))
    same = m.node("conv2d", dead, m.floats(8, 8, 1, 1), m.constant(np.full(8, 3, np.float32)), activation_min=0.0)
    graph = m.graph(m.node("conv2d", same, m.floats(8, 8, 1, 1), m.floats(8)))
    assert sqnr(graph, static(graph)) > 40


def test_calibration_must_hold_something() -> None:
    graph = residual_net()
    infinite, narrow = np.full((1, 3, 12, 12), np.inf, np.float32), np.zeros((1, 3, 12, 11), np.float32)
    for bad in ([], [{"x": infinite}], [{"x": narrow}], iter([{"x": infinite[:0]}])):
        with pytest.raises(CalibrationError):
            quantize(graph, calibration=bad)


def test_progress_names_the_stages() -> None:
    stages: list[str] = []
    static(residual_net(), progress=lambda stage, done, total: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["equalize", "calibrate", "layer inputs"]


def test_tuning_measures() -> None:
    pytest.importorskip("lowbit._core")
    made = static(residual_net(), tune=True, threads=1)
    layers = [decision for decision in made.decisions if decision.cost_int8_us is not None]
    assert len(layers) == 5
    assert all("measured here" in decision.reason for decision in layers)
    for decision in layers:
        assert decision.cost_float_us is not None
        assert decision.scheme in ("int8", "float32")


def test_a_session_gives_the_interpreters_bits() -> None:
    pytest.importorskip("lowbit._core")
    from lowbit.runtime.session import Session

    graph = residual_net()
    made = static(graph)
    feeds = data(graph, 1, 3)[0]
    (found,) = Session(made.graph).run(feeds["x"])
    np.testing.assert_array_equal(found, run(made.graph, feeds)[graph.outputs[0]])


@st.composite
def conv_nets(draw: Callable[..., Any]) -> Graph:
    """Two to five convolutions in a row with random geometry, activations, pools and residual additions."""
    m = Maker(draw(st.integers(0, 10_000)), BATCH)
    channels, size = draw(st.integers(1, 6)), 9
    y = m.input("x", "batch", channels, size, size)
    for _ in range(draw(st.integers(2, 5))):
        kernel = draw(st.sampled_from((1, 3)))
        padding = PAD1 if kernel == 3 else (0, 0, 0, 0)
        depthwise, before = draw(st.booleans()), y
        out = channels if depthwise or draw(st.booleans()) else draw(st.integers(1, 12))
        depth = 1 if depthwise else channels
        bound = draw(st.sampled_from(({}, {"activation_min": 0.0}, {"activation_min": 0.0, "activation_max": 6.0})))
        scale = (depth * kernel * kernel) ** -0.5
        weight, bias = m.floats(out, depth, kernel, kernel, scale=scale), m.floats(out, scale=0.3)
        y = m.node("conv2d", y, weight, bias, padding=padding, groups=channels if depthwise else 1, **bound)
        follow = draw(st.sampled_from(("none", "add", "pool", "hardswish")))
        if follow == "add" and out == channels:
            y = m.node("add", y, before)
        elif follow == "pool":
            y = m.node("max_pool2d", y, kernel=(3, 3), stride=(1, 1), padding=PAD1)
        elif follow == "hardswish":
            y = m.node("unary", y, kind="hardswish")
        channels = out
    return m.graph(m.node("conv2d", y, m.floats(5, channels, 1, 1), m.floats(5)))


@settings(max_examples=40, deadline=None)
@given(conv_nets())
def test_random_nets_keep_as_much_as_a_textbook_quantization(graph: Graph) -> None:
    """A layer whose zero point is off by one loses 5 dB to it. What narrow nets lose by chance, both lose."""
    feeds, fused, samples = data(graph, 1, 6, seed=99)[0], fuse_residual(graph), data(graph)
    plain = static(graph, change(PLAIN, range_method="minmax"))
    assert "quantized_conv2d" in ops(plain.graph)
    expected = run(graph, feeds)
    # Refined ranges fit 8 samples so closely that others may lose more.
    for made, calibration, slack in ((plain, samples, 4.5), (quantize(graph), None, 4.5), (static(graph), samples, 9)):
        least = decibels(expected, simulate(fused, feeds, calibration))
        assert decibels(expected, run(made.graph, feeds)) > min(least, 45) - slack


def test_a_quantizer_learns_once_and_makes_many(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = residual_net()
    read = 0

    class Counted(list[dict[str, Array]]):
        def __iter__(self) -> Any:
            nonlocal read
            read += 1
            return super().__iter__()

    maker = Quantizer(graph, rules("int8"), Counted(data(graph)))
    first = maker.make()
    learnt = read
    layers = [decision.node for decision in first.decisions if decision.op in ("conv2d", "linear")]
    for name in layers:
        made = maker.make({name: "it must be exact"})
        kept = next(decision for decision in made.decisions if decision.node == name)
        assert (kept.scheme, kept.reason) == ("float32", "it must be exact")
        assert sqnr(graph, made) > 20
    again = maker.make()
    assert again.graph.nodes == first.graph.nodes
    assert read - learnt <= 2  # where a value's range depends on who reads it


def test_schemes_by_pattern_reach_ranges_and_weights() -> None:
    graph = residual_net()
    layers = [node.name for node in graph if node.op in ("conv2d", "linear")]
    assert decisions(static(graph, rules({layers[2]: "float32"})))[layers[2]] == "float32"
    mixed = static(graph, rules({layers[0]: change(PLAIN, range_method="minmax"), "*": PLAIN}))
    plain, minmax = static(graph, PLAIN), static(graph, change(PLAIN, range_method="minmax"))

    def scales(made: Quantized) -> dict[str, Any]:
        return {name: value.quant for name, value in made.graph.values.items() if value.quant is not None}

    assert scales(mixed)["x.codes"] == scales(minmax)["x.codes"] != scales(plain)["x.codes"]
    assert scales(mixed)["v3"] == scales(plain)["v3"] != scales(minmax)["v3"]


def test_what_lies_between_layers_works_on_codes() -> None:
    """Gates, sums that broadcast, functions one a channel, resizes and shuffles: no float is left between layers."""
    m = Maker(4, BATCH)

    def conv(x: str, filters: int, depth: int, **attrs: Any) -> str:
        return m.node("conv2d", x, m.floats(filters, depth, 3, 3, scale=0.1), padding=PAD1, **attrs)

    x = conv(m.input("x", "batch", 16, 24, 24), 16, 16)
    y = m.node("prelu", x, m.constant(m.rng.uniform(0, 0.4, (16, 1, 1)).astype(np.float32)))
    gate = m.node("adaptive_avg_pool2d", y, output_size=(1, 1))
    gate = m.node("unary", m.node("conv2d", gate, m.floats(16, 16, 1, 1)), kind="sigmoid")
    y = m.node("mul", y, gate)
    y = m.node("div", m.node("add", y, m.constant(np.float32([3.0]))), m.constant(np.float32([6.0])))
    y = m.node(
        "add", y, m.node("conv2d", m.node("adaptive_max_pool2d", y, output_size=(1, 24)), m.floats(16, 16, 1, 1))
    )
    y = m.node("reshape", y, shape=("batch", 2, 8, 24, 24))
    y = m.node("reshape", m.node("transpose", y, perm=(0, 2, 1, 3, 4)), shape=("batch", 16, 24, 24))
    y = m.node(
        "pad", m.node("resize", y, size=(48, 48), mode="linear"), padding=(0, 0, 0, 0, 1, 1, 1, 1), mode="reflect"
    )
    y = m.node("conv_transpose2d", y, m.floats(8, 16, 2, 2, scale=0.1), stride=(2, 2), activation_min=0.0)
    graph = m.graph(m.node("conv2d", y, m.floats(4, 8, 1, 1)))
    made = static(graph)
    float_ops = {node.op for node in made.graph if made.graph.values[node.outputs[0]].dtype == "f32"}
    assert float_ops == {"quantized_conv2d"}, "the last layer's"
    assert {"quantized_mul", "quantized_add", "lookup", "resize", "quantized_conv_transpose2d"} <= set(ops(made.graph))
    assert sqnr(graph, made) > 25


# ----------------------------------------------------------------------------------------------------- recurrent layers


def recurrent(kind: str, steps: int = 40, hidden: int = 48) -> Graph:
    """A linear layer of the input, and a scan of what it makes."""
    m = Maker(3)
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    x = m.node("linear", m.input("x", steps, 2, 24), m.floats(gates * hidden, 24, scale=0.3), m.floats(gates * hidden))
    attrs = {"kind": "tanh"} if kind == "rnn" else {}
    y, *_ = m.node(kind, x, m.floats(gates * hidden, hidden, scale=0.2), outputs=3 if kind == "lstm" else 2, **attrs)
    return m.graph(y)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_recurrent_layers_multiply_codes(kind: str, calibrated: bool) -> None:
    """Their states' products are of codes, rounded against the states that the data make; or they stay as they were."""
    graph = recurrent(kind)
    seen = [{"x": np.random.default_rng(seed).standard_normal((40, 2, 24)).astype(np.float32)} for seed in range(3)]
    made = quantize(graph, calibration=seen[:2] if calibrated else None, target="avx512vnni")
    assert f"quantized_{kind}" in [node.op for node in made.graph]
    (decision,) = (row for row in made.decisions if row.op == kind)
    assert decision.scheme == "int8"
    assert "times faster by the cost model" in decision.reason
    cost = Costs(graph, target="avx512vnni").scan(next(node for node in graph if node.op == kind))
    assert (decision.cost_int8_us, decision.cost_float_us) == (cost.int8, cost.float32)
    (expected,), (found,) = (Session(each).run(**seen[2]) for each in (graph, made.graph))
    assert np.square(found - expected).sum() < 1e-3 * np.square(expected).sum()
    kept = quantize(graph, scheme={f"*{kind}": "float32", "*": "int8"}, calibration=seen if calibrated else None)
    assert f"quantized_{kind}" not in [node.op for node in kept.graph]


def test_a_recurrent_weight_is_rounded_against_its_states() -> None:
    """Errors of weights cancel on states that move together: less noise than nearest rounding makes."""
    graph = recurrent("lstm")
    seen = [{"x": np.random.default_rng(seed).standard_normal((40, 2, 24)).astype(np.float32)} for seed in range(8)]
    scan = next(node for node in graph if node.op == "lstm")
    noises = []
    for compensate in (True, False):
        alone = Quantizer(graph, rules(change(INT8, compensate=compensate)), seen[:7]).alone(scan.name)
        assert [node.op for node in alone] == ["linear", "quantized_lstm"]
        (expected,), (found,) = (Session(each).run(**seen[7]) for each in (graph, alone))
        noises.append(float(np.square(found - expected).sum()))
    assert noises[0] < 0.8 * noises[1]
